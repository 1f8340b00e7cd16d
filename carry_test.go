// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sticky

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
)

// otherMemory is a memory store that is another kind of store: it shares
// nothing with the first one.
type otherMemory struct {
	memory.Store
}

func (*otherMemory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sticky.stores.other", New: func() caddy.Module { return new(otherMemory) }}
}

func (m *otherMemory) StoreName() string { return "carried" }

// carrying is an app with one store, provisioned as Caddy would.
func carrying(t *testing.T, s store) *App {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	a := &App{ctx: ctx, stores: make(map[string]store)}
	p := s.(caddy.Provisioner)
	require.NoError(t, p.Provision(ctx))
	require.NoError(t, a.add(s))
	return a
}

func memoryStore() *memory.Store {
	return &memory.Store{Name: "carried", Persist: "off"}
}

func other() *otherMemory {
	return &otherMemory{Store: memory.Store{Name: "carried-other", Persist: "off"}}
}

func bound(id, target string, created time.Time) sessionstore.Session {
	return sessionstore.Session{
		Key: sessionstore.KeyOf(id), Scope: "lb/shop", Target: target, Created: created, Expires: created.Add(time.Hour),
	}
}

func claimed(t *testing.T, s sessionstore.Store, id, target string) sessionstore.Session {
	t.Helper()
	got, won, err := s.Claim(t.Context(), bound(id, target, time.Now()))
	require.NoError(t, err)
	require.True(t, won)
	return got
}

func requireTarget(t *testing.T, s sessionstore.Store, id, want string) {
	t.Helper()
	got, err := s.Get(t.Context(), sessionstore.KeyOf(id))
	require.NoError(t, err)
	require.Equal(t, want, got.Target, "target of %s", id)
}

func TestSessionsAreCarriedToAStoreOfAnotherKind(t *testing.T) {
	first, second := memoryStore(), other()
	a, b := carrying(t, first), carrying(t, second)
	require.NoError(t, a.startStores())
	for i := range 1000 {
		claimed(t, first, fmt.Sprint("s", i), fmt.Sprint("target", i%3))
	}
	claimed(t, first, "ended", "x")
	require.NoError(t, first.End(t.Context(), sessionstore.KeyOf("ended"), time.Time{}))
	moves := claimed(t, first, "moves", "x")

	require.NoError(t, b.startStores())
	for i := range 1000 {
		requireTarget(t, second, fmt.Sprint("s", i), fmt.Sprint("target", i%3))
	}
	tombstone, err := second.Get(t.Context(), sessionstore.KeyOf("ended"))
	require.NoError(t, err)
	require.False(t, tombstone.Ended.IsZero())

	// Requests of the old configuration are under way still.
	claimed(t, first, "late", "y")
	_, swapped, err := first.Replace(t.Context(), moves, bound("moves", "y", time.Now()))
	require.NoError(t, err)
	require.True(t, swapped)
	require.NoError(t, first.End(t.Context(), sessionstore.KeyOf("s1"), time.Time{}))
	_, won, err := second.Claim(t.Context(), bound("ended", "again", time.Now()))
	require.NoError(t, err)
	require.True(t, won)
	require.NoError(t, a.Stop())
	requireTarget(t, second, "late", "y")
	requireTarget(t, second, "moves", "y")
	requireTarget(t, second, "s1", "")
	requireTarget(t, second, "ended", "again")
	require.NoError(t, a.Cleanup())
	require.NoError(t, first.Cleanup())
	require.NoError(t, b.Stop())
	require.NoError(t, b.Cleanup())
	require.NoError(t, second.Cleanup())
}

// A request may come to the new store before its session does.
func TestSessionWinsOverWhatBeganBeforeItWasCarried(t *testing.T) {
	first, second := memoryStore(), other()
	a, b := carrying(t, first), carrying(t, second)
	require.NoError(t, a.startStores())
	claimed(t, first, "early", "x")
	claimed(t, first, "late", "x")
	begun := time.Now()
	require.NoError(t, second.Start())
	claimed(t, second, "early", "y")
	_, failed, err := carry(t.Context(), first, second, begun)
	require.NoError(t, err)
	require.Zero(t, failed)
	requireTarget(t, second, "early", "x")
	requireTarget(t, second, "late", "x")
	require.NoError(t, a.Stop())
	require.NoError(t, first.Cleanup())
	require.NoError(t, b.Cleanup())
	require.NoError(t, second.Cleanup())
}

func TestFailedLoadHandsItsSessionsBack(t *testing.T) {
	first, second := memoryStore(), other()
	a, b := carrying(t, first), carrying(t, second)
	require.NoError(t, a.startStores())
	claimed(t, first, "before", "x")
	require.NoError(t, b.startStores())
	claimed(t, second, "meanwhile", "y")
	require.NoError(t, b.Stop())
	require.NoError(t, second.Cleanup())
	require.NoError(t, b.Cleanup())
	requireTarget(t, first, "before", "x")
	requireTarget(t, first, "meanwhile", "y")
	require.NoError(t, a.Stop())
	require.NoError(t, first.Cleanup())
	require.NoError(t, a.Cleanup())
}

func TestStoreThatIsTooSmallTakesWhatItCan(t *testing.T) {
	first, second := memoryStore(), other()
	second.MaxSessions = 10
	a, b := carrying(t, first), carrying(t, second)
	require.NoError(t, a.startStores())
	for i := range 100 {
		claimed(t, first, fmt.Sprint("s", i), "x")
	}
	require.NoError(t, b.startStores(), "a reload does not fail over it")
	n, err := second.Len(t.Context())
	require.NoError(t, err)
	require.Equal(t, 10, n)
	require.NoError(t, a.Stop())
	require.NoError(t, first.Cleanup())
	require.NoError(t, b.Stop())
	require.NoError(t, second.Cleanup())
}

func TestCarryingEndsInTime(t *testing.T) {
	first, second := memoryStore(), other()
	a := carrying(t, first)
	b := carrying(t, second)
	require.NoError(t, a.startStores())
	claimed(t, first, "a", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := carry(ctx, first, second, time.Time{}) // never started: its calls wait
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, b.Cleanup(), "never started: hands nothing on")
	require.NoError(t, a.Stop())
	require.NoError(t, first.Cleanup())
}

func TestAppIsListedWhileItRuns(t *testing.T) {
	a := carrying(t, memoryStore())
	b := carrying(t, memoryStore())
	require.NoError(t, a.startStores())
	require.Nil(t, a.other())
	require.Same(t, a, b.other())
	require.NoError(t, b.startStores())
	require.NoError(t, a.Stop())
	require.NoError(t, a.Stop(), "a second one does nothing")
	require.Nil(t, b.other())
	require.NoError(t, b.Stop())
	require.Nil(t, a.other())
	for _, app := range []*App{a, b} {
		require.NoError(t, app.stores["carried"].(caddy.CleanerUpper).Cleanup())
	}
}
