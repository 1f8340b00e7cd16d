// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicConn is a stream of HTTP/3 that was taken over from its server. Unlike one of
// HTTP/2, each of its halves ends by itself.
type quicConn struct {
	*http3.Stream

	reset         func()
	writing       writeGuard
	local, remote net.Addr
}

// newQUICConn takes the stream of a response over whose header was sent. It calls
// reset when it reads that the client has reset the stream; the request's context
// ends with either half of the stream.
func newQUICConn(w http3.HTTPStreamer, r *http.Request, reset func()) *quicConn {
	return &quicConn{Stream: w.HTTPStream(), reset: reset, local: localAddr(r), remote: streamAddr(r.RemoteAddr)}
}

// Read implements net.Conn.
func (c *quicConn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.reset()
	}
	return n, err
}

// Write implements net.Conn.
func (c *quicConn) Write(p []byte) (int, error) {
	if !c.writing.begin() {
		return 0, net.ErrClosed
	}
	defer c.writing.end()
	return c.Stream.Write(p)
}

// CloseWrite ends what the client gets, and lets it go on sending.
func (c *quicConn) CloseWrite() error { return c.Stream.Close() }

// BreakWrite says that what the client got is not all there was (RFC 9114 §4.4).
func (c *quicConn) BreakWrite() { c.CancelWrite(quic.StreamErrorCode(http3.ErrCodeConnectError)) }

// Close implements net.Conn. It ends a Read, and a Write to a client that takes
// nothing, by a reset. How the client's half ends, finish says.
func (c *quicConn) Close() error {
	err := c.writing.close(c.BreakWrite)
	if err == nil {
		c.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	}
	return err
}

// finish ends the stream, by an error where the tunnel broke.
func (c *quicConn) finish(broken bool) {
	if broken {
		c.BreakWrite()
		return
	}
	_ = c.Stream.Close()
}

// LocalAddr implements net.Conn.
func (c *quicConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *quicConn) RemoteAddr() net.Addr { return c.remote }

// Interface guard
var _ tunnelStream = (*quicConn)(nil)
