// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/forward/pool"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/forward/socks5"
	"github.com/caddy-sticky/caddy-sticky/forward/stream"
	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/idle/relay"
	"github.com/caddy-sticky/caddy-sticky/selection"
)

// connect serves a CONNECT request (RFC 9110 §9.3.6). The 2xx is sent when the
// exit is connected, and then the tunnel goes on without this request.
func (h *Handler) connect(w http.ResponseWriter, r *http.Request, c *client) error {
	d, err := h.connectDestination(r)
	if err != nil {
		return err
	}
	if err := cmp.Or(h.rules.Check(d), c.verified.Check(d)); err != nil {
		return err
	}
	var conn net.Conn
	err = c.attempt(r.Context(), func(ctx context.Context, t *pool.Target) error {
		ctx, cancel := context.WithTimeout(exits.WithVia(exits.WithRules(ctx, c.verified.Own()), r), time.Duration(h.DialTimeout))
		defer cancel()
		var err error
		conn, err = t.Connect(ctx, d)
		return err
	})
	if err != nil {
		return err
	}
	if r.ProtoMajor > 1 {
		return h.stream(w, r, c, conn)
	}
	return h.open(w, r, c, conn)
}

// connectDestination returns where a CONNECT wants to go: authority-form only,
// and nothing else in the request.
func (h *Handler) connectDestination(r *http.Request) (destination.Destination, error) {
	if r.ContentLength > 0 || r.ProtoMajor == 1 && (r.ContentLength != 0 || len(r.TransferEncoding) > 0) {
		return destination.Destination{}, &proxystatus.Refusal{Kind: "http_request_error", Reason: "a CONNECT has no body"}
	}
	if r.URL.Path != "" || r.URL.RawQuery != "" || r.URL.User != nil {
		return destination.Destination{}, &proxystatus.Refusal{Kind: "http_request_error", Reason: "a CONNECT names host:port and nothing else"}
	}
	return destination.Parse(r.URL.Host)
}

// open takes the client's connection over and begins the tunnel.
func (h *Handler) open(w http.ResponseWriter, r *http.Request, c *client, target net.Conn) error {
	conn, buffered, err := hijack(w)
	if err != nil {
		_ = target.Close()
		return &proxystatus.Refusal{Kind: "proxy_internal_error", Reason: "this connection cannot carry a tunnel"}
	}
	owner := c.owner()
	tunnel := relay.Tunnel{Client: conn, Target: target, IdleTimeout: time.Duration(h.IdleTimeout), Owner: owner}
	if early, ok := target.(*exits.EarlyConn); ok {
		tunnel.Target, tunnel.FromTarget = early.Conn, early.Early
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		tunnel.FromClient = make([]byte, n)
		_, _ = io.ReadFull(buffered.Reader, tunnel.FromClient)
	}
	// Whatever deadlines the server set were for requests.
	_ = conn.SetDeadline(time.Time{})
	_ = conn.SetWriteDeadline(time.Now().Add(time.Duration(h.IdleTimeout)))
	if _, err := conn.Write(c.established()); err != nil {
		_ = conn.Close()
		_ = target.Close()
		return nil
	}
	_ = conn.SetWriteDeadline(time.Time{})
	tunnel.Client = socks5.Unwrap(conn)
	// The request and its context end with this handler; the tunnel does not,
	// and holds nothing of them.
	relay.Start(context.Background(), tunnel, h.tunnelLog(r, c))
	h.begun(owner)
	return nil
}

// tunnelLog returns what writes a tunnel's line when it ends: the access log
// knows only its beginning. It is written where access logs are.
func (h *Handler) tunnelLog(r *http.Request, c *client) func(relay.Result) {
	level := zap.DebugLevel
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && server.Logs != nil {
		level = zap.InfoLevel
	}
	if !h.logger.Core().Enabled(level) {
		return func(relay.Result) {}
	}
	begin, logger, report := time.Now(), h.logger, selection.ReportOf(c.key, c.decision)
	account, destination := strings.Clone(c.account), strings.Clone(r.URL.Host)
	return func(result relay.Result) {
		line := logger.Check(level, "tunnel closed")
		if line == nil {
			return
		}
		line.Write(append(report.Fields(),
			zap.String("account", account), zap.String("destination", destination),
			zap.Duration("duration", time.Since(begin)),
			zap.Int64("sent", result.Sent), zap.Int64("received", result.Received),
			zap.String("closed", string(result.Reason)))...)
	}
}

// awaitTunnels lets a server that stops with the process wait for the tunnels,
// and end those that are left at its grace period. A reload ends none.
func awaitTunnels(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return
	}
	server.RegisterOnStop(func(ctx context.Context) error {
		if caddy.Exiting() {
			relay.Drain(ctx)
		}
		return nil
	})
}

// hijack takes the connection from under all wrappers of the response: Caddy's
// own, where access logs are on, would hide that half of it can be closed.
func hijack(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
	hijacker, ok := stream.Innermost(w).(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("response cannot be hijacked")
	}
	return hijacker.Hijack()
}

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
	conn, ctx, cancel := stream.New(w, r)
	defer cancel()
	tunnel := relay.Tunnel{Client: conn, Target: target, IdleTimeout: time.Duration(h.IdleTimeout), Owner: c.owner()}
	if early, ok := target.(*exits.EarlyConn); ok {
		tunnel.Target, tunnel.FromTarget = early.Conn, early.Early
	}
	result := relay.Run(ctx, tunnel)
	ended(result)
	// Where it broke, a reset and no end: the client must not take what it has for
	// all there was.
	conn.Finish(result.Reason == idle.TargetFailed || result.Reason == idle.ClientFailed)
	return nil
}
