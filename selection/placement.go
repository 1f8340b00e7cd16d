// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// place finds a target for a request that has no session, or whose session
// cannot stay on the target it should avoid. It offers the best targets there
// are: those without a blemish first, then the avoided one, then those that
// failed a moment ago, then those that failed in this very request. A target
// that is down or full is never offered.
func place[T Target](pool Pool[T], tried []string, avoid string, assign Assign[T]) Decision[T] {
	targets := pool.Targets()
	usable := make([]T, 0, len(targets))
	reason := Down
	for _, t := range targets {
		switch {
		case !t.Healthy():
		case t.Full():
			reason = Full
		default:
			usable = append(usable, t)
		}
	}
	blemishes := func(t T) int {
		identity := t.String()
		switch {
		case slices.Contains(tried, identity):
			return 3
		case resting(t):
			return 2
		case avoid != "" && identity == avoid:
			return 1
		}
		return 0
	}
	candidates := make([]T, 0, len(usable))
	for level := range 4 {
		for _, t := range usable {
			if blemishes(t) == level {
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

// byHash places a key by rendezvous hash: every process with the same targets
// comes to the same result, and a target that comes or goes changes it for its
// own share of the keys only. The placement ends with the key's ttl window, as
// a session would.
//
// Windows of different keys begin at different times, so that not all clients
// change their target at once.
func byHash[T Target](candidates []T, key sessionstore.Key, ttl time.Duration, now time.Time) T {
	offset := int64(binary.LittleEndian.Uint64(key[8:]) % uint64(ttl))
	window := (now.UnixNano() + offset) / int64(ttl)

	var best T
	var highest uint64
	for i, t := range candidates {
		var digest xxhash.Digest
		digest.Reset()
		_, _ = digest.Write(key[:])
		_, _ = digest.Write(binary.LittleEndian.AppendUint64(nil, uint64(window)))
		_, _ = digest.WriteString(t.String())
		if sum := digest.Sum64(); i == 0 || sum > highest {
			best, highest = t, sum
		}
	}
	return best
}

// TwoChoices returns the default placement: of two targets taken at random, the
// one with fewer sessions. It spreads as evenly as looking at all of them
// nearly does, and a target that comes late fills up without a stampede.
func TwoChoices[T Target](ctx context.Context, store sessionstore.Store, scope string) Assign[T] {
	return func(candidates []T) (T, bool) {
		first := rand.IntN(len(candidates))
		if len(candidates) == 1 {
			return candidates[first], true
		}
		second := rand.IntN(len(candidates) - 1)
		if second >= first {
			second++
		}
		return fewest(ctx, store, scope, []T{candidates[first], candidates[second]}), true
	}
}

// LeastSessions returns the placement on the target with the fewest sessions;
// one of them at random where several have as few.
func LeastSessions[T Target](ctx context.Context, store sessionstore.Store, scope string) Assign[T] {
	return func(candidates []T) (T, bool) {
		shuffled := slices.Clone(candidates)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		return fewest(ctx, store, scope, shuffled), true
	}
}

// fewest returns the first of the targets with the fewest sessions. A store
// that cannot say counts as zero: placing somewhere is better than nowhere.
func fewest[T Target](ctx context.Context, store sessionstore.Store, scope string, targets []T) T {
	best, least := targets[0], -1
	for _, t := range targets {
		n, _ := store.Count(ctx, scope, t.String())
		if least < 0 || n < least {
			best, least = t, n
		}
	}
	return best
}

// Random returns the placement on any target.
func Random[T Target]() Assign[T] {
	return func(candidates []T) (T, bool) { return candidates[rand.IntN(len(candidates))], true }
}

// RoundRobin returns the placement on one target after the other; next is where
// the round stands.
func RoundRobin[T Target](next *atomic.Uint64) Assign[T] {
	return func(candidates []T) (T, bool) {
		return candidates[(next.Add(1)-1)%uint64(len(candidates))], true
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
