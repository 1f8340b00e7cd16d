// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
)

// newTransport returns what sends requests through one exit. Its connections are
// shared by the sessions of this exit only.
func newTransport(dialTimeout time.Duration) *http.Transport {
	return &http.Transport{
		// The environment (HTTP_PROXY) sets no proxy, and no body is
		// compressed on the way.
		DisableCompression:     true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        30 * time.Second,
		TLSHandshakeTimeout:    dialTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
}

// transports send requests in absolute form through one exit.
type transports struct {
	// kept reuses connections. net/http repeats a request by itself when the
	// server closes a reused connection at that moment, so this is for requests
	// that may be repeated.
	kept *http.Transport

	// fresh opens a connection for each request and closes it afterwards. A
	// request that must not be repeated meets no connection that the server is
	// about to close, and a connection that authenticates its client serves no
	// other client.
	fresh *http.Transport

	// upload is fresh for requests with a body. It does not tell the server that it
	// closes the connection: some servers then answer without reading the body, and
	// their RST destroys the answer.
	upload *http.Transport
}

func newTransports(kept *http.Transport) *transports {
	fresh := kept.Clone()
	fresh.DisableKeepAlives = true
	upload := kept.Clone()
	upload.MaxIdleConnsPerHost = -1 // keeps none
	return &transports{kept, fresh, upload}
}

// of returns the transport for a request.
func (t *transports) of(r *http.Request) *http.Transport {
	switch {
	case r.Body != nil && r.Body != http.NoBody:
		return t.upload
	case !isSafe(r.Method), AuthenticatesConnection(r.Header["Authorization"]):
		return t.fresh
	}
	return t.kept
}

// isSafe reports whether a method changes nothing at the origin (RFC 9110 §9.2.1).
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// IsIdempotent reports whether a method has the same effect when it is executed
// twice (RFC 9110 §9.2.2).
func IsIdempotent(method string) bool {
	return isSafe(method) || method == http.MethodPut || method == http.MethodDelete
}

func (t *transports) closeIdleConnections() {
	t.kept.CloseIdleConnections()
	t.fresh.CloseIdleConnections()
}

// Conn is a connection that a transport reuses. A spent one is not used
// again: its next Write fails before a byte is sent, and net/http then sends the
// request on another connection.
type Conn struct {
	net.Conn
	spent atomic.Bool
}

var errSpent = errors.New("connection is not used again: it authenticates its client")

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.spent.Load() {
		return 0, errSpent
	}
	return c.Conn.Write(p)
}

// CloseWrite ends one half of the connection, where that is possible.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// dialFunc opens a connection for a transport.
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// spendable makes connections that can be spent.
func spendable(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &Conn{Conn: conn}, nil
	}
}

// transportsFor returns what sends the requests of an account with these rules,
// nil if it has none.
func (o *Outlet) transportsFor(rules *destination.Rules) *transports {
	if rules == nil {
		return o.transports
	}
	if own, ok := o.private.Load(rules); ok {
		return own.(*transports)
	}
	kept := o.transports.kept.Clone()
	if dial := kept.DialContext; dial != nil {
		kept.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			return dial(exits.WithRules(ctx, rules), network, address)
		}
	}
	actual, _ := o.private.LoadOrStore(rules, newTransports(kept))
	return actual.(*transports)
}

// TransportFor returns what sends one request of such an account.
func (o *Outlet) TransportFor(rules *destination.Rules, r *http.Request) *http.Transport {
	return o.transportsFor(rules).of(r)
}

// TakesAbsoluteForm reports whether requests reach the exit as they come to a
// proxy, and not as they come to an origin (RFC 9112 §3.2).
func (o *Outlet) TakesAbsoluteForm() bool { return o.transports.kept.Proxy != nil }

// closeIdleConnections closes the connections that the exit keeps, and forgets the
// transports of accounts.
func (o *Outlet) closeIdleConnections() {
	o.transports.closeIdleConnections()
	o.private.Range(func(rules, own any) bool {
		o.private.Delete(rules)
		own.(*transports).closeIdleConnections()
		return true
	})
}

// Apart is the request as the exit's client sends it, so that no connection of
// one session at a gateway serves another one. Where the gateway is an HTTP proxy
// the client does that itself; else what it knows a connection by is the host of
// the URL, which then is one of this session and this destination.
func (o *Outlet) Apart(ctx context.Context, r *http.Request, d destination.Destination) *http.Request {
	if o.gateway == nil || o.TakesAbsoluteForm() {
		return r.WithContext(ctx)
	}
	r = r.WithContext(exits.WithDestination(ctx, d))
	host := sha256.Sum256([]byte(o.gateway.Of(exits.SessionOfContext(ctx)).String() + "@" + d.String()))
	u := *r.URL
	u.Host = hex.EncodeToString(host[:16]) + ".invalid"
	r.URL = &u // the request says where it goes in its Host
	return r
}
