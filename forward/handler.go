// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package forward is the second door: a forward proxy that keeps each client's
// session on one exit.
//
// A request brings credentials; they hold an account and, if the client wants
// one, the id of a session. The account's password and the destination are
// checked, selection.Decide says which exit the session is bound to, and the
// request leaves there: a CONNECT as a tunnel, a request in absolute form
// through httputil.ReverseProxy.
//
// The proxy terminates no TLS inside tunnels and caches nothing.
package forward

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/forward/accounts"
	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/forward/pool"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/pace"
	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

const (
	defaultIdleTimeout = 30 * time.Second
	defaultDialTimeout = 10 * time.Second

	defaultResponseTimeout = 5 * time.Minute
	minResponseTimeout     = time.Millisecond
)

// Handler is a forward proxy with sticky sessions. It serves CONNECT requests
// and requests in absolute form; all others are the next handler's. A request
// that is not for the proxy, and that no other handler answers, gets 404.
//
// Clients name their session in the user of their proxy credentials, as in
// alice-session-abc-sessionttl-30: account alice, session abc, which lives for
// 30 minutes. All requests of a session leave through one exit until it is
// over. Requests without a session leave through an exit each.
//
// Destinations on this machine and in private networks are denied unless
// allowed, and so are all ports but 80 and 443.
type Handler struct {
	// The proxy's name. Sessions belong to it: proxies of one name and one
	// store share theirs, so they must have the same exits. Letters, digits,
	// hyphens, underscores and dots. Default: default.
	Name string `json:"name,omitempty"`

	// Who may use the proxy. Required, unless open is set.
	Accounts []accounts.Account `json:"accounts,omitempty"`

	// Let anybody use the proxy. The account in a client's credentials, if it
	// sends any, keeps its sessions apart from those of others and is not
	// verified. Default: false.
	Open bool `json:"open,omitempty"`

	// A file with further accounts in the format of htpasswd: name:hash, one a
	// line, with hashes as in accounts. It is read again when it changes, within
	// a few seconds; a line that cannot be used is reported and left out.
	AccountsFile string `json:"accounts_file,omitempty"`

	// How many live sessions an account may have that has no limit of its own;
	// one more is refused with 503. Counted by this process: see the
	// documentation for how exactly. Default: no limit.
	MaxSessionsPerAccount int `json:"max_sessions_per_account,omitempty"`

	// How clients write their credentials. Default: the preset massive.
	Credentials *credential.Config `json:"credentials,omitempty"`

	// How many sessions may begin at a client's address, such as 10/1m (an IPv6
	// address counts with its /64); one more is refused with 429. Default: no
	// limit.
	NewSessions string `json:"new_sessions,omitempty"`

	// Where requests leave. Required.
	ExitsRaw []json.RawMessage `json:"exits,omitempty" caddy:"namespace=sticky.exits inline_key=exit"`

	// A file with further exits: one a line, a URL and then its options as in
	// the Caddyfile, such as weight 2 tag country de. It is read again when it
	// changes, within a few seconds; a line that cannot be used is reported and
	// left out. Sessions of exits that are in it no longer move. Default: none.
	ExitsFile string `json:"exits_file,omitempty"`

	// How long a session lives whose credentials do not say, counted from its
	// creation; requests do not prolong it. Must be positive and at most
	// max_ttl. Default: what the preset of credentials says, 15m for massive.
	TTLRaw *caddy.Duration `json:"ttl,omitempty"`

	// The shortest lifetime that a client may ask for. Default: what the preset
	// of credentials says, 1m for massive.
	MinTTLRaw *caddy.Duration `json:"min_ttl,omitempty"`

	// The longest lifetime that a client may ask for. Default: what the preset
	// of credentials says, 240m for massive.
	MaxTTLRaw *caddy.Duration `json:"max_ttl,omitempty"`

	// How long a session lives without being used, where its credentials do not
	// say. Must not be negative; 0 is no limit. Default: what the preset of
	// credentials says, no limit for massive.
	MaxIdleRaw *caddy.Duration `json:"max_idle,omitempty"`

	// What an exit that fails does to its sessions, where their credentials do
	// not say: strict moves a session at the first error, and the request goes
	// on at another exit; flex bears up to max_errors consecutive errors, each
	// of them answered with 502; norotate never moves it. Default: what the
	// preset of credentials says, strict for massive.
	Mode selection.Mode `json:"mode,omitempty"`

	// How many consecutive errors a session bears in mode flex, where its
	// credentials do not say. Default: 15.
	MaxErrors int `json:"max_errors,omitempty"`

	// How the exit of a new session is chosen: random, round_robin,
	// least_sessions or hash. Default: the one with fewer sessions of two
	// random exits; requests without a session take all exits in turn.
	Fallback string `json:"fallback,omitempty"`

	// How long a tunnel may be silent in both directions before it is closed. Its
	// session does not notice. It has no meaning for requests in absolute form.
	// Must be positive. Default: 30s.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// How long the header of the final response to a request in absolute form may
	// take, counted from when the request was sent with its body. The client gets
	// 504 then: the request is not repeated, and its session stays. A body has no
	// limit. 0 is no limit, "off" in the Caddyfile; otherwise at least 1ms.
	// Default: 5m.
	ResponseTimeoutRaw *caddy.Duration `json:"response_timeout,omitempty"`

	// How long connecting through an exit may take, with all handshakes. Must
	// be positive. After a failure, a request goes on at another exit only within
	// three times this after it came; it tries at most 5 exits. Default: 10s.
	DialTimeout caddy.Duration `json:"dial_timeout,omitempty"`

	// The ports that clients may connect to: numbers and ranges such as
	// 8000-8999. Default: 80 and 443.
	Ports []string `json:"ports,omitempty"`

	// Destinations that are allowed although they are denied by default:
	// addresses, CIDRs, host names, *.suffix, and host:port. The longest prefix
	// wins, deny on ties.
	Allow []string `json:"allow,omitempty"`

	// Destinations that are denied: as allow, without ports; * denies whatever
	// allow does not name.
	Deny []string `json:"deny,omitempty"`

	// The DNS server that knows the destinations of direct exits: an IP address,
	// perhaps with a port. Other exits are proxies and resolve names themselves.
	// Default: what the system says.
	ResolverRaw string `json:"resolver,omitempty"`

	// Whether requests and responses that are forwarded get a Via header (RFC
	// 9110 §7.6.3): on or off. Default: on.
	Via string `json:"via,omitempty"`

	// Whether answers say where their request left (X-Exit: the exit's URL
	// without its password) and when its session ends (X-Session-Expires: RFC
	// 3339): the 200 of a CONNECT, and answers that are forwarded. Default:
	// false.
	SessionHeaders bool `json:"session_headers,omitempty"`

	// The name of the store that remembers the sessions. Default: default.
	StoreName string `json:"store,omitempty"`

	terms    selection.Terms
	minTTL   time.Duration
	maxTTL   time.Duration
	grammar  *credential.Grammar
	accounts *accounts.Set

	newSessions pace.Rate
	limits      *accounts.Limits

	rules    *destination.Rules
	resolver *net.Resolver // nil: the system's
	exits    pool.Set
	store    sessionstore.Store
	tally    *selection.Tally

	placement *pool.Placement
	forward   *httputil.ReverseProxy
	logger    *zap.Logger

	listeners []caddy.NetworkAddress // of the server, over TCP

	// fullDuplex says that the site's own requests are full duplex as well
	// (enable_full_duplex of the server).
	fullDuplex bool

	pseudonym string        // in Via headers
	grace     time.Duration // of tunnels whose account or exit is gone
	left      atomic.Bool   // this configuration is gone
}

