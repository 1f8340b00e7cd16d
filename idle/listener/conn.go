// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

// tcpConn is a connection whose clock is the kernel's: nothing stands between
// it and whoever reads and writes.
type tcpConn struct {
	*net.TCPConn
	watch watch
}

// NetConn returns the connection inside.
func (c *tcpConn) NetConn() net.Conn { return c.TCPConn }

// TCP implements idle.Passthrough.
func (c *tcpConn) TCP() *net.TCPConn { return c.TCPConn }

// Limits implements idle.Passthrough.
func (c *tcpConn) Limits() (timeout time.Duration, lifetime time.Time) { return c.watch.limits() }

// Close implements net.Conn.
func (c *tcpConn) Close() error {
	c.watch.stop()
	return c.TCPConn.Close()
}

// writePiece is what is written at once where only counting tells that bytes
// move: a Write of megabytes to a slow reader is no silence. What io.Copy takes.
const writePiece = 32 << 10

// countingConn notes when bytes move.
type countingConn struct {
	net.Conn
	watch   watch
	writing sync.Mutex // keeps the pieces of one Write together
}

// Read implements net.Conn.
func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.watch.clock.Moved()
	}
	return n, err
}

// Write implements net.Conn.
func (c *countingConn) Write(p []byte) (n int, err error) {
	c.writing.Lock() // as the connections of package net do inside
	defer c.writing.Unlock()
	for {
		m, err := c.Conn.Write(p[n:min(n+writePiece, len(p))])
		if m > 0 {
			c.watch.clock.Moved()
		}
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// CloseWrite closes the sending half, or returns errors.ErrUnsupported.
func (c *countingConn) CloseWrite() error { return idle.HalfClose(c.Conn) }

// NetConn returns the connection inside.
func (c *countingConn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *countingConn) Close() error {
	c.watch.stop()
	return c.Conn.Close()
}

// countingTLSConn shows the HTTP server that there is TLS.
type countingTLSConn struct {
	*countingConn
	state tlsConn
}

// tlsConn is a connection with TLS, of crypto/tls or another package.
type tlsConn interface{ ConnectionState() tls.ConnectionState }

// ConnectionState returns the state of the TLS connection inside.
func (c *countingTLSConn) ConnectionState() tls.ConnectionState { return c.state.ConnectionState() }

// Interface guards
var _ idle.Passthrough = (*tcpConn)(nil)
