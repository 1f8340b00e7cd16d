// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package stream makes a net.Conn of a CONNECT over HTTP/2 or HTTP/3.
package stream

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/quic-go/quic-go/http3"
)

// Conn is the client's end of a tunnel that is a stream.
type Conn interface {
	net.Conn

	// Finish ends the stream when the tunnel is over; broken says that not all
	// was said.
	Finish(broken bool)
}

// New returns the client's end of a tunnel whose response has begun, and a
// context that ends when the client resets the stream, and not when it ends its
// half. What is returned to cancel the context must be called.
func New(w http.ResponseWriter, r *http.Request) (Conn, context.Context, context.CancelFunc) {
	if streamer, ok := Innermost(w).(http3.HTTPStreamer); ok {
		ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
		return newQUICConn(streamer, r, cancel), ctx, cancel
	}
	return newStreamConn(w, r), r.Context(), func() {}
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

// streamAddr is the address of who is at the other end of a stream.
type streamAddr string

// Network implements net.Addr.
func (streamAddr) Network() string { return "stream" }

// String implements net.Addr.
func (a streamAddr) String() string { return string(a) }

// Innermost returns the response under all wrappers.
func Innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}
