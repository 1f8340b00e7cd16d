// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

// requestsExempt is the one value of the option requests.
const requestsExempt = "exempt"

// watchRequests lets the HTTP server tell of the requests on the connections of
// this wrapper. Caddy loads a server's listener wrappers before its handlers, in
// a context that knows the server.
func (w *Wrapper) watchRequests(ctx caddy.Context) error {
	needed := w.Requests == requestsExempt || w.MaxRequests > 0 // without them the option is nothing
	if !needed && w.MaxLifetime <= 0 {
		return nil
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	switch {
	case !ok && needed:
		return fmt.Errorf("%w: leave out requests and max_requests", errNoServer)
	case !ok:
		return nil
	}
	server.RegisterConnState(w.connState)
	if w.MaxRequests <= 0 && w.MaxLifetime <= 0 {
		return nil
	}
	server.RegisterConnContext(w.connContext)
	// Only what answers a request can ask the client to leave: net/http makes
	// a closed connection of Connection: close, and GOAWAY on HTTP/2.
	last := caddyhttp.Route{Handlers: []caddyhttp.MiddlewareHandler{lastAnswer{w}}}
	server.Routes = append(caddyhttp.RouteList{last}, server.Routes...)
	return nil
}

// watchOf returns the watch of this wrapper under a server's connection.
func (w *Wrapper) watchOf(conn net.Conn) *watch {
	for range idle.MaxWrappers {
		var found *watch
		switch c := conn.(type) {
		case nil:
			return nil
		case *tcpConn:
			found = &c.watch
		case *countingConn:
			found = &c.watch
		case *countingTLSConn:
			found = &c.watch
		}
		if found != nil && found.listener.wrapper == w {
			return found
		}
		conn = idle.Unwrap(conn)
	}
	return nil
}

// connState notes what the HTTP server says of a connection.
func (w *Wrapper) connState(conn net.Conn, state http.ConnState) {
	watch := w.watchOf(conn)
	if watch == nil {
		if state == http.StateNew {
			w.logger.Warn("another listener wrapper hides the connection: idle_timeout learns of no requests",
				zap.String("connection", fmt.Sprintf("%T", conn)))
		}
		return
	}
	switch state {
	case http.StateActive:
		watch.phase.Store(uint32(asking))
	case http.StateIdle:
		watch.phase.Store(uint32(quiet))
		if now := time.Now(); watch.expired(now) {
			watch.again(now.Add(lastFlush))
		}
	case http.StateHijacked:
		watch.phase.Store(uint32(taken))
		if now := time.Now(); watch.expired(now) {
			watch.again(now)
		}
	case http.StateNew, http.StateClosed:
	}
}

// again looks at the connection at that time, instead of the one set before.
func (w *watch) again(at time.Time) {
	w.listener.deadlines.Set(&w.deadline, at)
	if w.closed.Load() {
		w.listener.deadlines.Stop(&w.deadline)
	}
}

// watchKey finds a watch in a request's context.
type watchKey struct{ wrapper *Wrapper }

func (w *Wrapper) connContext(ctx context.Context, conn net.Conn) context.Context {
	if watch := w.watchOf(conn); watch != nil {
		return context.WithValue(ctx, watchKey{w}, watch)
	}
	return ctx
}

// lastAnswer is a handler before all others: it counts requests, and says in an
// answer that the connection has to go.
type lastAnswer struct{ wrapper *Wrapper }

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (l lastAnswer) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if watch, ok := r.Context().Value(watchKey(l)).(*watch); ok && watch.isLast(l.wrapper.MaxRequests) {
		// What takes the connection over has its own use for the header.
		if r.Method != http.MethodConnect && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
	}
	return next.ServeHTTP(w, r)
}

// isLast counts a request and reports whether no other may follow it.
func (w *watch) isLast(maxRequests int) bool {
	if n := w.requests.Add(1); maxRequests > 0 && n >= int64(maxRequests) {
		w.mustGo(idle.Requests)
		return true
	}
	if w.expired(time.Now()) {
		w.mustGo(idle.Lifetime)
		return true
	}
	return false
}

// Interface guards
var _ caddyhttp.MiddlewareHandler = lastAnswer{}
