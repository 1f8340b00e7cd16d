// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package listener closes accepted connections that may not stay: Listener, and
// the listener wrapper idle_timeout around it, close one after a silence, at the end
// of a lifetime or after a number of requests.
//
// The package sets no deadlines on accepted connections, which belong to the HTTP
// server.
package listener

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(new(Wrapper))
}

// Wrapper closes accepted connections after a silence: that long
// without a byte in either direction. It belongs before tls in the list of
// listener wrappers, where it costs nothing while bytes flow.
//
// HTTP/3 does not pass through listener wrappers.
type Wrapper struct {
	// How long a connection may be silent. Must be positive. Required.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// What requests mean to the timeout. With exempt, a connection with a
	// request whose answer is not through is left alone; only an HTTP server's
	// wrapper can say that. Default: silence is silence, and a connection whose
	// request waits for a slow answer is closed as well.
	Requests string `json:"requests,omitempty"`

	// How long a connection may exist. When it has, it is closed as soon as no
	// request is under way, and until then answers ask the client to leave
	// (Connection: close, GOAWAY). WebSockets and tunnels are closed at once.
	// Default: no limit.
	MaxLifetime caddy.Duration `json:"max_lifetime,omitempty"`

	// How many requests a connection may carry: the answer to the last one says
	// Connection: close, and sends GOAWAY on HTTP/2. Only an HTTP server's
	// wrapper can say that. Default: no limit.
	MaxRequests int `json:"max_requests,omitempty"`

	// Probes that find peers that have vanished (TCP keep-alive). Default: what
	// the server says.
	KeepAlive *KeepAlive `json:"keepalive,omitempty"`

	logger *zap.Logger
}

