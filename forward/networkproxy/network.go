// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package networkproxy is the third door: requests of a reverse_proxy that leave
// through exits, each session through one.
package networkproxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/forward/pool"
	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

func init() {
	caddy.RegisterModule(new(Proxy))
}

// Proxy lets the requests of a reverse_proxy leave through sticky exits:
// those of one session through one exit, until the session's ttl is over.
// Requests that name no session leave through an exit each.
//
// Caddy asks it for the URL of a proxy and connects by itself, so exits are
// other proxies (http, https, socks5), and none is an address of this machine
// (direct). It is not told how a request ended either: that an attempt failed
// is known when Caddy's retries (lb_retries, lb_try_duration) make another one,
// and that an exit is down by its check. Without a retry and without a check a
// session stays with an exit that fails until its ttl is over.
//
// A plain http upstream behind an http or https exit gets its own address as
// Host, for that is where such a proxy takes the destination from.
//
// It makes the placeholders of the selection policy available, where that policy
// does not: {http.sticky.target} is the exit.
type Proxy struct {
	// The name. Sessions belong to it: network proxies of one name and one store
	// share theirs, so they must have the same exits. Letters, digits, hyphens,
	// underscores and dots. Default: default.
	Name string `json:"name,omitempty"`

	// Where the session id comes from, in order of precedence, as in the selection
	// policy; but for cookie and app_cookie, which need the response. They see
	// the request as it is sent to the upstream, after header_up. Default:
	// client_ip.
	SourcesRaw []json.RawMessage `json:"sources,omitempty" caddy:"namespace=sticky.sources inline_key=source"`

	// Where requests leave: http, https and socks5 exits. Required.
	ExitsRaw []json.RawMessage `json:"exits,omitempty" caddy:"namespace=sticky.exits inline_key=exit"`

	// A file with further exits, as in sticky_proxy. Default: none.
	ExitsFile string `json:"exits_file,omitempty"`

	// How long a session lives, counted from its creation; requests do not
	// prolong it. Must be positive. Default: 15m.
	TTLRaw *caddy.Duration `json:"ttl,omitempty"`

	// How long a session lives without being used. Must be positive. Default: as
	// long as the ttl.
	MaxIdle caddy.Duration `json:"max_idle,omitempty"`

	// What becomes of a session whose exit fails: strict moves it with the next
	// attempt, norotate never. The mode flex would have to know of successes.
	// Default: strict.
	Mode selection.Mode `json:"mode,omitempty"`

	// How the exit of a new session is chosen: random, round_robin,
	// least_sessions or hash. Default: the one with fewer sessions of two random
	// exits.
	Fallback string `json:"fallback,omitempty"`

	// The name of the store that remembers the sessions. Default: default.
	StoreName string `json:"store,omitempty"`

	terms     selection.Terms
	sources   []source.Source
	exits     pool.Set
	store     sessionstore.Store
	tally     *selection.Tally
	placement *pool.Placement
	logger    *zap.Logger
}

// dialTimeout is how long a check may take to connect through an exit. Caddy's
// transport connects by itself, within its own limit.
const dialTimeout = 10 * time.Second

// stickyApp is what a network proxy needs of the sticky app.
type stickyApp interface {
	// Store returns the store of that name.
	Store(name string) (sessionstore.Store, error)

	// Tally returns what counts the decisions of a scope.
	Tally(scope string) *selection.Tally

	// SharePool notes what pool a scope of this configuration has. It returns
	// selection.ErrPoolDiffers if the scope has another one as well.
	SharePool(selection.PoolUse) error
}

// CaddyModule returns the Caddy module information.
func (*Proxy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.network_proxy.sticky",
		New: func() caddy.Module { return new(Proxy) },
	}
}

// Provision loads the sources and the exits.
func (n *Proxy) Provision(ctx caddy.Context) error {
	n.logger = ctx.Logger()
	n.Name = cmp.Or(n.Name, "default")
	n.StoreName = cmp.Or(n.StoreName, "default")
	n.Mode = cmp.Or(n.Mode, selection.Strict)
	ttl := selection.DefaultTTL
	if n.TTLRaw != nil {
		ttl = time.Duration(*n.TTLRaw)
	}
	n.terms = selection.Terms{
		Scope: "network_proxy/" + n.Name, TTL: ttl, MaxIdle: time.Duration(n.MaxIdle),
		Mode: n.Mode, MaxErrors: selection.DefaultMaxErrors, OnFull: selection.FullMove,
	}
	if err := n.provision(ctx); err != nil {
		return fmt.Errorf("network_proxy sticky %q: %w", n.Name, err)
	}
	return nil
}

