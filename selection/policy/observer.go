// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

// observer stands in for a reverse proxy's transport and sees how each attempt
// ends: a selection policy itself is only asked, never told. It tells the
// policies whose attempt it was, sets their cookies on answers and takes them
// off requests. What is none of theirs, such as a health check, passes
// untouched.
type observer struct {
	inner   http.RoundTripper
	proxy   *reverseproxy.Handler
	dynamic json.RawMessage // the proxy's source of upstreams, as configured

	issuers atomic.Pointer[[]source.Issuer] // of all users; never nil

	mu    sync.Mutex
	users []*Policy
	close func() error // of a transport that the observer made itself
}

// observe puts an observer into the proxy above this policy: the innermost one,
// since a proxy may stand in another one's handle_response. Policies that are
// nested into one another share it.
func (p *Policy) observe(ctx caddy.Context) error {
	var proxy *reverseproxy.Handler
	for _, mod := range slices.Backward(ctx.Modules()) {
		if handler, ok := mod.(*reverseproxy.Handler); ok {
			proxy = handler
			break
		}
	}
	if proxy == nil {
		return fmt.Errorf("policy %q: sticky is a policy of reverse_proxy and works nowhere else", p.Name)
	}
	p.static = proxy.DynamicUpstreamsRaw == nil
	if shared, ok := proxy.Transport.(*observer); ok {
		if shared.has(p.Name) {
			return fmt.Errorf("policy %q is its own fallback: give the inner one another name", p.Name)
		}
		p.observer = shared
		shared.join(p)
		return nil
	}

	o := &observer{inner: proxy.Transport, proxy: proxy, dynamic: proxy.DynamicUpstreamsRaw}
	if o.inner == nil {
		transport := new(reverseproxy.HTTPTransport)
		if err := transport.Provision(ctx); err != nil {
			return fmt.Errorf("policy %q: provisioning default transport: %w", p.Name, err)
		}
		o.inner, o.close = transport, transport.Cleanup
	}
	proxy.Transport = o
	p.observer = o
	o.join(p)
	return nil
}

func (o *observer) join(p *Policy) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users = append(o.users, p)
	var issuers []source.Issuer
	for _, user := range o.users {
		for _, src := range user.sources {
			if issuer, ok := src.(source.Issuer); ok {
				issuers = append(issuers, issuer)
			}
		}
	}
	o.issuers.Store(&issuers)
}

func (o *observer) has(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.users, func(user *Policy) bool { return user.Name == name })
}

// cleanup closes what the observer made, once the last policy is gone.
func (o *observer) cleanup(p *Policy) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users = slices.DeleteFunc(o.users, func(user *Policy) bool { return user == p })
	if len(o.users) > 0 || o.close == nil {
		return nil
	}
	closeInner := o.close
	o.close = nil
	return closeInner()
}

// RoundTrip implements http.RoundTripper.
func (o *observer) RoundTrip(r *http.Request) (*http.Response, error) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok || caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey) == nil {
		return o.inner.RoundTrip(r) // no client's request: a health check
	}
	all := visitsOf(repl)
	r = o.stripped(r, all)
	attempts := o.attempts(all)
	dial, ok := reverseproxy.GetDialInfo(r.Context())
	if len(attempts) == 0 || !ok || dial.Upstream == nil {
		return o.inner.RoundTrip(r)
	}
	target := dial.Upstream.String()

	sent, reused := traced(r)
	res, err := o.inner.RoundTrip(sent)
	if err != nil && !clientGone(r.Context(), err) && mayBeHandOver(r, err) {
		res, err = o.inner.RoundTrip(sent)
	}
	failed := err == nil && o.isError(r, res)
	for _, v := range attempts {
		switch {
		case failed:
			v.failed(dial.Upstream)
		case err == nil:
			v.answer(target, res)
		case clientGone(r.Context(), err):
			v.attempted = false
		case reused() && isReset(err):
			// The upstream may just have closed a connection that it found idle.
			v.reset(dial.Upstream)
		default:
			v.failed(dial.Upstream)
		}
	}
	return res, err
}

// attempts returns the visits whose attempt a round trip is.
func (o *observer) attempts(all *visits) []*visit {
	if all == nil {
		return nil
	}
	if len(all.all) == 1 { // nearly always
		if v := all.latest; v.attempted && v.policy.observer == o {
			return all.all
		}
		return nil
	}
	var attempts []*visit
	for _, v := range all.all {
		if v.attempted && v.policy.observer == o {
			attempts = append(attempts, v)
		}
	}
	return attempts
}

