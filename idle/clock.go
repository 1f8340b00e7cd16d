// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"net"
	"sync/atomic"
	"time"
)

// clock knows for how long no byte moved. It counts what it is told, and asks
// the kernel about TCP connections, because a Write that returns late says
// nothing: the buffers between here and a slow reader hold megabytes, and bytes
// flow out of them for minutes before there is room for the next.
type clock struct {
	begin   time.Time    // with a monotonic reading: wall clocks jump
	last    atomic.Int64 // nanoseconds after begin
	kernels [2]*net.TCPConn
}

// start begins the silence now. Each connection may be a wrapper, TLS included:
// its bytes are bytes. One that shares a TCP connection with others must not
// show it.
func (c *clock) start(one, other net.Conn) {
	c.startWith(kernelClock(one), kernelClock(other))
}

// startWith begins the silence of connections whose kernelClock is known.
func (c *clock) startWith(kernels ...*net.TCPConn) {
	c.begin = time.Now()
	copy(c.kernels[:], kernels)
}

func (c *clock) moved() { c.last.Store(int64(time.Since(c.begin))) }

func (c *clock) silence() time.Duration {
	silence := time.Since(c.begin) - time.Duration(c.last.Load())
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

// kernelClock returns the TCP connection under conn if the system tells when
// its last byte moved, or nil.
func kernelClock(conn net.Conn) *net.TCPConn {
	tcp := innermostTCP(conn)
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

// innermostTCP returns the TCP connection under conn, or nil.
func innermostTCP(conn net.Conn) *net.TCPConn {
	for range maxWrappers {
		if tcp, ok := conn.(*net.TCPConn); ok || conn == nil {
			return tcp
		}
		conn = unwrap(conn)
	}
	return nil
}
