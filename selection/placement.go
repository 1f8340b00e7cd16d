// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// Placer chooses the targets of new sessions, and of requests without one.
type Placer[T Target] interface {
	// Place chooses one of several targets, all of which may serve a new session.
	// It returns false to choose none of them.
	Place(ctx context.Context, candidates []T) (T, bool)
}

// Assign is a function that is a Placer.
type Assign[T Target] func(candidates []T) (T, bool)

// Place implements Placer.
func (a Assign[T]) Place(_ context.Context, candidates []T) (T, bool) { return a(candidates) }

// byHash places a key by rendezvous hash: every process with the same targets
// comes to the same result, and a target that comes or goes changes it for its
// own share of the keys only. The placement ends with the key's ttl window, as
// a session would.
func byHash[T Target](candidates []T, key sessionstore.Key, ttl time.Duration, now time.Time) T {
	window := HashWindow(key, ttl, now)
	var best T
	highest := math.Inf(-1)
	for i, t := range candidates {
		var digest xxhash.Digest
		digest.Reset()
		_, _ = digest.Write(key[:])
		_, _ = digest.Write(binary.LittleEndian.AppendUint64(nil, uint64(window)))
		_, _ = digest.WriteString(t.String())
		// Of weights that are equal, the highest hash wins; a target of twice the
		// weight gets twice the keys.
		unit := (float64(digest.Sum64()>>12) + 0.5) / (1 << 52) // never 0 nor 1
		if score := -float64(weight(t)) / math.Log(unit); i == 0 || score > highest {
			best, highest = t, score
		}
	}
	return best
}

// HashWindow numbers the window that a placement by hash lasts for. Windows of
// different keys begin at different times, so that not all clients change their
// target at once. The ttl must be positive.
func HashWindow(key sessionstore.Key, ttl time.Duration, now time.Time) int64 {
	offset := int64(binary.LittleEndian.Uint64(key[8:]) % uint64(ttl))
	return (now.UnixNano() + offset) / int64(ttl)
}

// weighty is a Target that gets more than others, or less.
type weighty interface{ Weight() int }

// weight is how much of all there is a target gets, in relation to others.
func weight[T Target](t T) int {
	if w, ok := any(t).(weighty); ok {
		return max(w.Weight(), 1)
	}
	return 1
}

// pick returns the target that stands at a place of the row in which each target
// but one has as many places as its weight; the place may be any number. It
// returns that one if there is no other.
func pick[T Target](candidates []T, place uint64, but T) T {
	total := uint64(0)
	for _, t := range candidates {
		if t != but {
			total += uint64(weight(t))
		}
	}
	if total == 0 {
		return but
	}
	place %= total
	for _, t := range candidates {
		if t == but {
			continue
		}
		w := uint64(weight(t))
		if place < w {
			return t
		}
		place -= w
	}
	return but
}

// twoChoices is the placement of TwoChoices.
type twoChoices[T Target] struct {
	store sessionstore.Store
	scope string
}

// TwoChoices returns the default placement: of two targets taken at random, by
// their weights, the one with fewer sessions for its weight. It spreads as evenly
// as looking at all of them nearly does, and a target that comes late fills up
// without a stampede.
func TwoChoices[T Target](store sessionstore.Store, scope string) Placer[T] {
	return twoChoices[T]{store, scope}
}

// Place implements Placer.
func (p twoChoices[T]) Place(ctx context.Context, candidates []T) (T, bool) {
	var none T
	first := pick(candidates, rand.Uint64(), none)
	second := pick(candidates, rand.Uint64(), first)
	if first == second {
		return first, true
	}
	return fewest(ctx, p.store, p.scope, []T{first, second}), true
}

func (twoChoices[T]) draws() int     { return 2 }
func (twoChoices[T]) draw(n int) int { return rand.IntN(n) }

// LeastSessions returns the placement on the target with the fewest sessions for
// its weight; one of them at random where several have as few.
func LeastSessions[T Target](store sessionstore.Store, scope string) Placer[T] {
	return leastSessions[T]{store, scope}
}

type leastSessions[T Target] struct {
	store sessionstore.Store
	scope string
}

// Place implements Placer.
func (p leastSessions[T]) Place(ctx context.Context, candidates []T) (T, bool) {
	shuffled := slices.Clone(candidates)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	return fewest(ctx, p.store, p.scope, shuffled), true
}

// fewest returns the first of the targets with the fewest sessions for their
// weight, the one that begins included. A store that cannot say counts as zero: placing somewhere is better
// than nowhere.
func fewest[T Target](ctx context.Context, store sessionstore.Store, scope string, targets []T) T {
	best, least := targets[0], -1.0
	for _, t := range targets {
		n, _ := store.Count(ctx, scope, t.String())
		if load := float64(n+1) / float64(weight(t)); least < 0 || load < least {
			best, least = t, load
		}
	}
	return best
}

// Random returns the placement on any target, by their weights.
func Random[T Target]() Placer[T] { return random[T]{} }

type random[T Target] struct{}

// Place implements Placer.
func (random[T]) Place(_ context.Context, candidates []T) (T, bool) {
	var none T
	return pick(candidates, rand.Uint64(), none), true
}

func (random[T]) draws() int     { return 1 }
func (random[T]) draw(n int) int { return rand.IntN(n) }

// Round is where a round robin stands. The zero value is ready for use.
type Round struct {
	// Places in the list of the candidates and places in the pool are counted
	// apart. Otherwise the draws of a request that finds no target would let the
	// next one skip candidates, and some would never be reached.
	listed, drawn atomic.Uint64
}

// RoundRobin returns the placement on one target after the other, on each as often
// in a round as its weight.
func RoundRobin[T Target](round *Round) Placer[T] { return roundRobin[T]{round} }

type roundRobin[T Target] struct{ round *Round }

// Place implements Placer.
func (p roundRobin[T]) Place(_ context.Context, candidates []T) (T, bool) {
	var none T
	return pick(candidates, p.round.listed.Add(1)-1, none), true
}

func (roundRobin[T]) draws() int       { return 1 }
func (p roundRobin[T]) draw(n int) int { return int((p.round.drawn.Add(1) - 1) % uint64(n)) }

// Hash returns the placement by rendezvous hash of the session's key within its
// ttl. Requests without a session are placed at random.
func Hash[T Target](key sessionstore.Key, ttl time.Duration) Placer[T] {
	if key.IsZero() {
		return Random[T]()
	}
	return Assign[T](func(candidates []T) (T, bool) { return byHash(candidates, key, ttl, time.Now()), true })
}