func (n *Proxy) provision(ctx caddy.Context) error {
	if err := n.check(); err != nil {
		return err
	}
	if err := onlyHTTP1(ctx); err != nil {
		return err
	}
	if err := n.loadSources(ctx); err != nil {
		return err
	}
	err := n.exits.Load(ctx, n.ExitsRaw, pool.Terms{
		Scope: n.terms.Scope, File: n.ExitsFile, DialTimeout: dialTimeout, Logger: n.logger, Settle: exits.SettleForTransport,
	})
	if err != nil {
		return err
	}
	mod, err := ctx.App("sticky")
	if err != nil {
		return err
	}
	sticky := mod.(stickyApp)
	if n.store, err = sticky.Store(n.StoreName); err != nil {
		return err
	}
	n.exits.CountIn(n.store)
	n.placement = pool.NewPlacement(n.Fallback, n.store, n.terms.Scope)
	n.tally = sticky.Tally(n.terms.Scope)
	if err = sticky.SharePool(selection.PoolUse{Scope: n.terms.Scope, Pool: n.exits.String()}); err != nil {
		return fmt.Errorf("its name %w: give each set of exits a name of its own (network_proxy sticky <name>)", err)
	}
	n.exits.Watch()
	return nil
}

// check refuses what has no meaning. It runs before anything is taken.
func (n *Proxy) check() error {
	if err := sessionstore.CheckName(n.Name); err != nil {
		return err
	}
	switch {
	case n.terms.TTL <= 0:
		return fmt.Errorf("ttl is %s, it must be positive", n.terms.TTL)
	case n.MaxIdle < 0:
		return fmt.Errorf("max_idle is %s, it must be positive", n.terms.MaxIdle)
	case n.Mode == selection.Flex:
		return errors.New("mode flex has to know how requests end, which Caddy does not tell here: use strict or norotate")
	}
	return errors.Join(pool.CheckFallback(n.Fallback), n.Mode.Validate())
}

// onlyHTTP1 lets the transport above speak HTTP/1.1 to its upstreams: it keeps
// connections of HTTP/2 by the upstream alone, so one of another session and exit
// would do, and HTTP/3 knows no proxies.
func onlyHTTP1(ctx caddy.Context) error {
	for _, mod := range ctx.Modules() {
		transport, ok := mod.(*reverseproxy.HTTPTransport)
		if !ok {
			continue
		}
		for _, version := range transport.Versions {
			if version != "1.1" && version != "2" { // these are the default
				return fmt.Errorf("the transport's version %s cannot be kept on an exit: leave it out, or say versions 1.1", version)
			}
		}
		transport.Versions = []string{"1.1"}
	}
	return nil
}

func (n *Proxy) loadSources(ctx caddy.Context) error {
	if len(n.SourcesRaw) == 0 {
		n.SourcesRaw = []json.RawMessage{json.RawMessage(`{"source":"client_ip"}`)}
	}
	mods, err := ctx.LoadModule(n, "SourcesRaw")
	if err != nil {
		return fmt.Errorf("loading sources: %w", err)
	}
	for _, mod := range mods.([]any) {
		src, ok := mod.(source.Source)
		if !ok {
			return fmt.Errorf("%T is not a source of session ids", mod)
		}
		_, issues := src.(source.Issuer)
		_, learns := src.(source.Learner)
		if issues || learns {
			return fmt.Errorf("source %s needs the response, which is not seen here: use a header, or key with a placeholder such as {http.request.cookie.name}", src.Label())
		}
		n.sources = append(n.sources, src)
	}
	return nil
}

// Cleanup releases what Provision took.
func (n *Proxy) Cleanup() error {
	n.exits.Close()
	return nil
}

// ProxyFunc implements caddy.ProxyFuncProducer. The function never lets a request
// leave without a proxy: where no exit can serve it, it is an error.
func (n *Proxy) ProxyFunc() func(*http.Request) (*url.URL, error) { return n.proxy }

// passage is one request's way through one network proxy. Attempts of a request
// follow one another, so it needs no lock.
type passage struct {
	proxy    *Proxy
	key      sessionstore.Key
	store    sessionstore.Store
	terms    *selection.Terms
	attempt  context.Context // of the attempt that was asked for last
	tried    []selection.Attempt[*pool.Target]
	decision selection.Decision[*pool.Target]
	err      error
}

// passageVar is the variable of a request that holds its passage.
const passageVar = "sticky.network_proxy"

