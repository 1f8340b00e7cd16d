// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package idle decides who may stay.
//
// A connection is idle when no byte moved on it in either direction. Start and
// Relay carry a tunnel between two connections and end it after a silence;
// Listener, and the listener wrapper idle_timeout around it, close accepted
// connections after one, at the end of a lifetime or after a number of requests.
//
// An idle tunnel between two TCP connections is, on Linux, two descriptors in an
// epoll instance and an entry in a heap of deadlines: no goroutine, no buffer,
// no pipe. A few workers carry the bytes of all such tunnels while they flow, by
// splice(2), and never wait for a receiver. Other tunnels, and those on other
// systems, are two goroutines that copy.
//
// The package never sets deadlines on accepted connections, which belong to
// the HTTP server, until a tunnel takes one over; and it knows nothing of
// sessions: a session does not notice that a connection ends.
package idle

import (
	"context"
	"net"
	"time"
)

// Tunnel is two connections whose bytes belong together.
type Tunnel struct {
	Client, Target net.Conn

	// Bytes that were read from a side before the relay began: what a client
	// sent behind its CONNECT, what an exit sent behind its 200. They are
	// delivered first, once.
	FromClient, FromTarget []byte

	// IdleTimeout ends the tunnel after that long without a byte in either
	// direction; also one whose one side has closed. Zero: never.
	IdleTimeout time.Duration

	// Owner is what the tunnel belongs to, for EndOf. It may be nil.
	Owner any
}

// Result is what became of a tunnel.
type Result struct {
	// Bytes from client to target and from target to client.
	Sent, Received int64
	Reason         Reason
}

const (
	// drainTimeout is how long a tunnel whose one side has failed goes on: what
	// was said before is delivered, and bytes that nobody can be told any more
	// are read, for closing a socket with bytes unread sends a RST, which
	// destroys what its peer has not got yet. Enough for four retransmissions,
	// short enough for a peer that never stops.
	drainTimeout = 5 * time.Second

	// drainLimit is how many bytes are read for that. An upload or a download
	// that nobody wants any more is left to the flow control then: exits bill
	// by the byte, and a fast one sends gigabytes in five seconds.
	drainLimit = 256 << 10
)

// Start begins to carry a tunnel and returns. It takes the connections over,
// which must not be used any more, not even to be closed: ending ctx ends the
// tunnel. When one side closes its half, what it had sent is delivered and then
// the other side's half is closed, or all of it if half of it cannot be closed
// alone; the opposite direction goes on. Ended is called once, in a goroutine
// of its own, when both connections are closed.
func Start(ctx context.Context, t Tunnel, ended func(Result)) {
	if ctx.Err() == nil && startPolled(ctx, t, ended) {
		return
	}
	r := newCopied(t)
	go r.serve(ctx, ended)
}

// Relay is Start for those who wait for the tunnel's end. It leaves no
// goroutine.
func Relay(ctx context.Context, t Tunnel) Result {
	done := make(chan Result, 1)
	Start(ctx, t, func(result Result) { done <- result })
	return <-done
}