// stripped returns the request without the cookies of this proxy's policies,
// asked or not, and of those that the request has met before.
func (o *observer) stripped(r *http.Request, all *visits) *http.Request {
	if len(r.Header["Cookie"]) == 0 {
		return r
	}
	header := r.Header
	for _, issuer := range *o.issuers.Load() {
		header = issuer.Strip(header)
	}
	if all != nil {
		for _, v := range all.all {
			if v.policy.observer != o && v.policy.issuer != nil {
				header = v.policy.issuer.Strip(header)
			}
		}
	}
	if slices.Equal(header["Cookie"], r.Header["Cookie"]) {
		return r
	}
	clone := *r
	clone.Header = header
	return &clone
}

// traced returns a request and what tells afterwards whether it went over a
// connection that had been used before. The transport itself sends a request
// without a body again if such a connection turns out to be closed; one with a
// body it can not.
func traced(r *http.Request) (*http.Request, func() bool) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, func() bool { return false }
	}
	reused := false
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
	return r.WithContext(httptrace.WithClientTrace(r.Context(), trace)), func() bool { return reused }
}

// answer notes that an upstream answered an attempt.
func (v *visit) answer(target string, res *http.Response) {
	if len(v.policy.learners) > 0 {
		v.learn(target, res)
	}
	cookie := v.succeeded(target)
	if cookie == nil {
		return
	}
	if res.Header == nil {
		res.Header = make(http.Header)
	}
	keepPrivate(v.request.Method, res)
	header := res.Header // as another policy's fallback, this one knows no writer
	if v.writer != nil {
		header = v.writer.Header()
	}
	v.set = nil
	for _, twin := range v.deletions() {
		v.set = append(v.set, twin.String())
	}
	v.set = append(v.set, cookie.String())
	header["Set-Cookie"] = append(header["Set-Cookie"], v.set...)
}

// reset notes an error that may not be the upstream's fault: it counts where
// errors are counted, and moves nothing by itself.
func (v *visit) reset(upstream *reverseproxy.Upstream) {
	if v.policy.Mode == selection.Strict {
		v.attempted = false
		v.try(upstream)
		return
	}
	v.failed(upstream)
}

// clientGone reports whether an attempt ended because the client went away.
func clientGone(ctx context.Context, err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled)
}

// mayBeHandOver reports whether an upstream was perhaps only replacing its
// listener: a connection that the kernel had given to the old one is refused or
// reset then before anything was answered, and the next one is not. That is no
// reason to move a session, so the attempt is made once more, if that is safe.
func mayBeHandOver(r *http.Request, err error) bool {
	if errors.Is(err, syscall.ECONNREFUSED) {
		_, dialed := errors.AsType[reverseproxy.DialError](err)
		return dialed // nothing was sent
	}
	replayable := (r.Body == nil || r.Body == http.NoBody) && (r.Method == http.MethodGet || r.Method == http.MethodHead)
	return replayable && errors.Is(err, syscall.ECONNRESET)
}

// isReset reports whether the peer closed the connection under a request.
func isReset(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.Contains(err.Error(), "server closed idle connection")
}

// The optional interfaces of transports. The proxy asks for them by assertion,
// so the observer has them all, with the answers of the transport it stands
// for, or those that a transport without the interface would amount to.

// RequestHeaderOps implements reverseproxy.RequestHeaderOpsTransport.
func (o *observer) RequestHeaderOps() *headers.HeaderOps {
	if t, ok := o.inner.(reverseproxy.RequestHeaderOpsTransport); ok {
		return t.RequestHeaderOps()
	}
	return nil
}

// ProxyProtocolEnabled implements reverseproxy.ProxyProtocolTransport.
func (o *observer) ProxyProtocolEnabled() bool {
	t, ok := o.inner.(reverseproxy.ProxyProtocolTransport)
	return ok && t.ProxyProtocolEnabled()
}

// RequiresContentLength implements reverseproxy.ContentLengthRequiredTransport.
func (o *observer) RequiresContentLength() bool {
	t, ok := o.inner.(reverseproxy.ContentLengthRequiredTransport)
	return ok && t.RequiresContentLength()
}

// OverrideHealthCheckScheme implements
// reverseproxy.HealthCheckSchemeOverriderTransport.
func (o *observer) OverrideHealthCheckScheme(base *url.URL, port string) {
	if t, ok := o.inner.(reverseproxy.HealthCheckSchemeOverriderTransport); ok {
		t.OverrideHealthCheckScheme(base, port)
	}
}

// Interface guards
var (
	_ http.RoundTripper                                = (*observer)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*observer)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*observer)(nil)
	_ reverseproxy.ContentLengthRequiredTransport      = (*observer)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*observer)(nil)
)
