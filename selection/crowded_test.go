// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection"
)

// crowded is a pool whose targets have as many sessions as they may.
type crowded struct{ *pool }

func (crowded) Bars(context.Context, *target) selection.Reason { return selection.Full }

func TestSessionCountsAsOneOfItsTargetsMany(t *testing.T) {
	for name, happens := range map[string]func(w *world) []string{
		"an error of an earlier request": func(w *world) []string {
			w.fail(1)
			return nil
		},
		"an error of this request": func(w *world) []string {
			w.fail(1)
			return []string{"own"}
		},
		"a rest": func(w *world) []string {
			w.pool.index["own"].resting.Store(true)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.bind("own")
				tried := happens(w)
				decide := func() selection.Decision[*target] {
					d, err := selection.Decide(t.Context(), w.store, keyOf("alice"), &w.terms, crowded{w.pool}, w.attempts(tried), w.assign)
					require.NoError(t, err)
					return d
				}
				w.expect(decide(), "own", selection.Kept, "")
				require.Equal(t, "own", w.bound().Target)
				w.pool.index["own"].down.Store(true)
				require.Equal(t, selection.Refused, decide().Outcome)
			}, "own", "other")
		})
	}
}