// app is what a proxy needs of the sticky app.
type app interface {
	// Store returns the store of that name.
	Store(name string) (sessionstore.Store, error)

	// Tally returns what counts the decisions of a scope.
	Tally(scope string) *selection.Tally

	// SharePool notes what pool a scope of this configuration has. It returns
	// selection.ErrPoolDiffers if the scope has another one as well.
	SharePool(selection.PoolUse) error
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sticky_proxy",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets the proxy up.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.setDefaults()
	return h.named(h.provision(ctx))
}

// named says which proxy an error is about.
func (h *Handler) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("sticky_proxy %q: %w", h.Name, err)
}

func (h *Handler) provision(ctx caddy.Context) error {
	err := sessionstore.CheckName(h.Name)
	if err != nil {
		return err
	}
	if err = h.provisionCredentials(ctx); err != nil {
		return err
	}
	if h.rules, err = destination.NewRules(destination.Config{
		Ports: h.Ports, Allow: h.Allow, Deny: h.Deny, Admin: adminAddresses(ctx),
	}); err != nil {
		return err
	}
	if h.resolver, err = exits.NewResolver(h.ResolverRaw); err != nil {
		return err
	}
	h.warnOfHosts(ctx)
	h.listeners = tcpListeners(ctx)
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		h.fullDuplex = server.EnableFullDuplex
	}
	if err = h.exits.Load(ctx, h.ExitsRaw, pool.Terms{
		Scope: h.terms.Scope, File: h.ExitsFile, DialTimeout: time.Duration(h.DialTimeout),
		ResponseTimeout: given(h.ResponseTimeoutRaw, defaultResponseTimeout),
		Logger:          h.logger, Settle: h.settleExit, Changed: h.endOrphans,
	}); err != nil {
		return err
	}
	h.forward = h.newForwarder()
	awaitTunnels(ctx)
	if err = idle.RegisterMetrics(ctx); err != nil {
		return err
	}

	mod, err := ctx.App("sticky")
	if err != nil {
		return err
	}
	sticky := mod.(app)
	if h.store, err = sticky.Store(h.StoreName); err != nil {
		return err
	}
	h.exits.CountIn(h.store)
	h.placement = pool.NewPlacement(h.Fallback, h.store, h.terms.Scope)
	h.tally = sticky.Tally(h.terms.Scope)
	if err = sticky.SharePool(selection.PoolUse{Scope: h.terms.Scope, Pool: h.exits.String()}); err != nil {
		return fmt.Errorf("its name %w: give each set of exits a proxy name of its own (sticky_proxy <name>)", err)
	}
	h.grace = graceOf(ctx)
	h.enter()
	h.exits.Watch()
	return nil
}

