// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package relay carries tunnels: two connections whose bytes belong together.
//
// Start and Run carry a tunnel between two connections and end it after a silence,
// or when the process drains.
//
// An idle tunnel between two TCP connections is, on Linux, two descriptors in an
// epoll instance and an entry in a heap of deadlines: no goroutine, no buffer,
// no pipe. A few workers carry the bytes of all such tunnels while they flow, by
// splice(2), and never wait for a receiver. Other tunnels, and those on other
// systems, are two goroutines that copy.
//
// The package sets no deadlines on an accepted connection, which belongs to the
// HTTP server, until a tunnel takes it over.
package relay

import (
	"context"
	"net"
	"time"

	"github.com/caddy-sticky/caddy-sticky/idle"
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
	Reason         idle.Reason
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

// Run is Start for those who wait for the tunnel's end. It leaves no
// goroutine.
func Run(ctx context.Context, t Tunnel) Result {
	done := make(chan Result, 1)
	Start(ctx, t, func(result Result) { done <- result })
	return <-done
}
