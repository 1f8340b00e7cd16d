// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package socks5

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// socksTimeout bounds a handshake. RFC 1928 names no time; a client that has
	// begun has all it wants to say.
	socksTimeout = 10 * time.Second

	// maxSocksHead bounds the head of an answer that is translated. It is our own
	// server's.
	maxSocksHead = 64 << 10
)

// socksPhase is what a connection turned out to be, and how far it is.
type socksPhase = uint32

const (
	socksUnknown   socksPhase = iota // nothing was read
	socksThrough                     // no SOCKS5, or a tunnel: bytes pass
	socksAnswering                   // the CONNECT was made, its answer is due
	socksOver                        // refused: nothing is said any more
)

// inner is a name under which nobody looks for a connection to get below
// wrappers, as they do for an embedded field Conn.
type inner = net.Conn

// socksConn is a connection whose client may speak SOCKS5. The first Read finds
// out: it holds the handshake then, and what it returns is a CONNECT. Until the
// answer to that is through, Write translates; afterwards both pass.
//
// The HTTP server owns the deadlines, so the handshake has a timer that closes.
type socksConn struct {
	inner
	handshake socksHandshake
	phase     atomic.Uint32

	hasPending atomic.Bool // pending is not empty

	reading sync.Mutex // guards pending; held by the Read that finds out
	pending []byte     // the CONNECT and what came behind it

	writing sync.Mutex // guards head
	head    []byte     // of the answer, as far as it was written
}

// Read implements net.Conn.
func (c *socksConn) Read(p []byte) (int, error) {
	if c.settled() || len(p) == 0 {
		return c.inner.Read(p)
	}
	c.reading.Lock()
	if c.settled() {
		c.reading.Unlock()
		return c.inner.Read(p)
	}
	defer c.reading.Unlock()
	switch c.phase.Load() {
	case socksOver:
		return 0, io.EOF
	case socksUnknown:
		n, err := c.inner.Read(p)
		switch {
		case n == 0:
			return n, err
		case p[0] != socksVersion:
			c.phase.Store(socksThrough)
			return n, err
		case err != nil:
			return 0, err
		}
		if err := c.shake(bytes.Clone(p[:n])); err != nil {
			c.phase.Store(socksOver)
			return 0, err
		}
	}
	n := copy(p, c.pending)
	c.setPending(c.pending[n:])
	return n, nil
}

// settled reports whether reads are the inner connection's.
func (c *socksConn) settled() bool {
	phase := c.phase.Load()
	return (phase == socksThrough || phase == socksAnswering) && !c.hasPending.Load()
}

func (c *socksConn) setPending(rest []byte) {
	if len(rest) == 0 {
		rest = nil
	}
	c.pending = rest
	c.hasPending.Store(rest != nil)
}

// shake holds the handshake and leaves the CONNECT to be read. The longest
// message is one of credentials, with 513 bytes: so much is read at most before
// the client is answered.
func (c *socksConn) shake(in []byte) error {
	overdue := time.AfterFunc(socksTimeout, func() { _ = c.inner.Close() })
	defer overdue.Stop()
	var buf [513]byte
	for {
		taken, answer, err := c.handshake.next(in)
		if len(answer) > 0 {
			if _, err := c.inner.Write(answer); err != nil {
				return err
			}
		}
		if err != nil {
			return io.EOF // the HTTP server closes without a word
		}
		in = in[taken:]
		if c.handshake.stage == socksComplete {
			break
		}
		if taken > 0 && len(in) > 0 {
			continue
		}
		n, err := c.inner.Read(buf[:])
		if n == 0 && err != nil {
			return err
		}
		in = append(in, buf[:n]...)
	}
	c.setPending(append(c.handshake.request(), in...))
	c.handshake = socksHandshake{} // holds a password
	c.phase.Store(socksAnswering)
	return nil
}

// Write implements net.Conn.
func (c *socksConn) Write(p []byte) (int, error) {
	if c.phase.Load() <= socksThrough {
		return c.inner.Write(p)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	switch c.phase.Load() {
	case socksThrough:
		return c.inner.Write(p)
	case socksOver:
		return len(p), nil // the rest of an answer that was translated
	}
	c.head = append(c.head, p...)
	if err := c.translate(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// translate answers the client when the head of the answer is complete.
func (c *socksConn) translate() error {
	for {
		end := bytes.Index(c.head, []byte("\r\n\r\n"))
		if end < 0 {
			if len(c.head) > maxSocksHead {
				return c.refuse(socksFailure)
			}
			return nil
		}
		head, rest := c.head[:end+4], c.head[end+4:]
		if interim(head) {
			c.head = rest
			continue
		}
		code := socksCode(head)
		if code != socksSucceeded {
			return c.refuse(code)
		}
		_, err := c.inner.Write(append(socksReplyOf(socksSucceeded), rest...))
		c.head = nil
		c.phase.Store(socksThrough)
		return err
	}
}

func (c *socksConn) refuse(code byte) error {
	c.head = nil
	c.phase.Store(socksOver)
	_, err := c.inner.Write(socksReplyOf(code))
	return err
}

// ReadFrom implements io.ReaderFrom: sendfile and splice work where bytes pass.
func (c *socksConn) ReadFrom(r io.Reader) (int64, error) {
	if to, ok := c.inner.(io.ReaderFrom); ok && c.phase.Load() <= socksThrough {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

// CloseWrite closes the sending half, or returns errors.ErrUnsupported.
func (c *socksConn) CloseWrite() error {
	if half, ok := c.inner.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the connection inside, which says whose it is and for how long
// it was silent. Bytes go through this one, see Unwrap.
func (c *socksConn) NetConn() net.Conn { return c.inner }

// Unwrap returns the connection that carries a tunnel: the one inside when
// nothing stands between it and the tunnel any more, so that the relay knows it
// for what it is.
func Unwrap(conn net.Conn) net.Conn {
	if c, ok := conn.(*socksConn); ok && c.phase.Load() == socksThrough && !c.hasPending.Load() {
		return c.inner
	}
	return conn
}
