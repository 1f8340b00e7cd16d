// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/selection"
)

// connect serves a CONNECT request (RFC 9110 §9.3.6). The 2xx is sent when the
// exit is connected, and then the tunnel goes on without this request.
func (h *Handler) connect(w http.ResponseWriter, r *http.Request, c *client) error {
	d, err := h.connectDestination(r)
	if err != nil {
		return err
	}
	if err := cmp.Or(h.rules.check(d), c.verified.check(d)); err != nil {
		return err
	}
	var conn net.Conn
	err = c.attempt(r.Context(), func(ctx context.Context, t *target) error {
		ctx, cancel := context.WithTimeout(c.verified.dialContext(ctx), time.Duration(h.DialTimeout))
		defer cancel()
		var err error
		conn, err = t.Connect(ctx, d)
		return err
	})
	if err != nil {
		return err
	}
	return h.open(w, r, c, conn)
}

// connectDestination returns where a CONNECT wants to go: authority-form only,
// and nothing else in the request.
func (h *Handler) connectDestination(r *http.Request) (destination, error) {
	if r.ProtoMajor != 1 {
		return destination{}, &refusal{
			kind: "http_request_error", status: http.StatusNotImplemented,
			reason: "CONNECT over HTTP/2 and HTTP/3 is not supported yet: use HTTP/1.1",
		}
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return destination{}, &refusal{kind: "http_request_error", reason: "a CONNECT has no body"}
	}
	if r.URL.Path != "" || r.URL.RawQuery != "" || r.URL.User != nil {
		return destination{}, &refusal{kind: "http_request_error", reason: "a CONNECT names host:port and nothing else"}
	}
	return parseDestination(r.URL.Host)
}

// open takes the client's connection over and begins the tunnel.
func (h *Handler) open(w http.ResponseWriter, r *http.Request, c *client, target net.Conn) error {
	conn, buffered, err := hijack(w)
	if err != nil {
		_ = target.Close()
		return &refusal{kind: "proxy_internal_error", reason: "this connection cannot carry a tunnel"}
	}
	tunnel := idle.Tunnel{Client: conn, Target: target, IdleTimeout: time.Duration(h.IdleTimeout)}
	if early, ok := target.(*earlyConn); ok {
		tunnel.Target, tunnel.FromTarget = early.Conn, early.early
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		tunnel.FromClient = make([]byte, n)
		_, _ = io.ReadFull(buffered.Reader, tunnel.FromClient)
	}
	log := h.tunnelLog(r, c)
	// Whatever deadlines the server set were for requests.
	_ = conn.SetDeadline(time.Time{})
	// The request's context ends with this handler; the tunnel does not.
	go h.serve(context.WithoutCancel(r.Context()), tunnel, log)
	return nil
}

// serve relays a tunnel until it ends: both sides closed it, it was silent for
// too long, or one side failed.
func (h *Handler) serve(ctx context.Context, tunnel idle.Tunnel, log *zapcore.CheckedEntry) {
	start := time.Now()
	_ = tunnel.Client.SetWriteDeadline(start.Add(time.Duration(h.IdleTimeout)))
	if _, err := io.WriteString(tunnel.Client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = tunnel.Client.Close()
		_ = tunnel.Target.Close()
		return
	}
	_ = tunnel.Client.SetWriteDeadline(time.Time{})
	result := idle.Relay(ctx, tunnel)
	if log != nil {
		log.Write(zap.Duration("duration", time.Since(start)),
			zap.Int64("sent", result.Sent), zap.Int64("received", result.Received),
			zap.String("closed", string(result.Reason)))
	}
}

// tunnelLog prepares the line that a tunnel writes when it ends: the access log
// knows only its beginning. It is written where access logs are.
func (h *Handler) tunnelLog(r *http.Request, c *client) *zapcore.CheckedEntry {
	level := zap.DebugLevel
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && server.Logs != nil {
		level = zap.InfoLevel
	}
	if !h.logger.Core().Enabled(level) {
		return nil
	}
	return h.logger.With(selection.ReportOf(c.key, c.decision).Fields()...).
		With(zap.String("account", c.account), zap.String("destination", r.URL.Host)).
		Check(level, "tunnel closed")
}

// hijack takes the connection from under all wrappers of the response: Caddy's
// own, where access logs are on, would hide that half of it can be closed.
func hijack(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = inner.Unwrap()
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("response cannot be hijacked")
	}
	return hijacker.Hijack()
}
