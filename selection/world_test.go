// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
)

const (
	ttl   = 15 * time.Minute
	scope = "lb/test"
)

// target is a Target in whatever state a test wants it.
type target struct {
	name    string
	down    atomic.Bool
	full    atomic.Bool
	resting atomic.Bool
	named   *atomic.Int64 // how often any target of the pool was asked its name
}

func (t *target) String() string {
	t.named.Add(1)
	return t.name
}
func (t *target) Healthy() bool { return !t.down.Load() }
func (t *target) Full() bool    { return t.full.Load() }
func (t *target) Resting() bool { return t.resting.Load() }

// pool is a static pool that notes how it is asked.
type pool struct {
	list   []*target
	index  map[string]*target
	named  atomic.Int64
	listed atomic.Int64
}

func newPool(names ...string) *pool {
	p := &pool{index: make(map[string]*target)}
	for _, name := range names {
		p.add(name)
	}
	return p
}

func (p *pool) add(name string) {
	t := &target{name: name, named: &p.named}
	p.list = append(p.list, t)
	p.index[name] = t
}

func (p *pool) remove(names ...string) {
	for _, name := range names {
		delete(p.index, name)
	}
	p.list = slices.DeleteFunc(p.list, func(t *target) bool { return slices.Contains(names, t.name) })
}

func (p *pool) Lookup(identity string) (*target, bool) {
	t, ok := p.index[identity]
	return t, ok
}

func (p *pool) Targets() []*target {
	p.listed.Add(1)
	return p.list
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("10.0.%d.%d:8080", i/256, i%256)
	}
	return names
}

// world is what a decision is made in: a pool, a store and terms.
type world struct {
	t     testing.TB
	pool  *pool
	store *memory.Store
	terms selection.Terms

	// Where a new session goes: the first candidate, unless a test says else.
	assign selection.Placer[*target]
}

var stores atomic.Int64

func openStore(t testing.TB, size int, onFull sessionstore.Fallback) *memory.Store {
	t.Helper()
	store := &memory.Store{
		Name: fmt.Sprintf("test-%d", stores.Add(1)), MaxSessions: size, OnFull: onFull, Persist: "off",
	}
	require.NoError(t, store.Provision(caddy.Context{}))
	require.NoError(t, store.Validate())
	require.NoError(t, store.Start())
	t.Cleanup(func() { require.NoError(t, store.Cleanup()) })
	return store
}

func newWorld(t testing.TB, targets ...string) *world {
	t.Helper()
	return &world{
		t: t, pool: newPool(targets...), store: openStore(t, 1_000_000, sessionstore.FallbackRefuse),
		terms: selection.Terms{
			Scope: scope, TTL: ttl, Mode: selection.Strict,
			MaxErrors: selection.DefaultMaxErrors, OnFull: selection.FullSpill,
		},
		assign: assign(func(candidates []*target) (*target, bool) { return candidates[0], true }),
	}
}

// assign is a placement that a test writes down.
type assign = selection.Assign[*target]

// attempts returns failed attempts at these targets, also of some that are gone.
func (w *world) attempts(names []string) []selection.Attempt[*target] {
	var attempts []selection.Attempt[*target]
	for _, name := range names {
		failed, ok := w.pool.index[name]
		if !ok {
			failed = &target{name: name, named: &w.pool.named}
		}
		attempts = append(attempts, selection.Attempt[*target]{Target: failed})
	}
	return attempts
}

func keyOf(id any) sessionstore.Key { return sessionstore.KeyOf(scope, fmt.Sprint(id)) }

// decide settles a request of the session "alice" in which the tried failed.
func (w *world) decide(tried ...string) selection.Decision[*target] {
	w.t.Helper()
	return w.decideFor(keyOf("alice"), tried...)
}

func (w *world) decideFor(key sessionstore.Key, tried ...string) selection.Decision[*target] {
	w.t.Helper()
	d, err := selection.Decide(w.t.Context(), w.store, key, &w.terms, w.pool, w.attempts(tried), w.assign)
	require.NoError(w.t, err)
	return d
}

// bind begins the session "alice" on a target of the pool.
func (w *world) bind(name string) sessionstore.Session {
	w.t.Helper()
	d, err := selection.Decide(w.t.Context(), w.store, keyOf("alice"), &w.terms, w.pool, nil,
		assign(func([]*target) (*target, bool) { return w.pool.index[name], true }))
	require.NoError(w.t, err)
	require.Equal(w.t, selection.New, d.Outcome)
	return d.Session
}

// bound returns what the store says of the session "alice".
func (w *world) bound() sessionstore.Session {
	w.t.Helper()
	return w.boundTo(keyOf("alice"))
}

func (w *world) boundTo(key sessionstore.Key) sessionstore.Session {
	w.t.Helper()
	s, err := w.store.Get(w.t.Context(), key)
	require.NoError(w.t, err)
	return s
}

// fail notes n errors of the session "alice".
func (w *world) fail(n int) {
	w.t.Helper()
	for range n {
		_, err := w.store.Touch(w.t.Context(), w.bound(), time.Now(), sessionstore.Failed)
		require.NoError(w.t, err)
	}
}

func (w *world) sessions() int {
	w.t.Helper()
	n, err := w.store.Len(w.t.Context())
	require.NoError(w.t, err)
	return n
}

// expect checks a decision; an empty target is none.
func (w *world) expect(d selection.Decision[*target], name string, outcome selection.Outcome, reason selection.Reason) {
	w.t.Helper()
	got := ""
	if d.Target != nil {
		got = d.Target.name
	}
	require.Equal(w.t, name, got, "target")
	require.Equal(w.t, outcome, d.Outcome, "outcome")
	require.Equal(w.t, reason, d.Reason, "reason")
}

// inBubble runs a test in a world of its own with its own clock.
func inBubble(t *testing.T, test func(w *world), targets ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t, targets...)) })
}
