// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package memory is the session store sticky.stores.memory: it keeps sessions in
// this process.
//
// The table of sessions belongs to the process and not to a configuration, so a
// reload keeps it. A file in Caddy's data directory brings the sessions over a
// restart of the process.
//
// The package shares no sessions with other machines.
package memory

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const defaultMaxSessions = 1_000_000

func init() {
	caddy.RegisterModule(new(Store))
}

// Store keeps sessions in this process. They survive a reload of the
// configuration, also one that changes max_sessions, and by way of a file in
// Caddy's data directory a restart of the process.
type Store struct {
	// The store's name, which policies and proxies choose it by. Stores of the
	// same name share their sessions across reloads. Default: default.
	Name string `json:"name,omitempty"`

	// How many live sessions the store holds at most. A session more is
	// refused, see on_full; a live session is never given up for a new one.
	// Must be positive. A reload that lowers it ends no session. Default:
	// 1000000.
	MaxSessions int `json:"max_sessions,omitempty"`

	// What becomes of a request whose session the store has no room for:
	// refuse answers it with 503, hash places it by rendezvous hash of its
	// session id, which needs no memory and knows no moves. Default: refuse.
	OnFull sessionstore.Fallback `json:"on_full,omitempty"`

	// How often what changed is written to disk, at least 100ms: to
	// sticky/<name>.db in Caddy's data directory. A process that is killed
	// loses the sessions that began since the last time, one that is stopped
	// loses none. off writes nothing, and removes the file, which would go
	// stale. Default: 1s.
	Persist string `json:"persist,omitempty"`

	table   atomic.Pointer[table]
	started *sessionstore.Latch
	stop    sync.Once
}

// CaddyModule returns the Caddy module information.
func (*Store) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sticky.stores.memory",
		New: func() caddy.Module { return new(Store) },
	}
}

// Provision sets defaults. It takes nothing: Start does.
func (m *Store) Provision(caddy.Context) error {
	m.started = sessionstore.NewLatch()
	if m.Name == "" {
		m.Name = "default"
	}
	if m.MaxSessions == 0 {
		m.MaxSessions = defaultMaxSessions
	}
	if m.OnFull == "" {
		m.OnFull = sessionstore.FallbackRefuse
	}
	return nil
}

// Validate refuses settings without a meaning.
func (m *Store) Validate() error {
	if err := sessionstore.CheckName(m.Name); err != nil {
		return fmt.Errorf("store memory: %w", err)
	}
	if m.MaxSessions < 0 {
		return fmt.Errorf("store memory %q: max_sessions is %d, it must be positive", m.Name, m.MaxSessions)
	}
	if m.OnFull != sessionstore.FallbackRefuse && m.OnFull != sessionstore.FallbackHash {
		return fmt.Errorf("store memory %q: on_full %q is unknown (have refuse, hash)", m.Name, m.OnFull)
	}
	if _, err := persistInterval(m.Persist); err != nil {
		return fmt.Errorf("store memory %q: %w", m.Name, err)
	}
	return nil
}

// StoreName returns the name that policies and proxies choose the store by.
func (m *Store) StoreName() string { return m.Name }

// Fallback implements sessionstore.Store.
func (m *Store) Fallback(err error) sessionstore.Fallback {
	if errors.Is(err, sessionstore.ErrFull) {
		return m.OnFull
	}
	return sessionstore.FallbackRefuse
}

// Missed implements sessionstore.Store.
func (m *Store) Missed() time.Time {
	t := m.table.Load()
	if t == nil || t.refused.Load() == 0 {
		return time.Time{}
	}
	return time.Unix(0, t.refused.Load())
}

// Start takes the table of this name, which may exist since an earlier
// configuration, and gives it this configuration's settings. Calls that wait
// go on.
func (m *Store) Start() error {
	shared, err := acquire(m)
	if err != nil {
		return fmt.Errorf("store memory %q: %w", m.Name, err)
	}
	m.table.Store(shared.table)
	m.started.Open(nil)
	return nil
}

// Cleanup gives the table back. The settings of the configuration that is left
// apply again; with the last one the table is closed.
func (m *Store) Cleanup() error {
	var err error
	m.stop.Do(func() {
		if m.started != nil {
			m.started.Open(sessionstore.ErrClosed)
		}
		if m.table.Load() != nil {
			err = release(m)
		}
	})
	return err
}

// opened returns the table. It waits for Start, within limits.
func (m *Store) opened(ctx context.Context) (*table, error) {
	if t := m.table.Load(); t != nil {
		return t, nil
	}
	if err := m.started.Wait(ctx); err != nil {
		return nil, err
	}
	return m.table.Load(), nil
}

// Get implements sessionstore.Store.
func (m *Store) Get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	t, err := m.opened(ctx)
	if err != nil {
		return sessionstore.Session{}, err
	}
	return t.get(ctx, key)
}

// Claim implements sessionstore.Store.
func (m *Store) Claim(ctx context.Context, s sessionstore.Session) (sessionstore.Session, bool, error) {
	t, err := m.opened(ctx)
	if err != nil {
		return sessionstore.Session{}, false, err
	}
	return t.claim(ctx, s, time.Now())
}

