// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package idle decides who may stay.
//
// A connection is idle when no byte moved on it in either direction. This package
// has the clocks that measure that, the deadlines that many connections share, the
// reasons for closing one, with their counters, and what finds the connection in a
// wrapper. What closes connections is below: relay for tunnels, listener for
// accepted connections (idle_timeout), websocket for WebSockets
// (websocket_timeouts).
//
// None of them knows sessions: a session does not notice that a connection ends.
package idle

import (
	"net"
	"sync/atomic"
	"time"
)

// Clock knows for how long no byte moved. It counts what it is told, and asks
// the kernel about TCP connections, because a Write that returns late says
// nothing: the buffers between here and a slow reader hold megabytes, and bytes
// flow out of them for minutes before there is room for the next.
type Clock struct {
	Begin   time.Time    // with a monotonic reading: wall clocks jump
	last    atomic.Int64 // nanoseconds after Begin
	kernels [2]*net.TCPConn
}

// Start begins the silence now. Each connection may be a wrapper, TLS included:
// its bytes are bytes. One that shares a TCP connection with others must not
// show it.
func (c *Clock) Start(one, other net.Conn) {
	c.StartWith(KernelClock(one), KernelClock(other))
}

// StartWith begins the silence of connections whose KernelClock is known.
func (c *Clock) StartWith(kernels ...*net.TCPConn) {
	c.Begin = time.Now()
	copy(c.kernels[:], kernels)
}

// Moved notes that a byte moved.
func (c *Clock) Moved() { c.last.Store(int64(time.Since(c.Begin))) }

// Silence returns how long no byte moved.
func (c *Clock) Silence() time.Duration {
	silence := time.Since(c.Begin) - time.Duration(c.last.Load())
	for _, tcp := range c.kernels {
		if tcp == nil {
			continue
		}
		if s, ok := kernelSilence(tcp); ok {
			silence = min(silence, s)
		}
	}
	return silence
}

// KernelClock returns the TCP connection under conn if the system tells when
// its last byte moved, or nil.
func KernelClock(conn net.Conn) *net.TCPConn {
	tcp := InnermostTCP(conn)
	if tcp == nil {
		return nil
	}
	// Asked about a multipath connection, Linux tells about its first
	// subflow only.
	if multipath, err := tcp.MultipathTCP(); err != nil || multipath {
		return nil
	}
	if !tellsSilence.Load() {
		if _, ok := kernelSilence(tcp); !ok {
			return nil
		}
		tellsSilence.Store(true)
	}
	return tcp
}

// tellsSilence says that the system has told the silence of a connection once, and
// so does for others.
var tellsSilence atomic.Bool

// InnermostTCP returns the TCP connection under conn, or nil.
func InnermostTCP(conn net.Conn) *net.TCPConn {
	for range MaxWrappers {
		if tcp, ok := conn.(*net.TCPConn); ok || conn == nil {
			return tcp
		}
		conn = Unwrap(conn)
	}
	return nil
}
