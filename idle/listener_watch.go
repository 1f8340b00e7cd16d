// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"net"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// lastFlush is how long a connection whose lifetime is over stays after its last
// answer: HTTP/2 reports the end of a stream before its last frame is flushed.
const lastFlush = time.Second

// phase is what an HTTP server said of a connection.
type phase uint32

const (
	quiet  phase = iota // no request under way, or nobody tells
	asking              // a request is under way
	taken               // hijacked: a WebSocket, a tunnel
)

// watch closes a connection when its time has come.
type watch struct {
	listener *Listener
	conn     net.Conn
	clock    clock
	deadline deadline

	phase    atomic.Uint32
	requests atomic.Int64
	ending   atomic.Pointer[Reason] // why the connection has to go, once it has
	closed   atomic.Bool
}

// start begins to watch a connection, whose kernelClock is given.
func (w *watch) start(l *Listener, conn net.Conn, kernel *net.TCPConn) {
	w.listener, w.conn, w.deadline.owner = l, conn, w
	w.clock.startWith(kernel)
	at := w.clock.begin.Add(l.Timeout)
	if l.MaxLifetime > 0 {
		at = earlier(at, w.clock.begin.Add(l.MaxLifetime))
	}
	l.deadlines.set(&w.deadline, at)
}

// stop ends the watch of a connection that is closed.
func (w *watch) stop() {
	w.closed.Store(true)
	w.listener.deadlines.stop(&w.deadline)
}

// limits are the listener's, for who takes the connection over. Zero: none.
func (w *watch) limits() (timeout time.Duration, lifetime time.Time) {
	if w.listener.MaxLifetime > 0 {
		lifetime = w.clock.begin.Add(w.listener.MaxLifetime)
	}
	return w.listener.Timeout, lifetime
}

// due runs when the connection might have to be closed.
func (w *watch) due() {
	if w.closed.Load() {
		return
	}
	now := time.Now()
	asks := phase(w.phase.Load()) == asking
	expired := w.expired(now)
	silence := w.clock.silence()
	exempt := asks && w.listener.ExemptRequests
	switch {
	case expired && !asks:
		w.mustGo(Lifetime)
		w.close(silence)
		return
	case silence >= w.listener.Timeout && !exempt:
		w.mustGo(Idle)
		w.close(silence)
		return
	}
	next := now.Add(w.listener.Timeout - silence)
	if exempt {
		// Were the answer through at once, the silence would be over then.
		next = now.Add(w.listener.Timeout)
	}
	if w.listener.MaxLifetime > 0 && !expired {
		next = earlier(next, w.clock.begin.Add(w.listener.MaxLifetime))
	}
	w.listener.deadlines.set(&w.deadline, next)
	if w.closed.Load() { // meanwhile
		w.listener.deadlines.stop(&w.deadline)
	}
}

func (w *watch) expired(now time.Time) bool {
	return w.listener.MaxLifetime > 0 && now.Sub(w.clock.begin) >= w.listener.MaxLifetime
}

// mustGo notes why the connection has to go. The first reason counts.
func (w *watch) mustGo(reason Reason) {
	if w.ending.CompareAndSwap(nil, &reason) {
		Closed(Connections, string(reason))
	}
}

func (w *watch) close(silence time.Duration) {
	if w.closed.Swap(true) {
		return
	}
	if _, plain := w.conn.(*net.TCPConn); plain {
		w.closeConn(silence)
		return
	}
	// A TLS connection waits for room for its close_notify; others are due.
	go w.closeConn(silence)
}

func (w *watch) closeConn(silence time.Duration) {
	if w.conn.Close() != nil || w.listener.logger == nil {
		return
	}
	if c := w.listener.logger.Check(zap.DebugLevel, "connection closed"); c != nil {
		c.Write(zap.Stringer("remote", w.conn.RemoteAddr()), zap.Duration("silence", silence),
			zap.String("closed", string(*w.ending.Load())))
	}
}