// Replace implements sessionstore.Store.
func (m *Store) Replace(ctx context.Context, old, next sessionstore.Session) (sessionstore.Session, bool, error) {
	t, err := m.opened(ctx)
	if err != nil {
		return sessionstore.Session{}, false, err
	}
	return t.replace(ctx, old, next, time.Now())
}

// Touch implements sessionstore.Store.
func (m *Store) Touch(ctx context.Context, s sessionstore.Session, now time.Time, use sessionstore.Use) (int, error) {
	t, err := m.opened(ctx)
	if err != nil {
		return s.Errors, err
	}
	return t.touch(s, now, use)
}

// End implements sessionstore.Store.
func (m *Store) End(ctx context.Context, key sessionstore.Key, until time.Time) error {
	t, err := m.opened(ctx)
	if err != nil {
		return err
	}
	return t.endSession(ctx, key, time.Now(), until)
}

// Issue implements sessionstore.Store.
func (m *Store) Issue(s sessionstore.Session) {
	if t := m.table.Load(); t != nil {
		t.place(s.Scope, s.Target).issued.Add(s)
	}
}

// All implements sessionstore.Store.
func (m *Store) All(ctx context.Context) iter.Seq2[sessionstore.Session, error] {
	t, err := m.opened(ctx)
	if err != nil {
		return func(yield func(sessionstore.Session, error) bool) { yield(sessionstore.Session{}, err) }
	}
	return t.all(ctx)
}

// Count implements sessionstore.Store.
func (m *Store) Count(ctx context.Context, scope, target string) (int, error) {
	t, err := m.opened(ctx)
	if err != nil {
		return 0, err
	}
	p, ok := t.places.Load(placeKey{scope, target})
	if !ok {
		return 0, nil
	}
	at := p.(*place)
	return int(at.count.Load()) + at.issued.Sum(time.Now()), nil
}

// Len implements sessionstore.Store.
func (m *Store) Len(ctx context.Context) (int, error) {
	t, err := m.opened(ctx)
	if err != nil {
		return 0, err
	}
	return int(t.live.Load()), nil
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store memory {
//		name         <name>
//		max_sessions <n>
//		on_full      refuse|hash
//		persist      <interval>|off
//	}
func (m *Store) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's kind
	if d.NextArg() {
		return d.ArgErr()
	}
	return directive.Block(d, "store memory", directive.Options{
		"name":         directive.String(&m.Name),
		"max_sessions": directive.Int(&m.MaxSessions),
		"on_full":      directive.String(&m.OnFull),
		"persist":      directive.String(&m.Persist),
	})
}

// sharedTable is a table with the configurations that use it, oldest first.
type sharedTable struct {
	table *table

	mu     sync.Mutex
	owners []*Store
}

// Destruct closes the table; the pool calls it when nobody uses it any more.
func (s *sharedTable) Destruct() error {
	s.table.close()
	return nil
}

// tables keeps sessions across reloads: it maps a store's name to its
// *sharedTable. Written at Start and Cleanup only.
var tables = caddy.NewUsagePool()

func acquire(m *Store) (*sharedTable, error) {
	value, _, err := tables.LoadOrNew(m.Name, func() (caddy.Destructor, error) {
		t, err := newTable(m.MaxSessions)
		if err != nil {
			return nil, err
		}
		return &sharedTable{table: t}, nil
	})
	if err != nil {
		return nil, err
	}
	shared := value.(*sharedTable)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.owners = append(shared.owners, m)
	shared.applyLocked()
	return shared, nil
}

func release(m *Store) error {
	tables.Range(func(key, value any) bool {
		if key != m.Name {
			return true
		}
		shared := value.(*sharedTable)
		shared.mu.Lock()
		defer shared.mu.Unlock()
		shared.owners = slices.DeleteFunc(shared.owners, func(o *Store) bool { return o == m })
		shared.applyLocked()
		return false
	})
	_, err := tables.Delete(m.Name)
	return err
}

// applyLocked gives the table the settings of its newest owner.
func (s *sharedTable) applyLocked() {
	if len(s.owners) == 0 {
		return
	}
	newest := s.owners[len(s.owners)-1]
	s.table.limit.Store(int64(newest.MaxSessions))
	interval, _ := persistInterval(newest.Persist) // see Validate
	j := s.table.journal.Load()
	switch {
	case interval > 0 && j == nil:
		s.table.keepIn(filePath(newest.Name), interval)
	case interval > 0:
		j.interval.Store(int64(interval))
	case j != nil:
		j.remove()
		s.table.journal.Store(nil)
	case len(s.owners) == 1:
		if err := removeStale(filePath(newest.Name)); err != nil {
			logger().Warn("the file of sessions, which is not kept up to date any more, was not removed",
				zap.String("file", filePath(newest.Name)), zap.Error(err))
		}
	}
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Store)(nil)
	_ caddy.Validator       = (*Store)(nil)
	_ caddy.CleanerUpper    = (*Store)(nil)
	_ caddyfile.Unmarshaler = (*Store)(nil)
	_ sessionstore.Store    = (*Store)(nil)
)
