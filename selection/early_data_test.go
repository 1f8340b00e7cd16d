// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

func TestUnprovenSessionIsUsedAndNotChanged(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(w *world)
		tried   []string
		target  string // empty: any but a
		outcome selection.Outcome
		reason  selection.Reason
	}{
		"live":             {target: "a", outcome: selection.Kept},
		"failed in it":     {tried: []string{"a"}, outcome: selection.Spilled, reason: selection.Errors},
		"failed before":    {change: func(w *world) { w.fail(1) }, outcome: selection.Spilled, reason: selection.Errors},
		"down":             {change: func(w *world) { w.pool.index["a"].down.Store(true) }, outcome: selection.Spilled, reason: selection.Down},
		"gone":             {change: func(w *world) { w.pool.remove("a") }, outcome: selection.Spilled, reason: selection.Gone},
		"full":             {change: func(w *world) { w.pool.index["a"].full.Store(true) }, target: "b", outcome: selection.Spilled, reason: selection.Full},
		"gone, norotate":   {change: func(w *world) { w.terms.Mode = selection.NoRotate; w.pool.remove("a") }, outcome: selection.Spilled, reason: selection.Gone},
		"move of the full": {change: func(w *world) { w.terms.OnFull = selection.FullMove; w.pool.index["a"].full.Store(true) }, outcome: selection.Spilled, reason: selection.Full},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.bind("a")
				if test.change != nil {
					test.change(w)
				}
				before := w.bound()
				time.Sleep(time.Minute) // a use would be noted
				d, err := selection.Decide(w.t.Context(), selection.Unproven(w.store), keyOf("alice"), &w.terms, w.pool, w.attempts(test.tried), w.assign)
				require.NoError(w.t, err)
				target := test.target
				if target == "" {
					target = d.Target.name
					require.NotEqual(w.t, "a", target)
				}
				w.expect(d, target, test.outcome, test.reason)
				require.Equal(w.t, before, w.bound())
			}, "a", "b", "c")
		})
	}
}

func TestUnprovenSessionDoesNotBegin(t *testing.T) {
	inBubble(t, func(w *world) {
		never := assign(func([]*target) (*target, bool) {
			w.t.Error("the placement is asked, which may count or set a cookie")
			return nil, false
		})
		decide := func(key sessionstore.Key, terms selection.Terms, store sessionstore.Store) selection.Decision[*target] {
			d, err := selection.Decide(w.t.Context(), store, key, &terms, w.pool, nil, never)
			require.NoError(w.t, err)
			return d
		}
		byHash := w.terms
		byHash.ByHash = true
		seen := make(map[string]bool)
		for i := range 20 {
			key := keyOf(i)
			d := decide(key, w.terms, selection.Unproven(w.store))
			w.expect(d, d.Target.name, selection.None, "")
			require.Zero(w.t, d.Session)
			require.Zero(w.t, w.boundTo(key))
			w.expect(decide(key, byHash, w.store), d.Target.name, selection.New, "")
			seen[d.Target.name] = true

			// The session expires: the next one does not avoid its target, or the two
			// requests would not meet.
			time.Sleep(ttl)
			d = decide(key, w.terms, selection.Unproven(w.store))
			w.expect(d, d.Target.name, selection.None, "")
			w.expect(decide(key, byHash, w.store), d.Target.name, selection.New, selection.Expired)
		}
		require.Len(w.t, seen, 3)
	}, "a", "b", "c")
}
