// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/internal/filewatch"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// Terms is what exits need of those who use them.
type Terms struct {
	Scope       string // of the sessions
	File        string // with further exits, or nothing
	DialTimeout time.Duration
	Logger      *zap.Logger

	// ResponseTimeout is how long the header of a response may take, 0 for no
	// limit.
	ResponseTimeout time.Duration

	// Settle gives an exit what is the user's own, or refuses it.
	Settle func(exits.Exit) error

	// Changed is called when the file was read again; it may be nil.
	Changed func()
}

// Set is the exits of a proxy, those of its configuration and those of its
// file, with what each of them takes.
type Set struct {
	Terms
	ctx        caddy.Context // that modules are loaded with
	store      sessionstore.Store
	configured *Pool
	pool       atomic.Pointer[Pool] // those of the file as well
	watched    *filewatch.File

	mu      sync.Mutex
	members map[*Outlet]func() // to what gives back what it took
}

// Load reads the exits of the configuration and of the file. It takes what they
// need; Close gives that back.
func (s *Set) Load(ctx caddy.Context, list []json.RawMessage, terms Terms) error {
	s.Terms, s.ctx, s.members = terms, ctx, make(map[*Outlet]func())
	if len(list) == 0 && s.File == "" {
		return errors.New("it has no exits: add some, such as exit socks5://berlin.exits.example:1080")
	}
	outlets := make([]*Outlet, 0, len(list))
	for i, raw := range list {
		o, err := s.open(raw)
		if err != nil {
			return fmt.Errorf("exit %d: %w", i+1, err)
		}
		outlets = append(outlets, o)
	}
	var err error
	if s.configured, err = s.newPool(outlets); err != nil {
		return err
	}
	for _, o := range outlets {
		s.admit(o)
	}
	s.pool.Store(s.configured)
	if s.File == "" {
		return nil
	}
	watched, content, err := filewatch.Open(s.File, filewatch.Interval)
	if err != nil {
		return fmt.Errorf("exits_file: %w", err)
	}
	s.watched = watched
	s.read(content)
	return nil
}

// Current returns the exits of this moment.
func (s *Set) Current() *Pool { return s.pool.Load() }

// CountIn says which store counts the sessions of exits.
func (s *Set) CountIn(store sessionstore.Store) { s.store = store }

// String describes the exits as they are configured, in the same words for the
// same ones.
func (s *Set) String() string {
	if s.File == "" {
		return s.configured.String()
	}
	return strings.TrimSpace(s.configured.String() + " exits_file " + s.File)
}

// Watch begins to look whether the file changes. Modules can be loaded still:
// their context lives as long as the configuration.
func (s *Set) Watch() {
	if s.watched != nil {
		s.watched.Watch(s.readAgain)
	}
}

func (s *Set) readAgain(content []byte, err error) {
	log := s.Logger.With(zap.String("file", s.File))
	if err != nil {
		log.Warn("exits file cannot be read: its exits stay as they were", zap.Error(err))
		return
	}
	s.read(content)
	log.Info("exits file read again", zap.Int("exits", len(s.pool.Load().outlets)-len(s.configured.outlets)))
	if s.Changed != nil {
		s.Changed()
	}
}

// read replaces the exits of the file. One that is the same as before stays as
// it is, with its connections.
func (s *Set) read(content []byte) {
	before := s.pool.Load()
	list := append([]*Outlet(nil), s.configured.outlets...)
	taken := make(map[string]bool, len(list))
	for _, o := range list {
		taken[o.name] = true
	}
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		o, err := s.readLine(line, before)
		if err == nil && o != nil && taken[o.name] {
			err = fmt.Errorf("exit %s is given twice", o.name)
		}
		if err != nil {
			s.Logger.Warn("line of the exits file left out",
				zap.String("file", s.File), zap.Int("line", number), zap.Error(err))
			continue
		}
		if o != nil {
			taken[o.name] = true
			list = append(list, o)
		}
	}
	after, err := s.newPool(list)
	if err != nil { // they were compared above
		s.Logger.Error("exits file not used", zap.Error(err))
		return
	}
	for _, o := range list {
		s.admit(o)
	}
	s.pool.Store(after)
	for _, o := range before.outlets {
		if !slices.Contains(list, o) {
			s.dismiss(o)
		}
	}
}

