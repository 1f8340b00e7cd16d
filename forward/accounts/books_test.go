// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// shelf is a store that knows which sessions are live.
type shelf struct {
	sessionstore.Store
	live sync.Map // Key to time.Time
	gets atomic.Int64
}

func (s *shelf) Get(_ context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	s.gets.Add(1)
	expires, ok := s.live.Load(key)
	if !ok {
		return sessionstore.Session{}, nil
	}
	return sessionstore.Session{Key: key, Target: "t", Expires: expires.(time.Time)}, nil
}

// ledger is books under test.
type ledger struct {
	t *testing.T
	books
	shelf
	now time.Time
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	return &ledger{t: t, now: time.Unix(1_700_000_000, 0)}
}

func key(id string) sessionstore.Key { return sessionstore.KeyOf(id) }

// claim begins a session of a minute and reports whether it was allowed.
func (l *ledger) claim(account, id string, limit int) bool {
	if !l.reserve(l.t.Context(), &l.shelf, account, key(id), limit, l.now) {
		return false
	}
	l.live.Store(key(id), l.now.Add(time.Minute))
	l.settle(account, key(id), l.now.Add(time.Minute))
	return true
}

func TestAccountHasNoMoreSessionsThanItMay(t *testing.T) {
	l := newLedger(t)
	require.True(t, l.claim("alice", "1", 2))
	require.True(t, l.claim("alice", "2", 2))
	require.False(t, l.claim("alice", "3", 2))
	require.True(t, l.claim("alice", "1", 2), "what it has is no more")
	require.True(t, l.claim("bob", "4", 2), "another account has its own")

	l.now = l.now.Add(time.Minute)
	require.True(t, l.claim("alice", "3", 2), "the others are over")
	require.Len(t, l.byAccount["alice"].entries, 1)
}

func TestClaimThatFailsIsNotCounted(t *testing.T) {
	l := newLedger(t)
	require.True(t, l.reserve(t.Context(), &l.shelf, "alice", key("1"), 1, l.now))
	require.False(t, l.claim("alice", "2", 1), "one is being claimed")
	l.settle("alice", key("1"), time.Time{})
	require.Empty(t, l.byAccount, "nothing is left")
	require.True(t, l.claim("alice", "2", 1))

	// One of two claims of a key fails and the other does not.
	l = newLedger(t)
	require.True(t, l.reserve(t.Context(), &l.shelf, "alice", key("1"), 1, l.now))
	require.True(t, l.claim("alice", "1", 1))
	l.settle("alice", key("1"), time.Time{})
	require.False(t, l.claim("alice", "2", 1), "the key is held")
}

func TestMoveProlongsWhatIsCounted(t *testing.T) {
	l := newLedger(t)
	require.True(t, l.claim("alice", "1", 1))
	l.extend("alice", key("1"), l.now.Add(time.Hour))
	l.live.Store(key("1"), l.now.Add(time.Hour))
	l.extend("alice", key("unknown"), l.now.Add(time.Hour))
	l.now = l.now.Add(30 * time.Minute)
	require.False(t, l.claim("alice", "2", 1))
	l.now = l.now.Add(30 * time.Minute)
	require.True(t, l.claim("alice", "2", 1))
}

func TestSessionsThatEndEarlyAreFoundAtTheLimit(t *testing.T) {
	l := newLedger(t)
	for i := range 10 {
		require.True(t, l.claim("alice", fmt.Sprint(i), 10))
	}
	require.Zero(t, l.gets.Load(), "below the limit nobody looks")
	l.live.Delete(key("3"))
	l.live.Delete(key("7"))
	require.True(t, l.claim("alice", "10", 10))
	require.True(t, l.claim("alice", "11", 10))
	require.Equal(t, int64(10), l.gets.Load())
	for range 100 {
		require.False(t, l.claim("alice", "12", 10))
	}
	require.Equal(t, int64(10), l.gets.Load(), "once a second")
	l.live.Delete(key("1"))
	l.now = l.now.Add(auditInterval)
	require.True(t, l.claim("alice", "12", 10))
}

func TestConcurrentClaimsKeepTheLimit(t *testing.T) {
	l := newLedger(t)
	var wg sync.WaitGroup
	var allowed atomic.Int64
	for i := range 200 {
		for range 2 {
			wg.Go(func() {
				if l.claim("alice", fmt.Sprint(i), 50) {
					allowed.Add(1)
				}
			})
		}
	}
	wg.Wait()
	require.Len(t, l.byAccount["alice"].entries, 50)
	require.Len(t, l.byAccount["alice"].due, 50)
	require.GreaterOrEqual(t, allowed.Load(), int64(50))
	for _, e := range l.byAccount["alice"].entries {
		require.Zero(t, e.pending)
	}
}
