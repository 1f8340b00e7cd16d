// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// occupy fills the world's store, which has room for one session.
func (w *world) occupy() {
	w.t.Helper()
	now := time.Now()
	_, won, err := w.store.Claim(w.t.Context(), sessionstore.Session{
		Key: keyOf("occupant"), Scope: scope, Target: "somewhere", Created: now, Expires: now.Add(1000 * time.Hour),
	})
	require.NoError(w.t, err)
	require.True(w.t, won)
}

// fullWorld is a world whose store has no room.
func fullWorld(t testing.TB, onFull sessionstore.Fallback, targets ...string) *world {
	t.Helper()
	w := newWorld(t, targets...)
	w.store = openStore(t, 1, onFull)
	w.occupy()
	return w
}

func TestFullStoreRefusesNewSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fullWorld(t, sessionstore.FallbackRefuse, "a", "b")
		d := w.decide()
		w.expect(d, "", selection.Refused, selection.Full)
		require.Zero(t, d.Session)
		require.Zero(t, w.bound())
		require.Equal(t, 1, w.sessions())
		w.expect(w.decideFor(sessionstore.Key{}), "a", selection.None, "")
	})
}

func TestFullStoreKeepsAndMovesTheSessionsItHas(t *testing.T) {
	for _, onFull := range []sessionstore.Fallback{sessionstore.FallbackRefuse, sessionstore.FallbackHash} {
		t.Run(string(onFull), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "own", "other")
				w.store = openStore(t, 1, onFull)
				w.bind("own")
				w.expect(w.decide(), "own", selection.Kept, "")
				w.fail(1)
				w.expect(w.decide("own"), "other", selection.Moved, selection.Errors)
				time.Sleep(ttl)
				w.expect(w.decide(), "own", selection.New, selection.Expired)
				require.Equal(t, 1, w.sessions())
			})
		})
	}
}

func TestFullStoresAgreeByHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := numbered(10)
		one := fullWorld(t, sessionstore.FallbackHash, names...)
		slices.Reverse(names)
		two := fullWorld(t, sessionstore.FallbackHash, names...)
		used := make(map[string]bool)
		for i := range 200 {
			d := one.decideFor(keyOf(i))
			require.Equal(t, selection.None, d.Outcome)
			require.Equal(t, selection.Full, d.Reason)
			require.Zero(t, d.Session)
			require.Equal(t, d.Target.name, two.decideFor(keyOf(i)).Target.name)
			require.Equal(t, d.Target.name, one.decideFor(keyOf(i)).Target.name)
			used[d.Target.name] = true
		}
		require.Len(t, used, 10, "every target has its share")
		require.Equal(t, 1, one.sessions())
	})
}

func TestFullStoreDoesNotOfferWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fullWorld(t, sessionstore.FallbackHash, numbered(4)...)
		w.pool.list[0].down.Store(true)
		w.pool.list[1].full.Store(true)
		for i := range 50 {
			d := w.decideFor(keyOf(i), w.pool.list[2].name)
			w.expect(d, w.pool.list[3].name, selection.None, selection.Full)
		}
	})
}

// A placement by hash ends with its window, which is one ttl long and begins
// at a time of the key's own.
func TestPlacementByHashEndsWithItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fullWorld(t, sessionstore.FallbackHash, numbered(10)...)
		const keys, steps = 100, 15 // of a minute in each window
		last := make([]string, keys)
		changed := make([][]int, keys)
		for step := range 10 * steps {
			for i := range keys {
				name := w.decideFor(keyOf(i)).Target.name
				if last[i] != "" && last[i] != name {
					changed[i] = append(changed[i], step)
				}
				last[i] = name
			}
			time.Sleep(ttl / steps)
		}
		phases := make(map[int]bool)
		total := 0
		for _, at := range changed {
			for _, step := range at {
				require.Equal(t, at[0]%steps, step%steps, "a change within a window")
				phases[step%steps] = true
			}
			total += len(at)
		}
		require.Greater(t, total, keys*9*8/10, "nine of ten windows lead to another of ten targets")
		require.Greater(t, len(phases), steps/2, "keys change at different times")
	})
}

func TestHashSpreadsEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sessions, targets = 10_000, 10
		p := newPool(numbered(targets)...)
		share := make(map[string]int)
		for i := range sessions {
			got, ok := selection.Hash[*target](keyOf(i), ttl).Place(t.Context(), p.list)
			require.True(t, ok)
			share[got.name]++
		}
		for _, candidate := range p.list {
			// Five standard deviations.
			require.InDelta(t, sessions/targets, share[candidate.name], 150, candidate.name)
		}
	})
}

func TestHashMovesOnlyTheShareOfATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sessions = 2000
		placed := func(p *pool) []string {
			got := make([]string, sessions)
			for i := range got {
				chosen, _ := selection.Hash[*target](keyOf(i), ttl).Place(t.Context(), p.list)
				got[i] = chosen.name
			}
			return got
		}
		p := newPool(numbered(10)...)
		before := placed(p)

		rand.Shuffle(len(p.list), func(i, j int) { p.list[i], p.list[j] = p.list[j], p.list[i] })
		require.Equal(t, before, placed(p), "the order of targets does not matter")

		p.add("late")
		moved := 0
		for i, name := range placed(p) {
			if name != before[i] {
				require.Equal(t, "late", name)
				moved++
			}
		}
		require.InDelta(t, sessions/11, moved, 65, "a newcomer takes its share")

		p.remove("late", "10.0.0.3:8080")
		for i, name := range placed(p) {
			if before[i] != "10.0.0.3:8080" {
				require.Equal(t, before[i], name)
			}
		}
	})
}

func TestHashPlacesRequestsWithoutASessionAtRandom(t *testing.T) {
	p := newPool(numbered(3)...)
	seen := make(map[string]bool)
	for range 200 {
		got, ok := selection.Hash[*target](sessionstore.Key{}, ttl).Place(t.Context(), p.list)
		require.True(t, ok)
		seen[got.name] = true
	}
	require.Len(t, seen, 3)
}

func TestTwoChoicesSpreadEvenly(t *testing.T) {
	const sessions, targets = 10_000, 10
	w := newWorld(t, numbered(targets)...)
	w.assign = selection.TwoChoices[*target](w.store, scope)
	for i := range sessions {
		require.Equal(t, selection.New, w.decideFor(keyOf(i)).Outcome)
	}
	for _, candidate := range w.pool.list {
		n, err := w.store.Count(t.Context(), scope, candidate.name)
		require.NoError(t, err)
		require.LessOrEqual(t, n, sessions/targets*13/10, candidate.name)
		require.GreaterOrEqual(t, n, sessions/targets*7/10, candidate.name)
	}
}

func TestTwoChoicesFillALateTarget(t *testing.T) {
	w := newWorld(t, numbered(4)...)
	w.assign = selection.TwoChoices[*target](w.store, scope)
	for i := range 400 {
		w.decideFor(keyOf(i))
	}
	w.pool.add("late")
	late := 0
	for i := range 100 {
		if w.decideFor(keyOf(400+i)).Target.name == "late" {
			late++
		}
	}
	// Two of five choices meet it, and it wins each of them: 40 expected.
	require.InDelta(t, 40, late, 25, "it gets more than its share, and not everything")
}

func TestLeastSessionsTakesTheEmptiest(t *testing.T) {
	w := newWorld(t, numbered(5)...)
	w.assign = selection.LeastSessions[*target](w.store, scope)
	for i := range 500 {
		w.decideFor(keyOf(i))
	}
	for _, candidate := range w.pool.list {
		n, err := w.store.Count(t.Context(), scope, candidate.name)
		require.NoError(t, err)
		require.Equal(t, 100, n, candidate.name)
	}
}

func TestRoundRobinTakesOneAfterTheOther(t *testing.T) {
	p := newPool("a", "b", "c")
	var round selection.Round
	assign := selection.RoundRobin[*target](&round)
	var got []string
	for range 7 {
		chosen, ok := assign.Place(t.Context(), p.list)
		require.True(t, ok)
		got = append(got, chosen.name)
	}
	require.Equal(t, []string{"a", "b", "c", "a", "b", "c", "a"}, got)
}

func TestPlacementTakesTheOnlyTarget(t *testing.T) {
	w := newWorld(t, "only")
	for name, assign := range map[string]selection.Placer[*target]{
		"two choices":    selection.TwoChoices[*target](w.store, scope),
		"least sessions": selection.LeastSessions[*target](w.store, scope),
		"random":         selection.Random[*target](),
		"hash":           selection.Hash[*target](keyOf("alice"), ttl),
	} {
		got, ok := assign.Place(t.Context(), w.pool.list)
		require.True(t, ok, name)
		require.Equal(t, "only", got.name, name)
	}
}
