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
	// direction; also one whose one side has closed. Zero: never.
	IdleTimeout time.Duration
}

// Reason is why a tunnel ended. A closed set: it labels metrics.
type Reason string

const (
	// Finished means that both sides had said all, or that one of them had and
	// the other's half could not be closed alone.
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

	// drainTimeout is how long a tunnel whose one side has failed goes on: what
	// was said before is delivered, and bytes that nobody can be told any more
	// are read, for closing a socket with bytes unread sends a RST, which
	// destroys what its peer has not got yet. Enough for four retransmissions,
	// short enough for a peer that never stops.
	drainTimeout = 5 * time.Second

	// drainLimit is how many bytes are read for that. An upload or a download
	// that nobody wants any more is left to the flow control then: exits bill
	// by the byte, and a fast one sends gigabytes in five seconds.
	drainLimit = 256 << 10
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Relay carries a tunnel until it ends, and closes both connections. When one
// side closes its half, what it had sent is delivered and then the other side's
// half is closed, or all of it if half of it cannot be closed alone; the opposite
// direction goes on. It leaves no goroutine.
func Relay(ctx context.Context, t Tunnel) Result {
	client := &side{Conn: t.Client, failed: ClientFailed}
	target := &side{Conn: t.Target, failed: TargetFailed}
	r := &relay{client: client, target: target, timeout: t.IdleTimeout, over: make(chan struct{})}
	if t.IdleTimeout > 0 {
		r.clock.start(t.Client, t.Target)
		r.mu.Lock()
		r.idle = time.AfterFunc(t.IdleTimeout, r.check)
		r.mu.Unlock()
	}
	stopWatching := context.AfterFunc(ctx, func() { r.finish(Canceled) })

	up := &direction{from: client, to: target, early: t.FromClient}
	down := &direction{from: target, to: client, early: t.FromTarget}
	done := make(chan struct{})
	go r.upstream(up, done)
	r.copy(down)
	<-done

	stopWatching()
	r.finish(Finished)
	return Result{Sent: up.count, Received: down.count, Reason: r.reason}
}

type relay struct {
	client, target *side
	timeout        time.Duration
	clock          clock
	over           chan struct{} // closed when the tunnel has ended

	mu     sync.Mutex
	idle   *time.Timer
	drain  *time.Timer
	ended  bool
	reason Reason
}

// side is one end of a tunnel.
type side struct {
	net.Conn
	failed Reason
	// We closed it, because half of it could not be closed: that reading from
	// it fails is its end, no failure.
	closed atomic.Bool
}

// direction is one way through a tunnel.
type direction struct {
	from, to *side
	early    []byte
	count    int64
}

// upstream carries bytes from client to target. It ends with its copy.
func (r *relay) upstream(d *direction, done chan<- struct{}) {
	defer close(done)
	r.copy(d)
}

// copy carries one direction to its end, which is a close of the sender's half,
// a failure of either side, or the end of the tunnel. A failure is none of the
// opposite direction's business, which goes on for the drain: a server that
// answers 413 and closes has its answer on the way when writing to it fails.
func (r *relay) copy(d *direction) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	switch failed := r.carry(d, buf[:]); failed {
	case d.to:
		r.fail(d.to.failed)
		r.discard(d.from)
	case d.from:
		r.fail(d.from.failed)
		d.to.halfClose()
	default:
		d.to.halfClose()
	}
}

// carry returns the side that failed, or nil at the end of what there was to
// carry.
func (r *relay) carry(d *direction, buf []byte) *side {
	if len(d.early) > 0 && !r.deliver(d, d.early) {
		return d.to
	}
	for {
		n, err := d.from.Read(buf)
		if n > 0 && !r.deliver(d, buf[:n]) {
			return d.to
		}
		switch {
		case errors.Is(err, io.EOF) || err != nil && d.from.closed.Load():
			return nil
		case err != nil:
			return d.from
		}
	}
}

func (r *relay) deliver(d *direction, p []byte) bool {
	r.clock.moved()
	n, err := d.to.Write(p)
	d.count += int64(n)
	r.clock.moved()
	return err == nil
}

// halfClose tells a side that the other one has said all. If half of it cannot
// be closed, all of it is, or its peer would wait for ever. Other errors are of
// a peer that is gone: what it had said may still be unread, and reading tells.
func (s *side) halfClose() {
	if errors.Is(halfClose(s.Conn), errors.ErrUnsupported) {
		s.closed.Store(true)
		_ = s.Close()
	}
}

// discard reads what nobody can be told any more, see drainLimit.
func (r *relay) discard(from *side) {
	if n, _ := io.CopyN(io.Discard, from, drainLimit); n == drainLimit {
		<-r.over
	}
}

// check runs when the tunnel might be idle: it is, or it is asked again when it
// might be.
func (r *relay) check() {
	silence := r.clock.silence()
	if silence >= r.timeout {
		r.finish(Idle)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.idle.Reset(r.timeout - silence)
	}
}

// fail notes that one side is gone, and that the tunnel must end soon.
func (r *relay) fail(reason Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.drain != nil {
		return
	}
	r.reason = reason
	r.drain = time.AfterFunc(drainTimeout, func() { r.finish(reason) })
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
	for _, timer := range []*time.Timer{r.idle, r.drain} {
		if timer != nil {
			timer.Stop()
		}
	}
	close(r.over)
	_ = r.client.Close()
	_ = r.target.Close()
}
