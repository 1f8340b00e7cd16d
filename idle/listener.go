// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"crypto/tls"
	"fmt"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(new(ListenerWrapper))
}

// ListenerWrapper closes accepted connections after a silence: that long
// without a byte in either direction. It belongs before tls in the list of
// listener wrappers, where it costs nothing while bytes flow.
//
// Silence is silence: a connection whose request waits for a slow answer is
// closed as well.
type ListenerWrapper struct {
	// How long a connection may be silent. Must be positive. Required.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.idle_timeout",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

// Provision sets the wrapper up.
func (w *ListenerWrapper) Provision(ctx caddy.Context) error {
	w.logger = ctx.Logger()
	return nil
}

// Validate refuses a wrapper without a timeout.
func (w *ListenerWrapper) Validate() error {
	if w.Timeout <= 0 {
		return fmt.Errorf("idle_timeout is %s, it must be positive, such as 2m", time.Duration(w.Timeout))
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (w *ListenerWrapper) WrapListener(ln net.Listener) net.Listener {
	l := &Listener{Listener: ln, Timeout: time.Duration(w.Timeout), logger: w.logger}
	if reflect.TypeOf(ln) == tlsListener {
		l.warn.Do(l.warnOfTLS) // at load; if others stand between, Accept sees it
	}
	return l
}

// UnmarshalCaddyfile sets up the wrapper from Caddyfile tokens. Syntax:
//
//	idle_timeout <duration>
func (w *ListenerWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if err := directive.ReadDuration(d, &w.Timeout); err != nil {
		return err
	}
	return directive.Block(d, "idle_timeout", directive.Options{
		"requests":     directive.NotYet(),
		"max_lifetime": directive.NotYet(),
		"max_requests": directive.NotYet(),
		"keepalive":    directive.NotYet(),
	})
}

var tlsListener = reflect.TypeOf(tls.NewListener(nil, nil))

// Listener closes the connections that it accepted after a silence.
type Listener struct {
	net.Listener

	// Timeout is how long a connection may be silent. Positive.
	Timeout time.Duration

	logger *zap.Logger
	warn   sync.Once
}

// Accept implements net.Listener. Where the system keeps the time of a TCP
// connection's last byte, what it returns embeds the *net.TCPConn.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok && kernelClock(tcp) != nil {
		c := &tcpConn{TCPConn: tcp}
		c.watch.start(l, tcp)
		return c, nil
	}
	counted := &countingConn{Conn: conn}
	counted.watch.start(l, conn)
	if state, ok := conn.(connectionStater); ok {
		l.warn.Do(l.warnOfTLS)
		return &countingTLSConn{countingConn: counted, state: state}, nil
	}
	return counted, nil
}

func (l *Listener) warnOfTLS() {
	if l.logger != nil {
		l.logger.Warn("idle_timeout stands after tls in the list of listener wrappers; before it, it costs nothing",
			zap.Stringer("listener", l.Addr()))
	}
}

// watch closes a connection that is silent. It is one timer, which looks at the
// connection when it might be due.
type watch struct {
	listener *Listener
	conn     net.Conn
	clock    clock

	mu    sync.Mutex
	timer *time.Timer // nil once the connection is closed
}

func (w *watch) start(l *Listener, conn net.Conn) {
	w.listener, w.conn = l, conn
	w.clock.start(conn)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(l.Timeout, w.check)
}

// check runs when the connection might be due.
func (w *watch) check() {
	silence := w.clock.silence()
	if !w.due(silence) {
		return
	}
	// Not under the lock: a TLS connection waits for room for its close_notify.
	if w.conn.Close() != nil || w.listener.logger == nil {
		return
	}
	if c := w.listener.logger.Check(zap.DebugLevel, "idle connection closed"); c != nil {
		c.Write(zap.Stringer("remote", w.conn.RemoteAddr()), zap.Duration("silence", silence))
	}
}

// due reports whether the connection is to be closed, and ends the watch then;
// otherwise it sets the timer.
func (w *watch) due(silence time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return false
	}
	if left := w.listener.Timeout - silence; left > 0 {
		w.timer.Reset(left)
		return false
	}
	w.timer = nil
	return true
}

// stop ends the watch of a connection that is closed.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// tcpConn leaves the clock to the kernel: its data path is the embedded
// connection's.
type tcpConn struct {
	*net.TCPConn
	watch watch
}

// NetConn returns the connection inside.
func (c *tcpConn) NetConn() net.Conn { return c.TCPConn }

// Close implements net.Conn.
func (c *tcpConn) Close() error {
	c.watch.stop()
	return c.TCPConn.Close()
}

// writePiece is what is written at once where only counting tells that bytes
// move: a Write of megabytes to a slow reader is no silence. What io.Copy takes.
const writePiece = 32 << 10

// countingConn notes when bytes move.
type countingConn struct {
	net.Conn
	watch   watch
	writing sync.Mutex // keeps the pieces of one Write together
}

// Read implements net.Conn.
func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.watch.clock.moved()
	}
	return n, err
}

// Write implements net.Conn.
func (c *countingConn) Write(p []byte) (n int, err error) {
	c.writing.Lock() // as the connections of package net do inside
	defer c.writing.Unlock()
	for {
		m, err := c.Conn.Write(p[n:min(n+writePiece, len(p))])
		if m > 0 {
			c.watch.clock.moved()
		}
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// CloseWrite closes the sending half, or returns errors.ErrUnsupported.
func (c *countingConn) CloseWrite() error { return halfClose(c.Conn) }

// NetConn returns the connection inside.
func (c *countingConn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *countingConn) Close() error {
	c.watch.stop()
	return c.Conn.Close()
}

// countingTLSConn shows the HTTP server that there is TLS.
type countingTLSConn struct {
	*countingConn
	state connectionStater
}

// ConnectionState returns the state of the TLS connection inside.
func (c *countingTLSConn) ConnectionState() tls.ConnectionState { return c.state.ConnectionState() }

// Interface guards
var (
	_ caddy.Provisioner     = (*ListenerWrapper)(nil)
	_ caddy.Validator       = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper = (*ListenerWrapper)(nil)
	_ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)
)
