// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicConn is a stream of HTTP/3 that was taken over from its server. Unlike one of
// HTTP/2, each of its halves ends by itself.
type quicConn struct {
	*http3.Stream

	reset         func()
	writing       writeGuard
	ended         atomic.Bool // by us: what the client gets is complete
	local, remote net.Addr
}

// newQUICConn takes the stream of a response over whose header was sent. It calls
// reset when it reads that the client has reset the stream; the request's context
// ends with either half of the stream.
func newQUICConn(w http3.HTTPStreamer, r *http.Request, reset func()) *quicConn {
	c := &quicConn{Stream: w.HTTPStream(), reset: reset, local: localAddr(r), remote: streamAddr(r.RemoteAddr)}
	// It ends when the half that we send on does, or the whole connection.
	context.AfterFunc(c.Context(), func() {
		if !c.ended.Load() {
			reset()
		}
	})
	return c
}

// Read implements net.Conn.
func (c *quicConn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
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
func (c *quicConn) CloseWrite() error {
	c.ended.Store(true)
	return c.Stream.Close()
}

// BreakWrite says that what the client got is not all there was (RFC 9114 §4.4).
func (c *quicConn) BreakWrite() {
	if !c.ended.Swap(true) {
		c.CancelWrite(quic.StreamErrorCode(http3.ErrCodeConnectError))
	}
}

// Close implements net.Conn. It ends a Read, and a Write to a client that takes
// nothing, by a reset. How the client's half ends, Finish says.
func (c *quicConn) Close() error {
	err := c.writing.close(c.BreakWrite)
	if err == nil {
		c.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	}
	return err
}

// Finish ends the stream, by an error where the tunnel broke.
func (c *quicConn) Finish(broken bool) {
	if broken {
		c.BreakWrite()
		return
	}
	_ = c.CloseWrite()
}

// SetReadDeadline implements net.Conn. A Read that a deadline ends within the head
// of a frame could not be taken up again.
func (*quicConn) SetReadDeadline(time.Time) error { return http.ErrNotSupported }

// SetDeadline implements net.Conn, see SetReadDeadline.
func (*quicConn) SetDeadline(time.Time) error { return http.ErrNotSupported }

// LocalAddr implements net.Conn.
func (c *quicConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *quicConn) RemoteAddr() net.Addr { return c.remote }

// Interface guard
var _ Conn = (*quicConn)(nil)