func (h *Handler) setDefaults() {
	setDefault(&h.Name, "default")
	setDefault(&h.StoreName, "default")
	setDefault(&h.Via, "on")
	setDefault(&h.MaxErrors, selection.DefaultMaxErrors)
	setDefault(&h.IdleTimeout, caddy.Duration(defaultIdleTimeout))
	setDefault(&h.DialTimeout, caddy.Duration(defaultDialTimeout))
	h.pseudonym = pseudonym("proxy/" + h.Name)
	h.terms = selection.Terms{
		Scope: "proxy/" + h.Name, MaxErrors: h.MaxErrors, OnFull: selection.FullMove,
	}
}

func setDefault[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

func given(d *caddy.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return time.Duration(*d)
}

// settleExit gives an exit the rules and names of this proxy.
func (h *Handler) settleExit(exit exits.Exit) error {
	if err := h.checkOwnListener(exit); err != nil {
		return err
	}
	given := exits.Settings{Rules: h.rules, Resolver: h.resolver}
	if h.Via == "on" {
		given.Via = h.pseudonym
	}
	exits.Settle(exit, given)
	return nil
}

// Validate refuses what has no meaning.
func (h *Handler) Validate() error { return h.named(h.validate()) }

func (h *Handler) validate() error {
	if err := h.validateAccounts(); err != nil {
		return err
	}
	switch {
	case h.minTTL <= 0:
		return fmt.Errorf("min_ttl is %s, it must be positive", h.minTTL)
	case h.maxTTL <= 0:
		return fmt.Errorf("max_ttl is %s, it must be positive", h.maxTTL)
	case h.maxTTL < h.minTTL:
		return fmt.Errorf("max_ttl is %s, below min_ttl of %s: lower min_ttl", h.maxTTL, h.minTTL)
	case h.terms.TTL <= 0:
		return fmt.Errorf("ttl is %s, it must be positive", h.terms.TTL)
	case h.terms.TTL > h.maxTTL:
		return fmt.Errorf("ttl is %s, above max_ttl of %s: raise max_ttl", h.terms.TTL, h.maxTTL)
	case h.terms.MaxIdle < 0:
		return fmt.Errorf("max_idle is %s, it must not be negative", h.terms.MaxIdle)
	case h.MaxErrors < 0:
		return fmt.Errorf("max_errors is %d, it must be positive", h.MaxErrors)
	case h.IdleTimeout < 0:
		return fmt.Errorf("idle_timeout is %s, it must be positive", time.Duration(h.IdleTimeout))
	case h.ResponseTimeoutRaw != nil && *h.ResponseTimeoutRaw != 0 && time.Duration(*h.ResponseTimeoutRaw) < minResponseTimeout:
		return fmt.Errorf("response_timeout is %s, it must be off or at least %s: a number in JSON is nanoseconds, write \"5m\"",
			time.Duration(*h.ResponseTimeoutRaw), minResponseTimeout)
	case h.DialTimeout < 0:
		return fmt.Errorf("dial_timeout is %s, it must be positive", time.Duration(h.DialTimeout))
	case h.Via != "on" && h.Via != "off":
		return fmt.Errorf("via is %q, it must be on or off", h.Via)
	}
	if err := pool.CheckFallback(h.Fallback); err != nil {
		return err
	}
	return h.Mode.Validate()
}

// Cleanup releases what Provision took. Tunnels go on, they need nothing of it;
// those that no other configuration has end after the grace.
func (h *Handler) Cleanup() error {
	h.leave()
	h.exits.Close()
	h.limits.Release()
	h.accounts.Close()
	return nil
}

// ServeHTTP serves CONNECT requests and requests in absolute form.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	ours, err := forProxy(r)
	if r.ProtoMajor == 1 && (ours || h.fullDuplex) {
		final := newFinalWriter(w, r)
		defer final.finish()
		w = final
	}
	if !ours {
		return h.serveNotProxied(w, r, next)
	}
	if err := cmp.Or(early(r), err); err != nil {
		h.refuse(w, r, err)
		return nil
	}
	c, err := h.client(r)
	if err != nil {
		h.refuse(w, r, err)
		return nil
	}
	defer c.publish(r)
	if err := h.checkLoop(r); err != nil {
		h.refuse(w, r, err)
		return nil
	}
	if r.Method == http.MethodConnect {
		err = h.connect(w, r, c)
	} else {
		err = h.forwardRequest(w, r, c)
	}
	if err != nil {
		h.refuse(w, r, err)
	}
	return nil
}

