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

func TestLaterBindingIsTheNewerOneWhateverTheClock(t *testing.T) {
	const ahead = 30 * time.Second // of the machine that began the session
	inBubble(t, func(w *world) {
		began := time.Now().Add(ahead)
		old, won, err := w.store.Claim(t.Context(), sessionstore.Session{
			Key: keyOf("alice"), Scope: scope, Target: "own", Created: began, Expires: began.Add(ttl), LastUsed: began,
		})
		require.NoError(t, err)
		require.True(t, won)
		w.fail(1)
		moved := w.decide()
		w.expect(moved, "other", selection.Moved, selection.Errors)
		require.True(t, moved.Session.Created.After(old.Created))

		old.Carried = true
		client := sessionstore.Carried{Store: w.store, Session: old}
		got, err := client.Get(t.Context(), old.Key)
		require.NoError(t, err)
		require.Equal(t, "other", got.Target, "the old cookie does not bring it back")
	}, "own", "other")
}

func TestSessionBeginsInTheMomentInWhichItsKeysLastOneEnded(t *testing.T) {
	inBubble(t, func(w *world) {
		w.bind("own")
		require.NoError(t, w.store.End(t.Context(), keyOf("alice"), time.Time{}))
		w.expect(w.decide(), "own", selection.New, "")
		w.expect(w.decide(), "own", selection.Kept, "")
	}, "own", "other")
}
