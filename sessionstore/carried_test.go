// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// away is a store that may be unavailable.
type away struct {
	sessionstore.Store
	away bool
}

func (s *away) Get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	if s.away {
		return sessionstore.Session{}, sessionstore.ErrUnavailable
	}
	return s.Store.Get(ctx, key)
}

func (s *away) Claim(ctx context.Context, session sessionstore.Session) (sessionstore.Session, bool, error) {
	if s.away {
		return sessionstore.Session{}, false, sessionstore.ErrUnavailable
	}
	return s.Store.Claim(ctx, session)
}

func (s *away) Replace(ctx context.Context, old, next sessionstore.Session) (sessionstore.Session, bool, error) {
	if s.away {
		return sessionstore.Session{}, false, sessionstore.ErrUnavailable
	}
	return s.Store.Replace(ctx, old, next)
}

// carrying is the store as a client sees it that carries s.
func carrying(store sessionstore.Store, s sessionstore.Session) *sessionstore.Carried {
	s.Carried = true
	return &sessionstore.Carried{Store: store, Session: s}
}

func get(t *testing.T, store sessionstore.Store, key sessionstore.Key) sessionstore.Session {
	t.Helper()
	s, err := store.Get(t.Context(), key)
	require.NoError(t, err)
	return s
}

func TestCarriedSessionEntersTheStoreWhenItComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, 10)
		s := binding("a", "x")
		m.Issue(s)
		require.Zero(t, get(t, m, s.Key))
		time.Sleep(time.Minute)
		c := carrying(m, s)
		require.True(t, get(t, c, s.Key).Same(s))
		require.False(t, c.Unstored)
		require.True(t, get(t, m, s.Key).Same(s))
		n, err := m.Count(t.Context(), s.Scope, s.Target)
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
}

func TestStoreOverrulesWhatIsCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, 10)
		old := binding("a", "x")
		_, _, err := m.Claim(t.Context(), old)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		moved, _, err := m.Replace(t.Context(), old, binding("a", "y"))
		require.NoError(t, err)
		require.True(t, get(t, carrying(m, old), old.Key).Same(moved), "it moved since")

		time.Sleep(time.Minute)
		require.NoError(t, m.End(t.Context(), old.Key, time.Time{}))
		require.False(t, get(t, carrying(m, moved), old.Key).Live(time.Now()), "it was ended since")
		require.False(t, get(t, carrying(m, old), old.Key).Live(time.Now()))

		time.Sleep(time.Minute)
		next := binding("a", "z")
		require.True(t, get(t, carrying(m, next), old.Key).Same(next), "it began after that")
	})
}

func TestNewerBindingOfAnotherMachineIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, 10)
		old := binding("a", "x")
		_, _, err := m.Claim(t.Context(), old)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		newer := binding("a", "y")
		require.True(t, get(t, carrying(m, newer), old.Key).Same(newer))
		require.True(t, get(t, carrying(m, old), old.Key).Same(newer), "the older cookie does not bring it back")
	})
}

// forgetful is a store that forgets a session that is over just before it is
// replaced.
type forgetful struct{ sessionstore.Store }

func (s forgetful) Replace(ctx context.Context, old, next sessionstore.Session) (sessionstore.Session, bool, error) {
	time.Sleep(2 * time.Hour)
	return s.Store.Replace(ctx, old, next)
}

func TestNewerBindingIsTakenOverFromAStoreThatForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, 10)
		old := binding("a", "x")
		_, _, err := m.Claim(t.Context(), old)
		require.NoError(t, err)
		time.Sleep(old.Expires.Sub(old.Created))
		newer := binding("a", "y")
		newer.Expires = newer.Created.Add(24 * time.Hour)
		require.True(t, get(t, carrying(forgetful{m}, newer), old.Key).Same(newer))
	})
}

func TestCarriedSessionGoesOnWithoutTheStore(t *testing.T) {
	for name, store := range map[string]func(t *testing.T) sessionstore.Store{
		"full": func(t *testing.T) sessionstore.Store {
			t.Helper()
			m := open(t, 1)
			_, _, err := m.Claim(t.Context(), binding("other", "x"))
			require.NoError(t, err)
			return m
		},
		"away": func(t *testing.T) sessionstore.Store {
			t.Helper()
			return &away{open(t, 10), true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := binding("a", "x")
				c := carrying(store(t), s)
				require.True(t, get(t, c, s.Key).Same(s))
				require.True(t, c.Unstored)

				time.Sleep(time.Minute)
				next := binding("a", "y")
				holder, swapped, err := c.Replace(t.Context(), s, next)
				require.NoError(t, err)
				require.True(t, swapped)
				require.True(t, holder.Same(next))
				require.True(t, c.Unstored, "the client is to carry it")

				holder, won, err := c.Claim(t.Context(), next)
				require.NoError(t, err)
				require.True(t, won)
				require.True(t, holder.Same(next))
			})
		})
	}
}

func TestMoveWhileTheStoreWasAwayIsKnownAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &away{Store: open(t, 10)}
		old := binding("a", "x")
		require.True(t, get(t, carrying(store, old), old.Key).Same(old))
		store.away = true
		time.Sleep(time.Minute)
		next, _, err := carrying(store, old).Replace(t.Context(), old, binding("a", "y"))
		require.NoError(t, err)
		store.away = false
		require.True(t, get(t, carrying(store, next), old.Key).Same(next))
		require.True(t, get(t, store, old.Key).Same(next))
	})
}

func TestWhatIsOverSaysWhereTheClientWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, 10)
		s := binding("a", "x")
		time.Sleep(time.Hour)
		got := get(t, carrying(m, s), s.Key)
		require.Equal(t, "x", got.Target)
		require.False(t, got.Live(time.Now()))
		require.Zero(t, get(t, m, s.Key), "and is not put into the store")

		idle := binding("b", "x")
		idle.MaxIdle, idle.LastUsed = time.Minute, time.Now()
		time.Sleep(time.Minute)
		require.False(t, get(t, carrying(m, idle), idle.Key).Live(time.Now()))
		require.Zero(t, get(t, m, idle.Key))
	})
}