// forProxy reports whether a request is for the proxy, and not for the site. Its
// error refuses one that is for the proxy and cannot be served: no other handler
// may get it, since nothing checked its credentials.
func forProxy(r *http.Request) (bool, error) {
	tunnel := r.Method == http.MethodConnect
	extended := tunnel && (r.Header.Get(":protocol") != "" || r.ProtoMajor == 3 && !strings.HasPrefix(r.Proto, "HTTP/"))
	switch {
	case r.ProtoMajor == 1:
		return tunnel || r.URL.IsAbs(), nil
	case tunnel && !extended:
		return true, nil
	case len(r.Header["Proxy-Authorization"]) == 0 && !r.URL.IsAbs():
		return false, nil
	case extended:
		return true, errExtendedConnect
	}
	return true, errPlainOverStreams
}

// Requests of HTTP/2 and HTTP/3 that are for the proxy and are not served by it.
var (
	errPlainOverStreams = &proxystatus.Refusal{
		Kind: "http_request_error", Status: http.StatusMisdirectedRequest,
		Reason: "plain http over HTTP/2 or HTTP/3 is not proxied yet",
	}
	errExtendedConnect = &proxystatus.Refusal{
		Kind: "http_request_error", Status: http.StatusNotImplemented,
		Reason: "an extended CONNECT is not proxied: use a CONNECT without :protocol",
	}
)

// refuse answers with an error of the proxy itself.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		// The client went away; 499 is what Caddy's own proxy logs then.
		w.WriteHeader(499)
		return
	}
	e := proxystatus.Answer(err)
	if e.Status == http.StatusProxyAuthRequired {
		w.Header().Set("Proxy-Authenticate", `Basic realm="sticky", charset="UTF-8"`)
	}
	if c := h.logger.Check(zap.DebugLevel, "request refused"); c != nil {
		c.Write(zap.String("error", e.Kind), zap.Int("status", e.Status))
	}
	proxystatus.Write(w, e)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
