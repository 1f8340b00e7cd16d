// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

// inThePast is a deadline that is over.
var inThePast = time.Unix(1, 0)

// hijacked is the client of a WebSocket over HTTP/1: a connection that is the
// handler's alone, so that its deadlines are as well. One in the past wakes a
// Read, also above TLS, which goes on where it was.
type hijacked struct {
	net.Conn
	early []byte       // what was read behind the request
	tcp   *net.TCPConn // under it, if the system tells of its backlog

	mu       sync.Mutex
	waking   bool
	deadline time.Time // of whoever holds the connection
}

func (c *hijacked) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && c.woken() {
		if err = errWoken; n > 0 {
			err = nil
		}
	}
	return n, err
}

func (*hijacked) Flush() error { return nil }

func (c *hijacked) CloseWrite() error { return idle.HalfClose(c.Conn) }

func (c *hijacked) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waking = true
	_ = c.Conn.SetReadDeadline(inThePast)
}

// woken puts the deadline back that wake replaced, and reports whether it did.
func (c *hijacked) woken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.waking {
		return false
	}
	c.waking = false
	return c.Conn.SetReadDeadline(c.deadline) == nil
}

func (c *hijacked) setReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.waking {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *hijacked) backlog() (taken uint64, more bool) {
	if c.tcp == nil {
		return 0, false
	}
	taken, more, _ = kernelBacklog(c.tcp)
	return taken, more
}

func (c *hijacked) abort() { _ = c.Conn.Close() }

// wsConn is what the carrier of a WebSocket over HTTP/1 holds. It has neither
// ReadFrom nor WriteTo, and shows nobody the connection inside: no byte goes
// past the frames.
type wsConn struct {
	webSocket
	conn hijacked
}

// LocalAddr implements net.Conn.
func (c *wsConn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *wsConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *wsConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *wsConn) SetReadDeadline(t time.Time) error { return c.conn.setReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *wsConn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// Close implements net.Conn. Nobody uses the connection any more when it
// returns: what Caddy put around it belongs to the request's log then.
func (c *wsConn) Close() error {
	c.stop()
	if c.writing.TryLock() {
		_ = c.sayHeld()
		c.writing.Unlock()
	}
	err := c.conn.Close()
	c.calls.Wait()
	return err
}

const pumpSize = 16 << 10 // what one DATA frame holds at most unless more was agreed on

// streamed is the client of a WebSocket over HTTP/2 or 3: the body of an
// extended CONNECT (RFC 8441, RFC 9220), and its response. A deadline would end
// such a body for good, so a goroutine reads it.
type streamed struct {
	body io.ReadCloser
	w    http.ResponseWriter
	ctl  *http.ResponseController

	once sync.Once
	woke chan struct{}
	read chan chunk    // from the pump
	done chan struct{} // closed when nobody reads any more
	ends chan struct{} // closed when the pump has ended
	next chan struct{} // the chunk is used up
	last chunk         // the rest of it
}

type chunk struct {
	p   []byte
	err error
}

func (c *streamed) init(body io.ReadCloser, w http.ResponseWriter) {
	c.body, c.w, c.ctl = body, w, http.NewResponseController(w)
	c.woke = make(chan struct{}, 1)
	c.read = make(chan chunk)
	c.next = make(chan struct{})
	c.done = make(chan struct{})
	c.ends = make(chan struct{})
}

// pump reads the body until it ends, at the latest when it is closed.
func (c *streamed) pump() {
	defer close(c.ends)
	buf := make([]byte, pumpSize)
	for {
		n, err := c.body.Read(buf)
		select {
		case c.read <- chunk{buf[:n], err}:
		case <-c.done:
			return
		}
		if err != nil {
			return
		}
		select {
		case <-c.next:
		case <-c.done:
			return
		}
	}
}

func (c *streamed) Read(p []byte) (int, error) {
	c.once.Do(func() { go c.pump() })
	if len(c.last.p) == 0 {
		if c.last.err != nil {
			return 0, c.last.err
		}
		select {
		case c.last = <-c.read:
		case <-c.woke:
			return 0, errWoken
		case <-c.done:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, c.last.p)
	c.last.p = c.last.p[n:]
	if len(c.last.p) > 0 || c.last.err != nil {
		return n, nil
	}
	select {
	case c.next <- struct{}{}:
	case <-c.done:
	}
	return n, nil
}

func (c *streamed) Write(p []byte) (int, error) { return c.w.Write(p) }

func (c *streamed) Flush() error { return c.ctl.Flush() }

// backlog is unknown: the connection is many streams'.
func (*streamed) backlog() (taken uint64, more bool) { return 0, false }

func (*streamed) CloseWrite() error { return errors.ErrUnsupported }

func (c *streamed) wake() {
	select {
	case c.woke <- struct{}{}:
	default:
	}
}

// abort resets the stream, which is what a deadline of its response does. It
// asks the innermost writer: those around it keep deadlines of their own, and
// may be writing now.
func (c *streamed) abort() {
	inner := c.w
	for range 4 * idle.MaxWrappers {
		wrapper, ok := inner.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		inner = wrapper.Unwrap()
	}
	_ = http.NewResponseController(inner).SetWriteDeadline(inThePast)
	_ = c.body.Close()
}

// end returns when the pump has ended.
func (c *streamed) end() {
	close(c.done)
	_ = c.body.Close()
	c.once.Do(func() { close(c.ends) })
	<-c.ends
}
