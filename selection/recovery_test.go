// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// outage is a store that may be away, and then knows nothing.
type outage struct {
	sessionstore.Store
	away   bool
	missed time.Time
}

func (s *outage) Get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	if s.away {
		s.missed = time.Now()
		return sessionstore.Session{}, sessionstore.ErrUnavailable
	}
	return s.Store.Get(ctx, key)
}

func (s *outage) Fallback(error) sessionstore.Fallback { return sessionstore.FallbackHash }
func (s *outage) Missed() time.Time                    { return s.missed }

func TestRecoveryMovesNobodyWhoseSessionEndedMeanwhile(t *testing.T) {
	inBubble(t, func(w *world) {
		store := &outage{Store: w.store}
		decide := func(key sessionstore.Key) selection.Decision[*target] {
			d, err := selection.Decide(t.Context(), store, key, &w.terms, w.pool, nil, w.assign)
			require.NoError(t, err)
			return d
		}
		for i := range 60 {
			decide(keyOf(i))
		}
		time.Sleep(ttl)
		store.away = true
		time.Sleep(time.Second)
		during := make([]string, 60)
		for i := range during {
			during[i] = decide(keyOf(i)).Target.name
		}
		store.away = false
		for i, name := range during {
			require.Equal(t, name, decide(keyOf(i)).Target.name)
		}

		// Whose session ended after that is placed elsewhere, as ever.
		time.Sleep(ttl)
		store.missed = time.Now().Add(-time.Second)
		for i, name := range during {
			require.NotEqual(t, name, decide(keyOf(i)).Target.name)
		}
	}, "a", "b", "c")
}
