// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package idle decides who may stay.
//
// A connection is idle when no byte moved on it in either direction. Relay
// carries a tunnel between two connections and ends it after a silence;
// Listener, and the listener wrapper idle_timeout around it, close accepted
// connections after one.
//
// The package never sets deadlines on accepted connections, which belong to
// the HTTP server, and knows nothing of sessions: a session does not notice
// that a connection ends.
package idle

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Tunnel is two connections whose bytes belong together.
type Tunnel struct {
	Client, Target net.Conn

	// Bytes that were read from a side before the relay began: what a client
	// sent behind its CONNECT, what an exit sent behind its 200. They are
	// delivered first, once.
	FromClient, FromTarget []byte

	// IdleTimeout ends the tunnel after that long without a byte in either
	// direction. Zero: never.
	IdleTimeout time.Duration
}

// Reason is why a tunnel ended. A closed set: it labels metrics.
type Reason string

const (
	// Finished means that both sides had said all, or that one of them could
	// not be told that the other had.
	Finished Reason = "finished"
	// Idle means that no byte moved for the idle timeout.
	Idle Reason = "idle"
	// Canceled means that the context ended.
	Canceled Reason = "canceled"
	// ClientFailed means that reading from the client or writing to it failed.
	ClientFailed Reason = "client"
	// TargetFailed means that reading from the target or writing to it failed.
	TargetFailed Reason = "target"
)

// Result is what became of a tunnel.
type Result struct {
	// Bytes from client to target and from target to client.
	Sent, Received int64
	Reason         Reason
}

const (
	// bufferSize is what one read takes at most. Larger ones measured no
	// faster over loopback, and each active direction holds one.
	bufferSize = 32 << 10

	// drainTimeout is how long a tunnel whose one side has failed goes on
	// delivering what the other one still says: enough for what is on its way,
	// short enough for a peer that will never stop.
	drainTimeout = 5 * time.Second
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Relay carries a tunnel until it ends, and closes both connections. When one
// side closes its half, what it had sent is delivered and then the other side's
// half is closed; the opposite direction goes on. It leaves no goroutine.
func Relay(ctx context.Context, t Tunnel) Result {
	r := &relay{tunnel: t}
	r.moved()
	if t.IdleTimeout > 0 {
		r.mu.Lock()
		r.clock = time.AfterFunc(t.IdleTimeout, r.check)
		r.mu.Unlock()
	}
	stopWatching := context.AfterFunc(ctx, func() { r.finish(Canceled) })

	done := make(chan struct{})
	go r.upstream(done)
	r.copy(direction{from: t.Target, to: t.Client, early: t.FromTarget, count: &r.received, fromFailed: TargetFailed, toFailed: ClientFailed})
	<-done

	stopWatching()
	r.finish(Finished)
	return Result{Sent: r.sent.Load(), Received: r.received.Load(), Reason: r.reason}
}

type relay struct {
	tunnel         Tunnel
	sent, received atomic.Int64
	last           atomic.Int64 // when a byte last moved, nanoseconds since 1970

	mu     sync.Mutex
	clock  *time.Timer
	drain  *time.Timer
	ended  bool
	reason Reason
}

// direction is one way through a tunnel.
type direction struct {
	from, to             net.Conn
	early                []byte
	count                *atomic.Int64
	fromFailed, toFailed Reason
}

// upstream carries bytes from client to target. It ends with its copy.
func (r *relay) upstream(done chan<- struct{}) {
	defer close(done)
	t := &r.tunnel
	r.copy(direction{from: t.Client, to: t.Target, early: t.FromClient, count: &r.sent, fromFailed: ClientFailed, toFailed: TargetFailed})
}

// copy carries one direction to its end, which is a close of the sender's half,
// a failure of either side, or the end of the tunnel.
func (r *relay) copy(d direction) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	if len(d.early) > 0 && !r.deliver(d, d.early) {
		discard(d.from, buf)
		return
	}
	for {
		n, err := d.from.Read(buf[:])
		if n > 0 && !r.deliver(d, buf[:n]) {
			discard(d.from, buf)
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			r.halfClose(d.to)
			return
		case err != nil:
			r.failed(d.fromFailed, d.to)
			return
		}
	}
}

func (r *relay) deliver(d direction, p []byte) bool {
	r.moved()
	n, err := d.to.Write(p)
	d.count.Add(int64(n))
	r.moved()
	if err != nil {
		r.failed(d.toFailed, d.from)
		return false
	}
	return true
}

func (r *relay) moved() { r.last.Store(time.Now().UnixNano()) }

// check runs when the tunnel might be idle: it is, or it is asked again when it
// might be.
func (r *relay) check() {
	silence := time.Duration(time.Now().UnixNano() - r.last.Load())
	if silence >= r.tunnel.IdleTimeout {
		r.finish(Idle)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.clock.Reset(r.tunnel.IdleTimeout - silence)
	}
}

// halfClose tells a side that the other one has said all. A connection that
// cannot be half closed ends the tunnel: the peer would wait for ever.
func (r *relay) halfClose(conn net.Conn) {
	if half := halfCloser(conn); half == nil || half.CloseWrite() != nil {
		r.finish(Finished)
	}
}

// failed notes that one side is gone. What that side had sent before was
// written to the other, which is told that this is all, and has a moment to
// take it and to close.
func (r *relay) failed(reason Reason, other net.Conn) {
	r.mu.Lock()
	if r.ended || r.drain != nil {
		r.mu.Unlock()
		return
	}
	r.reason = reason
	r.drain = time.AfterFunc(drainTimeout, func() { r.finish(reason) })
	r.mu.Unlock()

	r.halfClose(other)
	gone := r.tunnel.Client
	if reason == TargetFailed {
		gone = r.tunnel.Target
	}
	_ = gone.Close()
}

// discard reads what nobody can be told any more. Closing a socket with bytes
// unread would send a RST, which may destroy what its peer has not read yet.
func discard(conn net.Conn, buf *[bufferSize]byte) {
	for {
		if _, err := conn.Read(buf[:]); err != nil {
			return
		}
	}
}

// finish ends the tunnel: both connections are closed, which ends both copies.
func (r *relay) finish(reason Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	if r.reason == "" {
		r.reason = reason
	}
	for _, timer := range []*time.Timer{r.clock, r.drain} {
		if timer != nil {
			timer.Stop()
		}
	}
	_ = r.tunnel.Client.Close()
	_ = r.tunnel.Target.Close()
}

type closeWriter interface{ CloseWrite() error }

// halfCloser returns what closes the sending half of a connection, or nil.
// Wrappers without that method are looked through: Caddy's hide the connection
// in an embedded exported field Conn, others have NetConn. A TLS connection has
// the method itself and is never looked through.
func halfCloser(conn net.Conn) closeWriter {
	for range 8 { // no sane stack of wrappers is higher
		if half, ok := conn.(closeWriter); ok {
			return half
		}
		inner := unwrap(conn)
		if inner == nil {
			return nil
		}
		conn = inner
	}
	return nil
}

// unwrap returns the connection inside of a wrapper that adds no layer of its
// own to the bytes, or nil.
func unwrap(conn net.Conn) net.Conn {
	v := reflect.ValueOf(conn)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	field, ok := v.Type().FieldByName("Conn")
	if !ok || !field.Anonymous || !field.IsExported() {
		return nil
	}
	value, err := v.FieldByIndexErr(field.Index)
	if err != nil || !value.CanInterface() {
		return nil
	}
	inner, _ := reflect.TypeAssert[net.Conn](value)
	return inner
}
