// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"io"
	"net"
	"net/http"
	"time"
)

// streamConn is a request and its response as a connection. Half of it cannot be
// closed: the server of HTTP/2 ends a response when its handler returns, and then
// the request as well.
type streamConn struct {
	body    io.ReadCloser
	w       http.ResponseWriter
	flusher *http.ResponseController
	// What only the server's own response knows: Caddy's wrappers may not be
	// asked while another goroutine writes.
	breaker       *http.ResponseController
	local, remote net.Addr
	writing       writeGuard
}

func newStreamConn(w http.ResponseWriter, r *http.Request) *streamConn {
	return &streamConn{
		body: r.Body, w: w, flusher: http.NewResponseController(w),
		breaker: http.NewResponseController(Innermost(w)),
		local:   localAddr(r), remote: streamAddr(r.RemoteAddr),
	}
}

// Read implements net.Conn.
func (c *streamConn) Read(p []byte) (int, error) { return c.body.Read(p) }

// Write implements net.Conn. What is written leaves at once.
func (c *streamConn) Write(p []byte) (int, error) {
	if !c.writing.begin() {
		return 0, net.ErrClosed
	}
	defer c.writing.end()
	n, err := c.w.Write(p)
	if err == nil {
		err = c.flush()
	}
	return n, err
}

func (c *streamConn) flush() error { return c.flusher.Flush() }

// Close implements net.Conn. It ends a Read, and a Write to a client that takes
// nothing, by a reset. What was written before is delivered.
func (c *streamConn) Close() error {
	if err := c.writing.close(func() { _ = c.breaker.SetWriteDeadline(time.Unix(1, 0)) }); err != nil {
		return err
	}
	return c.body.Close()
}

// Finish lets the handler return, which ends the stream.
func (*streamConn) Finish(broken bool) {
	if broken {
		panic(http.ErrAbortHandler)
	}
}

// LocalAddr implements net.Conn.
func (c *streamConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *streamConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn. A stream has none of its own: setting one
// would reset it in HTTP/2, even between two calls.
func (*streamConn) SetDeadline(time.Time) error { return http.ErrNotSupported }

// SetReadDeadline implements net.Conn, see SetDeadline.
func (*streamConn) SetReadDeadline(time.Time) error { return http.ErrNotSupported }

// SetWriteDeadline implements net.Conn, see SetDeadline.
func (*streamConn) SetWriteDeadline(time.Time) error { return http.ErrNotSupported }

// Interface guard
var _ net.Conn = (*streamConn)(nil)
