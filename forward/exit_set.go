// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/internal/filewatch"
)

// exitSet is the exits of a proxy, those of its configuration and those of its
// file, with what each of them takes.
type exitSet struct {
	handler    *Handler
	ctx        caddy.Context // that modules are loaded with
	configured *pool
	file       *filewatch.File

	mu      sync.Mutex
	members map[*target]func() // to what gives back what it took
}

// load reads the exits of the configuration and of the file. It takes what they
// need; close gives that back.
func (s *exitSet) load(ctx caddy.Context, h *Handler) error {
	s.handler, s.ctx, s.members = h, ctx, make(map[*target]func())
	if len(h.ExitsRaw) == 0 && h.ExitsFile == "" {
		return errors.New("it has no exits: add some, such as exit direct://")
	}
	targets := make([]*target, 0, len(h.ExitsRaw))
	for i, raw := range h.ExitsRaw {
		exit, err := h.loadExit(ctx, raw)
		if err != nil {
			return fmt.Errorf("exit %d: %w", i+1, err)
		}
		targets = append(targets, h.newTarget(exit))
	}
	var err error
	if s.configured, err = h.newPool(targets); err != nil {
		return err
	}
	for _, t := range targets {
		s.admit(t)
	}
	h.pool.Store(s.configured)
	if h.ExitsFile == "" {
		return nil
	}
	file, content, err := filewatch.Open(h.ExitsFile)
	if err != nil {
		return fmt.Errorf("exits_file: %w", err)
	}
	s.file = file
	s.read(content)
	return nil
}

// watch begins to look whether the file changes. Modules can be loaded still:
// their context lives as long as the configuration.
func (s *exitSet) watch() {
	if s.file != nil {
		s.file.Watch(s.changed)
	}
}

func (s *exitSet) changed(content []byte, err error) {
	log := s.handler.logger.With(zap.String("file", s.handler.ExitsFile))
	if err != nil {
		log.Warn("exits file cannot be read: its exits stay as they were", zap.Error(err))
		return
	}
	s.read(content)
	log.Info("exits file read again", zap.Int("exits", len(s.handler.pool.Load().list)-len(s.configured.list)))
}

// read replaces the exits of the file. One that is the same as before stays as
// it is, with its connections.
func (s *exitSet) read(content []byte) {
	before := s.handler.pool.Load()
	list := append([]*target(nil), s.configured.list...)
	taken := make(map[string]bool, len(list))
	for _, t := range list {
		taken[t.identity] = true
	}
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		t, err := s.readLine(line, before)
		if err == nil && t != nil && taken[t.identity] {
			err = fmt.Errorf("exit %s is given twice", t.identity)
		}
		if err != nil {
			s.handler.logger.Warn("line of the exits file left out",
				zap.String("file", s.handler.ExitsFile), zap.Int("line", number), zap.Error(err))
			continue
		}
		if t != nil {
			taken[t.identity] = true
			list = append(list, t)
		}
	}
	after, err := s.handler.newPool(list)
	if err != nil { // they were compared above
		s.handler.logger.Error("exits file not used", zap.Error(err))
		return
	}
	for _, t := range list {
		s.admit(t)
	}
	s.handler.pool.Store(after)
	for _, t := range before.list {
		if after.index[t.identity] != t {
			s.dismiss(t)
		}
	}
}

// readLine reads a URL and its options. It returns nothing for an empty line and
// a comment. No error holds a password.
func (s *exitSet) readLine(line string, before *pool) (*target, error) {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "#") {
		return nil, nil //nolint:nilnil // a line without an exit
	}
	raw, err := readExitLine(line)
	if err != nil {
		return nil, err
	}
	for _, t := range before.list {
		if t.raw == string(raw) {
			return t, nil
		}
	}
	exit, err := s.handler.loadExit(s.ctx, raw)
	if err != nil {
		return nil, err
	}
	t := s.handler.newTarget(exit)
	t.raw = string(raw)
	return t, nil
}

// readExitLine makes of a line what the Caddyfile's exit would be in JSON.
func readExitLine(line string) (json.RawMessage, error) {
	words, err := caddyfile.Tokenize([]byte(line), "exits_file")
	if err != nil {
		return nil, err
	}
	tokens := []caddyfile.Token{{Text: "exit", Line: 1}, {Text: words[0].Text, Line: 1}}
	if len(words) > 1 {
		tokens = append(tokens, caddyfile.Token{Text: "{", Line: 1})
		at := 1
		for rest := words[1:]; len(rest) > 0; {
			n, known := exitOptionArgs[rest[0].Text]
			if !known || len(rest) <= n {
				return nil, fmt.Errorf("option %q is unknown, or its arguments are missing", rest[0].Text)
			}
			at++
			for _, word := range rest[:n+1] {
				tokens = append(tokens, caddyfile.Token{Text: word.Text, Line: at})
			}
			rest = rest[n+1:]
		}
		tokens = append(tokens, caddyfile.Token{Text: "}", Line: at + 1})
	}
	var reader Handler
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	if err := reader.readExit(d); err != nil {
		// The dispenser adds where it is, which is no place in the file.
		text, _, _ := strings.Cut(err.Error(), ", at ")
		return nil, errors.New(text)
	}
	return reader.ExitsRaw[0], nil
}

// exitOptionArgs is how many arguments an exit's options have.
var exitOptionArgs = map[string]int{
	"weight": 1, "max_sessions": 1, "rate": 1, "tag": 2, "interface": 1, "check": 2,
	"tls_server_name": 1, "tls_trust": 1, "tls_insecure": 0,
}

// newTarget makes an exit one that Decide can choose.
func (h *Handler) newTarget(exit Exit) *target {
	t := &target{Exit: exit, identity: exit.Identity(), opts: new(ExitOptions), client: newTransport(time.Duration(h.DialTimeout))}
	if o, ok := exit.(interface{ options() *ExitOptions }); ok {
		t.opts = o.options()
	}
	if own, ok := exit.(interface{ transport(t *http.Transport) }); ok {
		own.transport(t.client)
	} else {
		t.client.DialContext = dialParsed(exit)
	}
	t.client.DialContext = within(time.Duration(h.DialTimeout), t.client.DialContext)
	t.state = new(exitState) // until it is admitted
	return t
}

// admit takes what an exit needs, once.
func (s *exitSet) admit(t *target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.members[t]; known {
		return
	}
	key := s.handler.terms.Scope + " " + t.identity
	state, _ := exitStates.LoadOrStore(key, new(exitState))
	t.state = state.(*exitState)
	stop := func() {}
	if t.opts.Check != nil {
		ctx, cancel := context.WithCancel(context.Background())
		c := &checker{target: t, check: *t.opts.Check, logger: s.handler.logger, done: make(chan struct{})}
		go c.run(ctx)
		stop = func() {
			cancel()
			<-c.done
		}
	}
	s.members[t] = func() {
		stop()
		t.client.CloseIdleConnections()
		_, _ = exitStates.Delete(key)
	}
}

// dismiss gives back what an exit took. Tunnels through it go on.
func (s *exitSet) dismiss(t *target) {
	s.mu.Lock()
	release := s.members[t]
	delete(s.members, t)
	s.mu.Unlock()
	if release != nil {
		release()
	}
}

// close gives back what all exits took.
func (s *exitSet) close() {
	if s.file != nil {
		s.file.Close()
	}
	s.mu.Lock()
	members := s.members
	s.members = nil
	s.mu.Unlock()
	for _, release := range members {
		release()
	}
}
