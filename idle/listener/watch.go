// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"net"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/idle"
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
	clock    idle.Clock
	deadline idle.Deadline

	phase    atomic.Uint32
	requests atomic.Int64
	ending   atomic.Pointer[idle.Reason] // why the connection has to go, once it has
	closed   atomic.Bool
}

// start begins to watch a connection, whose idle.KernelClock is given.
func (w *watch) start(l *Listener, conn net.Conn, kernel *net.TCPConn) {
	w.listener, w.conn, w.deadline.Owner = l, conn, w
	w.clock.StartWith(kernel)
	at := w.clock.Begin.Add(l.Timeout)
	if l.MaxLifetime > 0 {
		at = idle.Earlier(at, w.clock.Begin.Add(l.MaxLifetime))
	}
	l.deadlines.Set(&w.deadline, at)
}

// stop ends the watch of a connection that is closed.
func (w *watch) stop() {
	w.closed.Store(true)
	w.listener.deadlines.Stop(&w.deadline)
}

// limits are the listener's, for who takes the connection over. Zero: none.
func (w *watch) limits() (timeout time.Duration, lifetime time.Time) {
	if w.listener.MaxLifetime > 0 {
		lifetime = w.clock.Begin.Add(w.listener.MaxLifetime)
	}
	return w.listener.Timeout, lifetime
}

// Due runs when the connection might have to be closed.
func (w *watch) Due() {
	if w.closed.Load() {
		return
	}
	now := time.Now()
	asks := phase(w.phase.Load()) == asking
	expired := w.expired(now)
	silence := w.clock.Silence()
	exempt := asks && w.listener.ExemptRequests
	switch {
	case expired && !asks:
		w.mustGo(idle.Lifetime)
		w.close(silence)
		return
	case silence >= w.listener.Timeout && !exempt:
		w.mustGo(idle.Idle)
		w.close(silence)
		return
	}
	next := now.Add(w.listener.Timeout - silence)
	if exempt {
		// Were the answer through at once, the silence would be over then.
		next = now.Add(w.listener.Timeout)
	}
	if w.listener.MaxLifetime > 0 && !expired {
		next = idle.Earlier(next, w.clock.Begin.Add(w.listener.MaxLifetime))
	}
	w.listener.deadlines.Set(&w.deadline, next)
	if w.closed.Load() { // meanwhile
		w.listener.deadlines.Stop(&w.deadline)
	}
}

func (w *watch) expired(now time.Time) bool {
	return w.listener.MaxLifetime > 0 && now.Sub(w.clock.Begin) >= w.listener.MaxLifetime
}

// mustGo notes why the connection has to go. The first reason counts.
func (w *watch) mustGo(reason idle.Reason) {
	if w.ending.CompareAndSwap(nil, &reason) {
		idle.Closed(idle.Connections, reason)
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
