// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package policy is the first door: the selection policy "sticky" of Caddy's reverse
// proxy.
//
// The policy finds the session that a request names, lets package selection decide
// which upstream serves it, and sets the cookie of a session that begins. Caddy does
// not tell a policy how an attempt ended, so the policy puts an observer in place of
// the proxy's transport.
//
// It decides nothing itself, and opens no connection.
package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/internal/pace"
	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/token"
)

func init() {
	caddy.RegisterModule(new(Policy))
}

// Policy is a selection policy of the reverse proxy that keeps each client's
// session on one upstream, however many connections and requests it makes,
// until the session's ttl is over.
//
// It makes these placeholders available, to log_append and to handlers after
// the proxy:
//
// Placeholder | Description
// ------------|-------------
// `{http.sticky.session}` | A keyed hash of the session, the same for all its requests; empty if there is none
// `{http.sticky.target}` | The upstream that was selected
// `{http.sticky.outcome}` | new, kept, moved, spilled, refused or none
// `{http.sticky.reason}` | Why, if it is not new, kept or none: expired, down, full, gone, errors
type Policy struct {
	// The policy's name. Sessions belong to it: policies of one name and one
	// store share theirs, so they must have the same upstreams. Letters, digits, hyphens,
	// underscores and dots. Default: default.
	Name string `json:"name,omitempty"`

	// Where the session id comes from, in order of precedence: the first
	// source that names a session wins. Default: cookie.
	SourcesRaw []json.RawMessage `json:"sources,omitempty" caddy:"namespace=sticky.sources inline_key=source"`

	// How long a session lives, counted from its creation; requests do not
	// prolong it. Must be positive. Default: 15m.
	TTLRaw *caddy.Duration `json:"ttl,omitempty"`

	// How long a session lives without being used; it ends then, though its ttl
	// is not over. Kept by the load balancer's clock, to a quarter of it for a
	// client that comes back for the first time. Must be positive. Default: as
	// long as the ttl.
	MaxIdle caddy.Duration `json:"max_idle,omitempty"`

	// What an upstream that fails does to its sessions: strict moves a session
	// at the first error, flex bears up to max_errors consecutive ones,
	// norotate never moves it. Default: strict.
	Mode selection.Mode `json:"mode,omitempty"`

	// How many consecutive errors a session bears in mode flex. Default: 15.
	MaxErrors int `json:"max_errors,omitempty"`

	// What becomes of a request whose session's upstream is full
	// (max_requests): spill serves it elsewhere and keeps the session where it
	// is, wait offers no upstream, so that Caddy's retries (lb_try_duration)
	// wait, move moves the session. Default: spill.
	OnFull selection.OnFull `json:"on_full,omitempty"`

	// How many sessions an upstream may have at most; at that, it gets no new
	// ones. Clients that carry their session and have not come back are
	// included. Must be positive. Default: no limit.
	MaxSessions int `json:"max_sessions,omitempty"`

	// How many sessions the clients of one address may begin in a time, such as
	// 10/1m: a flood of clients that do not come back crowds neither the store
	// nor one upstream. A request above that is served by the upstream that a
	// hash of the address names, and its session is not remembered. The address
	// is the client's as Caddy knows it, of IPv6 its /64. A request in early data
	// (0-RTT) does not prove its address: it begins no session and does not count.
	// Default: no limit.
	NewSessions string `json:"new_sessions,omitempty"`

	// Upstreams that keep their sessions and get no new ones, written as their
	// dial addresses. If all upstreams drain, new sessions are served all the
	// same. Default: none.
	Drain []string `json:"drain,omitempty"`

	// The policy that chooses the upstream of a new session: any of Caddy's.
	// Default: the one with fewer sessions of two random upstreams.
	FallbackRaw json.RawMessage `json:"fallback,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	// The name of the store that remembers the sessions. Default: default.
	StoreName string `json:"store,omitempty"`

	newSessions pace.Rate

	unnamed  bool
	terms    selection.Terms
	sources  []source.Source
	issuer   source.Issuer // the first source that is one, or nil
	learners []source.Learner
	fallback reverseproxy.Selector
	choices  selection.Placer[*reverseproxy.Upstream] // used if fallback is nil
	store    sessionstore.Store
	keys     *token.Keys
	scope    *selection.Scope
	observer *observer
	static   bool
	absent   absence
	pool     atomic.Pointer[upstreams]
	logger   *zap.Logger
}

// app is what a policy needs of the sticky app.
type app interface {
	// Store returns the store of that name.
	Store(name string) (sessionstore.Store, error)

	// CookieKeys returns the keys that seal cookies.
	CookieKeys() *token.Keys

	// Scope returns what a scope keeps across configurations.
	Scope(name string) *selection.Scope

	// SharePool notes what pool a scope of this configuration has. It returns
	// ErrPoolDiffers or ErrCookiesMayMeet if the scope has another one as well.
	SharePool(selection.PoolUse) error
}

// CaddyModule returns the Caddy module information.
func (*Policy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.selection_policies.sticky",
		New: func() caddy.Module { return new(Policy) },
	}
}

// Provision sets the policy up and puts its observer into the proxy.
func (p *Policy) Provision(ctx caddy.Context) error {
	p.logger = ctx.Logger()
	p.setDefaults()
	if err := p.loadSources(ctx); err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	if err := p.observe(ctx); err != nil {
		return err
	}
	if err := p.checkUpstreams(); err != nil {
		return err
	}
	if p.FallbackRaw != nil {
		mod, err := ctx.LoadModule(p, "FallbackRaw")
		if err != nil {
			return fmt.Errorf("policy %q: loading fallback policy: %w", p.Name, err)
		}
		p.fallback = mod.(reverseproxy.Selector)
	}
	return p.join(ctx)
}

func (p *Policy) setDefaults() {
	p.unnamed = p.Name == ""
	if p.unnamed {
		p.Name = "default"
	}
	if p.Mode == "" {
		p.Mode = selection.Strict
	}
	if p.OnFull == "" {
		p.OnFull = selection.FullSpill
	}
	if p.MaxErrors == 0 {
		p.MaxErrors = selection.DefaultMaxErrors
	}
	if p.StoreName == "" {
		p.StoreName = "default"
	}
	p.terms = selection.Terms{
		Scope: "lb/" + p.Name, TTL: selection.DefaultTTL, MaxIdle: time.Duration(p.MaxIdle),
		Mode: p.Mode, MaxErrors: p.MaxErrors, OnFull: p.OnFull,
	}
	if p.TTLRaw != nil {
		p.terms.TTL = time.Duration(*p.TTLRaw)
	}
}

func (p *Policy) loadSources(ctx caddy.Context) error {
	if len(p.SourcesRaw) == 0 {
		p.SourcesRaw = []json.RawMessage{json.RawMessage(`{"source":"cookie"}`)}
	}
	mods, err := ctx.LoadModule(p, "SourcesRaw")
	if err != nil {
		return fmt.Errorf("policy %q: loading sources: %w", p.Name, err)
	}
	for _, mod := range mods.([]any) {
		src, ok := mod.(source.Source)
		if !ok {
			return fmt.Errorf("policy %q: %T is not a source of session ids", p.Name, mod)
		}
		if named, ok := src.(interface{ SetDefaultName(string) }); ok {
			named.SetDefaultName(p.Name)
		}
		if issuer, ok := src.(source.Issuer); ok && p.issuer == nil {
			p.issuer = issuer
		}
		if learner, ok := src.(source.Learner); ok {
			p.learners = append(p.learners, learner)
		}
		p.sources = append(p.sources, src)
	}
	return nil
}

// check refuses what has no meaning. It runs before Provision takes anything.
func (p *Policy) check() error {
	if err := sessionstore.CheckName(p.Name); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	switch {
	case p.terms.TTL <= 0:
		return fmt.Errorf("policy %q: ttl is %s, it must be positive", p.Name, p.terms.TTL)
	case p.MaxIdle < 0:
		return fmt.Errorf("policy %q: max_idle is %s, it must be positive", p.Name, p.terms.MaxIdle)
	case p.MaxIdle > 0 && p.terms.MaxIdle < time.Millisecond:
		return fmt.Errorf("policy %q: max_idle is %s, it must be at least 1ms", p.Name, p.terms.MaxIdle)
	case p.MaxSessions < 0:
		return fmt.Errorf("policy %q: max_sessions is %d, it must be positive", p.Name, p.MaxSessions)
	case p.MaxErrors < 0:
		return fmt.Errorf("policy %q: max_errors is %d, it must be positive", p.Name, p.MaxErrors)
	}
	if p.NewSessions != "" {
		var err error
		if p.newSessions, err = pace.ParseRate(p.NewSessions); err != nil {
			return fmt.Errorf("policy %q: new_sessions: %w", p.Name, err)
		}
	}
	if err := errors.Join(p.Mode.Validate(), p.OnFull.Validate()); err != nil {
		return fmt.Errorf("policy %q: %w", p.Name, err)
	}
	for i, src := range p.sources {
		for _, other := range p.sources[:i] {
			if src.Label() == other.Label() {
				return fmt.Errorf("policy %q: source %s is given twice", p.Name, src.Label())
			}
		}
	}
	return nil
}

// join finds the policy's store, and whether its name is free.
func (p *Policy) join(ctx caddy.Context) error {
	mod, err := ctx.App("sticky")
	if err != nil {
		return err
	}
	sticky := mod.(app)
	if p.store, err = sticky.Store(p.StoreName); err != nil {
		return fmt.Errorf("policy %q: %w", p.Name, err)
	}
	p.choices = selection.TwoChoices[*reverseproxy.Upstream](p.store, p.terms.Scope)
	p.keys = sticky.CookieKeys()
	p.keys.Accept(p.terms.TTL)
	p.scope = sticky.Scope(p.terms.Scope)
	cookiesOnly := p.unnamed && !slices.ContainsFunc(p.sources, func(s source.Source) bool {
		_, ok := s.(source.Issuer)
		return !ok
	})
	err = sticky.SharePool(selection.PoolUse{Scope: p.terms.Scope, Pool: p.poolIdentity(), CookiesOnly: cookiesOnly})
	switch {
	case errors.Is(err, selection.ErrCookiesMayMeet):
		p.logger.Warn("unnamed sticky policies " + err.Error() + "; give them names if they serve one host (lb_policy sticky <name>)")
	case err != nil:
		return fmt.Errorf("policy %q %w: give each set of upstreams a policy name of its own (lb_policy sticky <name>)", p.Name, err)
	}
	return nil
}

// checkUpstreams looks at the proxy's upstreams with the eyes of this policy.
func (p *Policy) checkUpstreams() error {
	pool := p.observer.proxy.Upstreams
	for _, upstream := range pool {
		if strings.Contains(upstream.Dial, "{") {
			p.logger.Warn("an upstream's address has a placeholder: to this policy it is one upstream, wherever it leads",
				zap.String("upstream", upstream.Dial))
		}
	}
	return p.checkDrain(pool)
}

// poolIdentity describes the upstreams as configured, whatever their order.
func (p *Policy) poolIdentity() string {
	proxy := p.observer.proxy
	dials := make([]string, 0, len(proxy.Upstreams))
	for _, upstream := range proxy.Upstreams {
		dials = append(dials, upstream.Dial)
	}
	slices.Sort(dials)
	return strings.Join(append(dials, string(p.observer.dynamic)), " ")
}

// Cleanup releases what Provision took.
func (p *Policy) Cleanup() error {
	if p.observer == nil {
		return nil
	}
	return p.observer.cleanup(p)
}

// Select returns the upstream of the request's session. It is called once for
// each attempt of a request; r is the request as it is about to be sent, and w
// may be nil.
func (p *Policy) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	v := p.visit(r)
	if v == nil {
		return p.stray(pool, r, w)
	}
	v.retry(w)
	ctx := r.Context()
	known := p.indexed(pool)
	v.known = known
	decision, err := selection.Decide(ctx, v.sessions(known), v.key, v.terms(), known, v.tried, v.placer())
	if err != nil {
		if ctx.Err() == nil {
			p.logger.Error("no decision", zap.Error(err))
		}
		decision = selection.Decision[*reverseproxy.Upstream]{Outcome: selection.Refused}
	}
	v.decided(decision)
	if decision.Target != nil && known.index == nil {
		p.absent.back(decision.Target.String())
	}
	return decision.Target
}

// storeFailed logs what the store did not do. That it is full or away is in the
// metrics, and not worth a line for each request.
func (p *Policy) storeFailed(what string, err error, fields ...zap.Field) {
	level := zap.ErrorLevel
	if selection.Unremembered(err) {
		level = zap.DebugLevel
	}
	if c := p.logger.Check(level, what); c != nil {
		c.Write(append(fields, zap.Error(err))...)
	}
}

// stray serves a request that did not come through Caddy's HTTP server and has
// nothing to remember a session in.
func (p *Policy) stray(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	ctx := r.Context()
	assign := func(candidates []*reverseproxy.Upstream) (*reverseproxy.Upstream, bool) {
		return p.assign(ctx, candidates, r, w)
	}
	// With a zero key, Decide does not use the store and returns no error.
	decision, _ := selection.Decide(ctx, p.store, sessionstore.Key{}, &p.terms, p.indexed(pool), nil, selection.Assign[*reverseproxy.Upstream](assign))
	return decision.Target
}

// assign chooses the upstream of a new session.
func (p *Policy) assign(ctx context.Context, candidates []*reverseproxy.Upstream, r *http.Request, w http.ResponseWriter) (*reverseproxy.Upstream, bool) {
	if p.fallback == nil {
		return p.choices.Place(ctx, candidates)
	}
	if w == nil {
		w = discard{http.Header{}} // Caddy's cookie policy does not expect nil
	}
	upstream := p.fallback.Select(candidates, r, w)
	return upstream, upstream != nil
}

// discard is a ResponseWriter for policies that insist on one.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// Interface guards
var (
	_ caddy.Provisioner     = (*Policy)(nil)
	_ caddy.CleanerUpper    = (*Policy)(nil)
	_ reverseproxy.Selector = (*Policy)(nil)
)