// proxy returns the exit for an attempt.
func (n *Proxy) proxy(r *http.Request) (*url.URL, error) {
	if dial, ok := reverseproxy.GetDialInfo(r.Context()); ok && strings.HasPrefix(dial.Network, "unix") {
		// The transport would speak to the socket as if it were the exit.
		return nil, errors.New("sticky: an upstream at a Unix socket has no way through an exit")
	}
	p := n.passage(r)
	// An attempt has a context of its own. In one and the same the transport asks
	// again where a connection that it had kept was closed meanwhile.
	if p.attempt != r.Context() {
		p.next(r.Context())
	}
	if p.err != nil {
		return nil, p.err
	}
	t := p.decision.Target
	if r.URL.Scheme == "http" && t.TakesAbsoluteForm() {
		// To an HTTP proxy, the transport names the host of the Host header, which
		// is the client's choice: it would reach whatever it likes.
		r.Host = r.URL.Host
	}
	return exits.URLOf(t.Exit, exits.SessionOf(p.key, p.decision.Session, t.String(), n.terms.TTL)), nil
}

// passage returns the state of a request. What is no request to a site, such as a
// certificate's, has none to be kept.
func (n *Proxy) passage(r *http.Request) *passage {
	if p, ok := caddyhttp.GetVar(r.Context(), passageVar).(*passage); ok && p.proxy == n {
		return p
	}
	p := &passage{proxy: n, store: n.store, terms: &n.terms}
	if _, ok := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any); !ok {
		return p
	}
	for _, src := range n.sources {
		if id := src.SessionID(r); id != "" && len(id) <= source.MaxID {
			p.key = sessionstore.KeyOf(n.terms.Scope, src.Label(), id)
			if source.FromAddress(src) {
				p.addressed(r)
			}
			break
		}
	}
	caddyhttp.SetVar(r.Context(), passageVar, p)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(func(name string) (any, bool) { return selection.ReportOf(p.key, p.decision).Placeholder(name) })
	}
	return p
}

// addressed notes that the key is made of the client's address.
func (p *passage) addressed(r *http.Request) {
	n := p.proxy
	switch {
	case source.InEarlyData(r):
		p.store = selection.Unproven(n.store)
	case source.AfterEarlyData(r) && n.Fallback == "":
		byHash := n.terms
		byHash.ByHash = true
		p.terms = &byHash
	}
}

// String keeps a request's state out of what a configuration can print.
func (*passage) String() string { return "" }

// next decides for another attempt. That there is one says that the one before
// failed.
func (p *passage) next(ctx context.Context) {
	n := p.proxy
	if last := p.decision.Target; p.attempt != nil && last != nil && !selection.Tried(p.tried, last) {
		p.tried = append(p.tried, selection.Attempt[*pool.Target]{Target: last})
	}
	p.attempt = ctx
	exits := n.exits.Current()
	var pool selection.Pool[*pool.Target] = exits
	if len(p.tried) > 0 {
		pool = &retryPool{exits, p.tried}
	}
	var err error
	p.decision, err = selection.Decide(ctx, p.store, p.key, p.terms, pool, p.tried,
		n.placement.Assign(p.key, n.terms.TTL))
	if p.err = nil; err != nil {
		n.logger.Error("no decision", zap.Error(err))
		p.err = errors.New("sticky: the session store does not answer")
		return
	}
	n.tally.Decided(p.decision.Outcome, p.decision.Reason)
	if check := n.logger.Check(zap.DebugLevel, "decided"); check != nil {
		check.Write(selection.ReportOf(p.key, p.decision).Fields()...)
	}
	if p.decision.Outcome == selection.Refused {
		p.err = fmt.Errorf("sticky: no exit can serve this request now (%s)", p.decision.Reason)
		return
	}
	p.decision.Target.Take()
}

// retryPool is the pool of a passage. Why an attempt failed is not known here. It
// may have been the whole gateway, so other exits are tried before another slot.
type retryPool struct {
	*pool.Pool
	tried []selection.Attempt[*pool.Target]
}

// Bars keeps a session off the slots of a gateway that failed in this request, as
// long as there is another exit.
func (p *retryPool) Bars(ctx context.Context, t *pool.Target) selection.Reason {
	if why := p.Pool.Bars(ctx, t); why != "" || t.FirstOf(p.tried) {
		return why
	}
	return selection.Draining
}

// Interface guards
var (
	_ caddy.Provisioner       = (*Proxy)(nil)
	_ caddy.CleanerUpper      = (*Proxy)(nil)
	_ caddy.ProxyFuncProducer = (*Proxy)(nil)
)
