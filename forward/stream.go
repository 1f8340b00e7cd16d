// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

// never is as long as a timeout can be.
const never = time.Duration(math.MaxInt64 / 2)

// stream serves a tunnel over HTTP/2 or HTTP/3 (RFC 9113 §8.5, RFC 9114 §4.4):
// the request's body is what the client sends, the response's is what it gets.
// Unlike over HTTP/1 the tunnel is this request: it ends when this returns.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, c *client, target net.Conn) error {
	// The idle timeouts of the HTTP server would end quiet tunnels within a
	// minute; a tunnel has its own.
	reader, writer := caddyhttp.IdleTimeoutsFromContext(r.Context())
	if reader != nil {
		defer reader.Override(never, 0)()
	}
	if writer != nil {
		defer writer.Override(never, 0, 0)()
	}
	ended := h.tunnelLog(r, c)
	c.tell(w.Header())
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		_ = target.Close()
		return nil // the client is gone
	}
	// The context ends when the client resets the stream, and not when it ends
	// its half.
	ctx := r.Context()
	var conn tunnelStream
	if streamer, ok := innermost(w).(http3.HTTPStreamer); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		conn = newQUICConn(streamer, r, cancel)
	} else {
		conn = newStreamConn(w, r)
	}
	tunnel := idle.Tunnel{Client: conn, Target: target, IdleTimeout: time.Duration(h.IdleTimeout), Owner: c.owner()}
	if early, ok := target.(*earlyConn); ok {
		tunnel.Target, tunnel.FromTarget = early.Conn, early.early
	}
	result := idle.Relay(ctx, tunnel)
	ended(result)
	// Where it broke, a reset and no end: the client must not take what it has for
	// all there was.
	conn.finish(result.Reason == idle.TargetFailed || result.Reason == idle.ClientFailed)
	return nil
}

// tunnelStream is the client's end of a tunnel that is a stream.
type tunnelStream interface {
	net.Conn

	// finish ends the stream when the tunnel is over; broken says that not all
	// was said.
	finish(broken bool)
}

// streamConn is a request and its response as a connection. Half of it cannot be
// closed: the server of HTTP/2 ends a response when its handler returns, and then
// the request as well.
type streamConn struct {
	body    io.ReadCloser
	w       http.ResponseWriter
	flusher *http.ResponseController
	// What only the server's own response knows: Caddy's wrappers may not be
	// asked while another goroutine writes.
	breaker       *http.ResponseController
	local, remote net.Addr
	writing       writeGuard
}

// writeGuard knows whether a Write is under way when a connection is closed.
type writeGuard struct {
	mu      sync.Mutex
	writing bool
	closed  bool
}

// begin begins a Write; false if the connection is closed.
func (g *writeGuard) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writing = !g.closed
	return g.writing
}

func (g *writeGuard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writing = false
}

// close lets no further Write begin, and interrupts one that is under way.
func (g *writeGuard) close(interrupt func()) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	g.closed = true
	if g.writing {
		interrupt()
	}
	return nil
}

// localAddr is the server's address.
func localAddr(r *http.Request) net.Addr {
	addr, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return addr
}

func newStreamConn(w http.ResponseWriter, r *http.Request) *streamConn {
	return &streamConn{
		body: r.Body, w: w, flusher: http.NewResponseController(w),
		breaker: http.NewResponseController(innermost(w)),
		local:   localAddr(r), remote: streamAddr(r.RemoteAddr),
	}
}

// streamAddr is the address of who is at the other end of a stream.
type streamAddr string

// Network implements net.Addr.
func (streamAddr) Network() string { return "stream" }

// String implements net.Addr.
func (a streamAddr) String() string { return string(a) }

// Read implements net.Conn.
func (c *streamConn) Read(p []byte) (int, error) { return c.body.Read(p) }

// Write implements net.Conn. What is written leaves at once.
func (c *streamConn) Write(p []byte) (int, error) {
	if !c.writing.begin() {
		return 0, net.ErrClosed
	}
	defer c.writing.end()
	n, err := c.w.Write(p)
	if err == nil {
		err = c.flush()
	}
	return n, err
}

func (c *streamConn) flush() error { return c.flusher.Flush() }

// Close implements net.Conn. It ends a Read, and a Write to a client that takes
// nothing, by a reset. What was written before is delivered.
func (c *streamConn) Close() error {
	if err := c.writing.close(func() { _ = c.breaker.SetWriteDeadline(time.Unix(1, 0)) }); err != nil {
		return err
	}
	return c.body.Close()
}

// finish lets the handler return, which ends the stream.
func (*streamConn) finish(broken bool) {
	if broken {
		panic(http.ErrAbortHandler)
	}
}

// LocalAddr implements net.Conn.
func (c *streamConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *streamConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn. A stream has none of its own: setting one
// would reset it in HTTP/2, even between two calls.
func (*streamConn) SetDeadline(time.Time) error { return http.ErrNotSupported }

// SetReadDeadline implements net.Conn, see SetDeadline.
func (*streamConn) SetReadDeadline(time.Time) error { return http.ErrNotSupported }

// SetWriteDeadline implements net.Conn, see SetDeadline.
func (*streamConn) SetWriteDeadline(time.Time) error { return http.ErrNotSupported }

// Interface guard
var _ net.Conn = (*streamConn)(nil)