// KeepAlive is when TCP asks a silent peer whether it is still there. A peer
// that does not answer is given up after idle + count x interval; on Linux also
// one that acknowledges nothing that was sent to it for so long.
type KeepAlive struct {
	// How long the connection must be silent before the first probe. At least
	// 1s; fractions of a second are rounded up. Required.
	Idle caddy.Duration `json:"idle,omitempty"`

	// How long to wait for each answer. At least 1s. Required.
	Interval caddy.Duration `json:"interval,omitempty"`

	// After how many unanswered probes the peer is given up: 1 to 127. Required.
	Count int `json:"count,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Wrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.idle_timeout",
		New: func() caddy.Module { return new(Wrapper) },
	}
}

// Provision sets the wrapper up.
func (w *Wrapper) Provision(ctx caddy.Context) error {
	w.logger = ctx.Logger()
	if err := w.watchRequests(ctx); err != nil {
		return err
	}
	return idle.RegisterMetrics(ctx)
}

// Validate refuses what has no meaning.
func (w *Wrapper) Validate() error {
	switch {
	case w.Timeout <= 0:
		return fmt.Errorf("idle_timeout is %s, it must be positive, such as 2m", time.Duration(w.Timeout))
	case w.Requests != "" && w.Requests != requestsExempt:
		return fmt.Errorf("requests is %q, it can only be %s", w.Requests, requestsExempt)
	case w.MaxLifetime < 0:
		return fmt.Errorf("max_lifetime is %s, it must be positive", time.Duration(w.MaxLifetime))
	case w.MaxRequests < 0:
		return fmt.Errorf("max_requests is %d, it must be positive", w.MaxRequests)
	}
	if w.KeepAlive == nil {
		return nil
	}
	return w.KeepAlive.validate()
}

func (k *KeepAlive) validate() error {
	switch {
	case time.Duration(k.Idle) < time.Second:
		return fmt.Errorf("keepalive's idle is %s, it must be at least 1s", time.Duration(k.Idle))
	case time.Duration(k.Interval) < time.Second:
		return fmt.Errorf("keepalive's interval is %s, it must be at least 1s", time.Duration(k.Interval))
	case k.Count < 1 || k.Count > 127:
		return fmt.Errorf("keepalive's count is %d, it must be 1 to 127", k.Count)
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (w *Wrapper) WrapListener(ln net.Listener) net.Listener {
	l := &Listener{
		Listener: ln, Timeout: time.Duration(w.Timeout), ExemptRequests: w.Requests == requestsExempt,
		MaxLifetime: time.Duration(w.MaxLifetime), KeepAlive: w.KeepAlive, wrapper: w, logger: w.logger,
	}
	if reflect.TypeOf(ln) == tlsListener {
		l.warn.Do(l.warnOfTLS) // at load; if others stand between, Accept sees it
	}
	return l
}

// UnmarshalCaddyfile sets up the wrapper from Caddyfile tokens. Syntax:
//
//	idle_timeout <duration> {
//		requests     exempt
//		max_lifetime <duration>
//		max_requests <n>
//		keepalive    <idle> <interval> <count>
//	}
func (w *Wrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if err := directive.ReadDuration(d, &w.Timeout); err != nil {
		return err
	}
	return directive.Block(d, "idle_timeout", directive.Options{
		"requests":     directive.String(&w.Requests),
		"max_lifetime": directive.Duration(&w.MaxLifetime),
		"max_requests": directive.Int(&w.MaxRequests),
		"keepalive":    directive.Func(w.readKeepAlive),
	})
}

func (w *Wrapper) readKeepAlive(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 3 {
		return d.Err("keepalive needs <idle> <interval> <count>, such as 1m 15s 4")
	}
	w.KeepAlive = new(KeepAlive)
	for i, to := range []*caddy.Duration{&w.KeepAlive.Idle, &w.KeepAlive.Interval} {
		duration, err := caddy.ParseDuration(args[i])
		if err != nil {
			return d.Errf("keepalive %q is not a duration (like 30s or 15m)", args[i])
		}
		*to = caddy.Duration(duration)
	}
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return d.Errf("keepalive %q is not a whole number", args[2])
	}
	w.KeepAlive.Count = count
	return nil
}

var tlsListener = reflect.TypeOf(tls.NewListener(nil, nil))

// Listener closes the connections that it accepted after a silence. One timer
// watches all of them.
type Listener struct {
	net.Listener

	// Timeout is how long a connection may be silent. Positive.
	Timeout time.Duration

	// ExemptRequests leaves connections alone that have a request under way, if
	// an HTTP server tells of them.
	ExemptRequests bool

	// MaxLifetime is how long a connection may exist. Zero: for ever.
	MaxLifetime time.Duration

	// KeepAlive is for TCP connections. Nil: as they are.
	KeepAlive *KeepAlive

	wrapper   *Wrapper // nil outside of Caddy
	deadlines idle.Deadlines
	logger    *zap.Logger
	warn      sync.Once
}

// Accept implements net.Listener. Where the system keeps the time of a TCP
// connection's last byte, what it returns embeds the *net.TCPConn.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.KeepAlive != nil {
		l.KeepAlive.apply(conn)
	}
	kernel := idle.KernelClock(conn)
	if tcp, ok := conn.(*net.TCPConn); ok && kernel != nil {
		c := &tcpConn{TCPConn: tcp}
		c.watch.start(l, tcp, kernel)
		return c, nil
	}
	counted := &countingConn{Conn: conn}
	counted.watch.start(l, conn, kernel)
	if state, ok := conn.(tlsConn); ok {
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

// apply sets the probes of the TCP connection in conn, if there is one.
// Connections that failed already say so to whoever reads from them.
func (k *KeepAlive) apply(conn net.Conn) {
	tcp := idle.InnermostTCP(conn)
	if tcp == nil {
		return
	}
	idle, interval := time.Duration(k.Idle), time.Duration(k.Interval)
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: interval, Count: k.Count})
	limitUnacknowledged(tcp, idle+time.Duration(k.Count)*interval)
}

var errNoServer = errors.New("only the listener wrapper of an HTTP server learns of requests")

// Interface guards
var (
	_ caddy.Provisioner     = (*Wrapper)(nil)
	_ caddy.Validator       = (*Wrapper)(nil)
	_ caddy.ListenerWrapper = (*Wrapper)(nil)
	_ caddyfile.Unmarshaler = (*Wrapper)(nil)
)
