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

// placing is a search for a target.
type placing[T Target] struct {
	ctx  context.Context //nolint:containedctx // of one call
	pool Pool[T]

	tried []string // failed in this request
	avoid string   // where the session was before

	// begins says that a session begins on the target: not every target that
	// can serve a request takes one.
	begins bool
}

// How unwelcome a target is, from not at all to never.
const (
	spotless = iota
	avoided  // the session was there before
	rested   // it failed a moment ago
	drained  // it is to get no new sessions
	failed   // it failed in this very request
	unusable // it is down or full
)

// place finds a target for a request that has no session, or whose session
// cannot stay where it is. It offers the best targets there are: those without
// a blemish first. A target that is down or full is never offered.
func place[T Target](search placing[T], assign Assign[T]) Decision[T] {
	targets := search.pool.Targets()
	blemishes := make([]int, len(targets))
	reason := Down
	for i, t := range targets {
		var why Reason
		if blemishes[i], why = search.blemish(t); why != "" && why != Down {
			reason = why
		}
	}
	candidates := make([]T, 0, len(targets))
	for level := range unusable {
		for i, t := range targets {
			if blemishes[i] == level {
				candidates = append(candidates, t)
			}
		}
		if len(candidates) == 0 {
			continue
		}
		if t, ok := assign(candidates); ok {
			return Decision[T]{Target: t, Outcome: None}
		}
		candidates = candidates[:0]
	}
	return Decision[T]{Outcome: Refused, Reason: reason}
}

// blemish says how unwelcome a target is, and if it is unusable, why.
func (s *placing[T]) blemish(t T) (int, Reason) {
	if !t.Healthy() {
		return unusable, Down
	}
	if t.Full() {
		return unusable, Full
	}
	if overRate(t) {
		return unusable, Rate
	}
	var bar Reason
	if g, ok := s.pool.(gate[T]); ok {
		bar = g.Bars(s.ctx, t)
	}
	identity := t.String()
	switch {
	case bar != "" && bar != Draining && s.begins:
		return unusable, bar
	case slices.Contains(s.tried, identity):
		return failed, ""
	case bar == Draining:
		return drained, ""
	case resting(t):
		return rested, ""
	case s.avoid != "" && identity == s.avoid:
		return avoided, ""
	}
	return spotless, ""
}

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
// has as many places as its weight; the place may be any number.
func pick[T Target](candidates []T, place uint64) T {
	total := uint64(0)
	for _, t := range candidates {
		total += uint64(weight(t))
	}
	place %= total
	for _, t := range candidates {
		w := uint64(weight(t))
		if place < w {
			return t
		}
		place -= w
	}
	return candidates[0]
}

// TwoChoices returns the default placement: of two targets taken at random, by
// their weights, the one with fewer sessions for its weight. It spreads as evenly
// as looking at all of them nearly does, and a target that comes late fills up
// without a stampede.
func TwoChoices[T Target](ctx context.Context, store sessionstore.Store, scope string) Assign[T] {
	return func(candidates []T) (T, bool) {
		first := pick(candidates, rand.Uint64())
		if len(candidates) == 1 {
			return first, true
		}
		others := make([]T, 0, len(candidates)-1)
		for _, t := range candidates {
			if t != first {
				others = append(others, t)
			}
		}
		if len(others) == 0 {
			return first, true
		}
		return fewest(ctx, store, scope, []T{first, pick(others, rand.Uint64())}), true
	}
}

// LeastSessions returns the placement on the target with the fewest sessions for
// its weight; one of them at random where several have as few.
func LeastSessions[T Target](ctx context.Context, store sessionstore.Store, scope string) Assign[T] {
	return func(candidates []T) (T, bool) {
		shuffled := slices.Clone(candidates)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		return fewest(ctx, store, scope, shuffled), true
	}
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
func Random[T Target]() Assign[T] {
	return func(candidates []T) (T, bool) { return pick(candidates, rand.Uint64()), true }
}

// RoundRobin returns the placement on one target after the other, on each as often
// in a round as its weight; next is where the round stands.
func RoundRobin[T Target](next *atomic.Uint64) Assign[T] {
	return func(candidates []T) (T, bool) {
		return pick(candidates, next.Add(1)-1), true
	}
}

// Hash returns the placement by rendezvous hash of the session's key within its
// ttl. Requests without a session are placed at random.
func Hash[T Target](key sessionstore.Key, ttl time.Duration) Assign[T] {
	if key.IsZero() {
		return Random[T]()
	}
	return func(candidates []T) (T, bool) { return byHash(candidates, key, ttl, time.Now()), true }
}
