// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package websocket ends WebSockets that are silent and those one of whose ends is
// dead: the handler websocket_timeouts. It reads the headers of frames and puts
// frames of its own between them. It looks into no message.
package websocket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(new(Timeouts))
}

// Timeouts ends WebSockets that pass through the handlers behind it,
// such as reverse_proxy, over HTTP/1, HTTP/2 and HTTP/3: those that are silent,
// and those one of whose ends is dead. Either way both ends get a Close frame
// with status 1001, and five seconds to answer it.
//
// Only connections that became WebSockets are touched. A connection whose bytes
// are no WebSocket frames is left as it is, but for the idle timeout, which ends
// it without a frame.
type Timeouts struct {
	// How long a WebSocket may be silent: that long without a byte in either
	// direction. Pongs count, those to our own Pings too, so that with ping a
	// quiet one is kept while its ends live. Zero: for ever. Default: 0.
	Idle caddy.Duration `json:"idle,omitempty"`

	// An end that says nothing for this long is asked by a Ping whether it
	// lives. If it says nothing for as long again, the WebSocket ends. The Pong
	// is not passed on. Zero: nobody is asked. Default: 0.
	Ping caddy.Duration `json:"ping,omitempty"`

	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Timeouts) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.websocket_timeouts",
		New: func() caddy.Module { return new(Timeouts) },
	}
}

// Provision sets the handler up.
func (h *Timeouts) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	var registered prometheus.AlreadyRegisteredError
	if err := ctx.GetMetricsRegistry().Register(idle.ClosedCollector{}); err != nil && !errors.As(err, &registered) {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// Validate refuses a handler that does nothing.
func (h *Timeouts) Validate() error {
	switch {
	case h.Idle < 0:
		return fmt.Errorf("websocket_timeouts: idle is %s, it must be positive, such as 10m", time.Duration(h.Idle))
	case h.Ping < 0:
		return fmt.Errorf("websocket_timeouts: ping is %s, it must be positive, such as 30s", time.Duration(h.Ping))
	case h.Idle == 0 && h.Ping == 0:
		return errors.New("websocket_timeouts does nothing: say idle, such as 10m, or ping, such as 30s, or both")
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	websocket_timeouts {
//		idle <duration>
//		ping <interval>
//	}
func (h *Timeouts) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return directive.Block(d, "websocket_timeouts", directive.Options{
		"idle": directive.Duration(&h.Idle),
		"ping": directive.Duration(&h.Ping),
	})
}

// ServeHTTP lets the next handler answer, and watches the WebSocket that may
// come of it.
func (h *Timeouts) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	extended := isExtended(r)
	if !extended && !isUpgrade(r.Header) {
		return next.ServeHTTP(w, r)
	}
	// A carrier that is stuck in writing to an upstream is reached by nothing
	// but its request's context.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	upgrade := &wsUpgrade{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		request:               r, cancel: cancel, handler: h,
	}
	if extended && r.Body != nil {
		upgrade.body = r.Body
		r.Body = &wsBody{ReadCloser: r.Body, upgrade: upgrade}
		defer upgrade.endStream()
	}
	return next.ServeHTTP(upgrade, r)
}

// watch makes a WebSocket of what a client becomes.
func (h *Timeouts) watch(s *webSocket, client wsClient, r *http.Request, cancel func()) {
	s.idle, s.ping = time.Duration(h.Idle), time.Duration(h.Ping)
	s.cancel = cancel
	s.report = func(reason idle.Reason) {
		idle.Closed(idle.WebSockets, reason)
		if c := h.logger.Check(zap.DebugLevel, "websocket closed"); c != nil {
			c.Write(zap.String("remote", r.RemoteAddr), zap.String("reason", string(reason)))
		}
	}
	s.init(client)
}

// isUpgrade reports whether a header asks for a WebSocket, or agrees to one, in
// HTTP/1.
func isUpgrade(header http.Header) bool {
	return httpguts.HeaderValuesContainsToken(header["Upgrade"], "websocket")
}

// isExtended reports whether a request asks for a WebSocket in HTTP/2 (RFC 8441)
// or HTTP/3 (RFC 9220).
func isExtended(r *http.Request) bool {
	if r.Method != http.MethodConnect {
		return false
	}
	return r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" || r.ProtoMajor == 3 && r.Proto == "websocket"
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Timeouts)(nil)
	_ caddy.Validator             = (*Timeouts)(nil)
	_ caddyhttp.MiddlewareHandler = (*Timeouts)(nil)
	_ caddyfile.Unmarshaler       = (*Timeouts)(nil)
)
