// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

const (
	// bufferSize is what one read takes at most. Larger ones measured no
	// faster over loopback, and each active direction holds one.
	bufferSize = 32 << 10

	// firstSize is what a direction reads into while it is idle; only what fills
	// that makes it take a buffer.
	firstSize = 256

	// bufferPatience is how long a direction keeps a buffer and reads nothing.
	bufferPatience = time.Second
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// newCopied makes a tunnel whose bytes two goroutines copy.
func newCopied(t Tunnel) *copied {
	client := &side{Conn: t.Client, failed: idle.ClientFailed}
	target := &side{Conn: t.Target, failed: idle.TargetFailed}
	r := &copied{client: client, target: target, timeout: t.IdleTimeout, owner: t.Owner, over: make(chan struct{})}
	r.up = direction{from: client, to: target, early: t.FromClient}
	r.down = direction{from: target, to: client, early: t.FromTarget}
	return r
}

// serve carries the tunnel to its end.
func (r *copied) serve(ctx context.Context, ended func(Result)) {
	live.add(r)
	if r.timeout > 0 {
		r.clock.Start(r.client.Conn, r.target.Conn)
		r.mu.Lock()
		r.idle = time.AfterFunc(r.timeout, r.check)
		r.mu.Unlock()
	}
	stopWatching := context.AfterFunc(ctx, func() { r.finish(idle.Canceled) })

	done := make(chan struct{})
	go r.upstream(done)
	r.copy(&r.down)
	<-done

	stopWatching()
	r.finish(idle.Finished)
	idle.Closed(idle.Tunnels, r.reason)
	live.remove(r)
	ended(Result{Sent: r.up.count, Received: r.down.count, Reason: r.reason})
}

// copied is a tunnel whose bytes two goroutines copy: one whose ends are not
// both plain TCP, or any on a system without epoll.
type copied struct {
	client, target *side
	up, down       direction
	timeout        time.Duration
	owner          any
	clock          idle.Clock
	over           chan struct{} // closed when the tunnel has ended

	mu     sync.Mutex
	idle   *time.Timer
	drain  *time.Timer
	ended  bool
	reason idle.Reason
}

func (r *copied) belongsTo() any { return r.owner }

// writeBreaker closes the sending half of a connection, which is not complete.
type writeBreaker interface{ BreakWrite() }

// side is one end of a tunnel.
type side struct {
	net.Conn
	failed idle.Reason
	// We closed it, because half of it could not be closed: that reading from
	// it fails is its end, no failure.
	closed atomic.Bool
}

// direction is one way through a tunnel.
type direction struct {
	from, to *side
	early    []byte
	count    int64

	first     [firstSize]byte
	expiry    time.Time // of the read deadline; zero: none
	unlimited bool      // the connection knows no deadlines
}

// upstream carries bytes from client to target. It ends with its copy.
func (r *copied) upstream(done chan<- struct{}) {
	defer close(done)
	r.copy(&r.up)
}

// copy carries one direction to its end, which is a close of the sender's half,
// a failure of either side, or the end of the tunnel. A failure is none of the
// opposite direction's business, which goes on for the drain: a server that
// answers 413 and closes has its answer on the way when writing to it fails.
func (r *copied) copy(d *direction) {
	switch failed := r.carry(d); failed {
	case d.to:
		r.fail(d.to.failed)
		r.discard(d.from)
	case d.from:
		r.fail(d.from.failed)
		select {
		case <-r.over: // we closed it
			d.to.halfClose()
		default:
			d.to.breakOff()
		}
	default:
		d.to.halfClose()
	}
}

// carry returns the side that failed, or nil at the end of what there was to
// carry.
func (r *copied) carry(d *direction) *side {
	if len(d.early) > 0 && !r.deliver(d, d.early) {
		return d.to
	}
	d.early = nil
	for {
		n, err := d.from.Read(d.first[:])
		if n > 0 && !r.deliver(d, d.first[:n]) {
			return d.to
		}
		if err == nil && n == firstSize {
			var failed *side
			if failed, err = r.carryBurst(d); failed != nil {
				return failed
			}
		}
		switch {
		case errors.Is(err, io.EOF) || err != nil && d.from.closed.Load():
			return nil
		case err != nil:
			return d.from
		}
	}
}

// carryBurst carries in a buffer until nothing comes for a while. It returns
// the receiver if that failed, or how reading ended.
func (r *copied) carryBurst(d *direction) (*side, error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		d.limitRead(time.Now())
		n, err := d.from.Read(buf[:])
		if n > 0 && !r.deliver(d, buf[:n]) {
			return d.to, nil
		}
		if err != nil && !d.expiry.IsZero() && errors.Is(err, os.ErrDeadlineExceeded) {
			d.expiry = time.Time{}
			return nil, d.from.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return nil, err
		}
		if d.unlimited && n < firstSize {
			return nil, nil // no deadline takes the buffer away: the burst seems over
		}
	}
}

// limitRead lets the next read end in time to give the buffer back. A read that
// runs out of time loses nothing, TLS included.
func (d *direction) limitRead(now time.Time) {
	if d.unlimited || d.expiry.Sub(now) > bufferPatience/2 {
		return
	}
	d.expiry = now.Add(bufferPatience)
	if d.from.SetReadDeadline(d.expiry) != nil {
		d.expiry, d.unlimited = time.Time{}, true
	}
}

func (r *copied) deliver(d *direction, p []byte) bool {
	r.clock.Moved()
	n, err := d.to.Write(p)
	d.count += int64(n)
	r.clock.Moved()
	return err == nil
}

// halfClose tells a side that the other one has said all. If half of it cannot
// be closed, all of it is, or its peer would wait for ever. Other errors are of
// a peer that is gone: what it had said may still be unread, and reading tells.
func (s *side) halfClose() {
	if errors.Is(idle.HalfClose(s.Conn), errors.ErrUnsupported) {
		s.closed.Store(true)
		_ = s.Close()
	}
}

// breakOff tells a side that the other one has failed, as far as its protocol can
// say that; else that it has said all.
func (s *side) breakOff() {
	if conn, ok := s.Conn.(writeBreaker); ok {
		conn.BreakWrite()
		return
	}
	s.halfClose()
}

// discard reads what nobody can be told any more, see drainLimit.
func (r *copied) discard(from *side) {
	if n, _ := io.CopyN(io.Discard, from, drainLimit); n == drainLimit {
		<-r.over
	}
}

// check runs when the tunnel might be idle: it is, or it is asked again when it
// might be.
func (r *copied) check() {
	silence := r.clock.Silence()
	if silence >= r.timeout {
		r.finish(idle.Idle)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.idle.Reset(r.timeout - silence)
	}
}

// fail notes that one side is gone, and that the tunnel must end soon.
func (r *copied) fail(reason idle.Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.drain != nil {
		return
	}
	r.reason = reason
	r.drain = time.AfterFunc(drainTimeout, func() { r.finish(reason) })
}

// finish ends the tunnel: both connections are closed, which ends both copies.
func (r *copied) finish(reason idle.Reason) {
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