// readLine reads a URL and its options. It returns nothing for an empty line and
// a comment. No error holds a password.
func (s *Set) readLine(line string, before *Pool) (*Outlet, error) {
	line = strings.TrimSpace(strings.TrimPrefix(line, "\ufeff"))
	if line == "" || strings.HasPrefix(line, "#") {
		return nil, nil //nolint:nilnil // a line without an exit
	}
	raw, err := exits.ReadLine(line)
	if err != nil {
		return nil, err
	}
	for _, o := range before.outlets {
		if o.raw == string(raw) {
			return o, nil
		}
	}
	o, err := s.open(raw)
	if err != nil {
		return nil, err
	}
	o.raw = string(raw)
	return o, nil
}

// loading serialises what loads modules when a file has changed: Caddy's contexts
// of one app have a table in common, without a lock.
var loading sync.Mutex

// open loads an exit and makes it what Decide can choose.
func (s *Set) open(raw json.RawMessage) (*Outlet, error) {
	loading.Lock()
	exit, err := exits.Load(s.ctx, raw)
	loading.Unlock()
	if err != nil {
		return nil, err
	}
	if err = s.Settle(exit); err != nil {
		return nil, err
	}
	o := &Outlet{
		Exit: exit, name: exit.Identity(), opts: exits.OptionsOf(exit), gateway: exits.CredentialsOf(exit),
		state: new(exitState), // until it is admitted
	}
	kept := newTransport(s.DialTimeout)
	kept.ResponseHeaderTimeout = s.ResponseTimeout
	exits.Prepare(kept, exit)
	kept.DialContext = spendable(within(s.DialTimeout, kept.DialContext))
	if o.gateway != nil {
		// Each session has connections of its own.
		kept.MaxIdleConns = maxGatewayIdle
	}
	o.transports = newTransports(kept)
	if o.gateway == nil {
		if o.opts.Slots > 0 {
			return nil, errors.New("slots are for a provider's gateway: its URL has {session} in the user or the password")
		}
		o.targets = []*Target{{Outlet: o, identity: o.name}}
		return o, nil
	}
	for i := range max(o.opts.Slots, 1) {
		o.targets = append(o.targets, &Target{Outlet: o, identity: fmt.Sprintf("%s#%d", o.name, i+1)})
	}
	return o, nil
}

// maxGatewayIdle bounds the idle connections to one gateway.
const maxGatewayIdle = 1024

// admit takes what an exit needs, once.
func (s *Set) admit(o *Outlet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.members[o]; known {
		return
	}
	key := s.Scope + " " + o.name
	state, _ := exitStates.LoadOrStore(key, new(exitState))
	o.state = state.(*exitState)
	stop := func() {}
	if o.opts.Check != nil {
		ctx, cancel := context.WithCancel(context.Background())
		c := &checker{exit: o, client: o.transports.kept.Clone(), check: *o.opts.Check, logger: s.Logger, done: make(chan struct{})}
		go c.run(ctx)
		stop = func() {
			cancel()
			<-c.done
		}
	}
	s.members[o] = func() {
		stop()
		o.closeIdleConnections()
		_, _ = exitStates.Delete(key)
	}
}

// dismiss gives back what an exit took. Tunnels through it go on.
func (s *Set) dismiss(o *Outlet) {
	s.mu.Lock()
	release := s.members[o]
	delete(s.members, o)
	s.mu.Unlock()
	if release != nil {
		release()
	}
}

// Close gives back what all exits took.
func (s *Set) Close() {
	if s.watched != nil {
		s.watched.Close()
	}
	s.mu.Lock()
	members := s.members
	s.members = nil
	s.mu.Unlock()
	for _, release := range members {
		release()
	}
}
