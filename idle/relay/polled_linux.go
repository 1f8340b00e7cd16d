// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"net"
	"reflect"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

// Bits of polled.events: what happened, and that somebody is at it.
const (
	clientReadable uint32 = 1 << iota
	clientWritable
	clientHung
	targetReadable
	targetWritable
	targetHung
	due
	unload
	ending
	running
)

// targetShift is from the bits of the client's events to those of the target's.
const targetShift = 3

// polled is a tunnel between two TCP connections. It owns their descriptors:
// they are no longer Go's, so nobody else closes them, and events come once.
//
// Whoever posts events first handles them, and whatever is posted meanwhile,
// so one goroutine at a time has the fields below; none of what it does waits.
type polled struct {
	events atomic.Uint32
	reason atomic.Pointer[idle.Reason] // why to end, once somebody says so

	poller         *poller
	client, target end
	up, down       way

	begin    time.Time
	timeout  time.Duration // 0: none
	lifetime time.Time     // zero: for ever
	drainEnd time.Time     // zero: neither side failed
	failed   idle.Reason
	deadline idle.Deadline
	over     bool
	stop     func() bool // ends the watch of the context
	owner    any
	ended    func(Result)
}

func (t *polled) belongsTo() any { return t.owner }

// end is one side of a tunnel.
type end struct {
	tunnel *polled
	fd     int32
	serial int32
	shift  uint8  // of its bits
	armed  bool   // waits for what is in mask
	hung   bool   // an error or the end of both halves was seen
	mask   uint32 // of epoll
	failed idle.Reason
}

// bits are the events that epoll reports, as posted.
func (e *end) bits(events uint32) (bits uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP) != 0 {
		bits |= clientReadable
	}
	if events&unix.EPOLLOUT != 0 {
		bits |= clientWritable
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		bits |= clientHung
	}
	return bits << e.shift
}

// startPolled begins a tunnel without goroutines, or returns false and has
// touched nothing: not both are plain TCP, or the system refuses.
func startPolled(ctx context.Context, tunnel Tunnel, ended func(Result)) bool {
	client, target := plainTCP(tunnel.Client), plainTCP(tunnel.Target)
	if client == nil || target == nil {
		return false
	}
	clientFD, ok := takeDescriptor(client)
	if !ok {
		return false
	}
	targetFD, ok := takeDescriptor(target)
	if !ok {
		_ = unix.Close(clientFD)
		return false
	}
	t := &polled{begin: time.Now(), timeout: tunnel.IdleTimeout, ended: ended, owner: tunnel.Owner}
	t.client = end{tunnel: t, fd: int32(clientFD), mask: unix.EPOLLIN, failed: idle.ClientFailed}
	t.target = end{tunnel: t, fd: int32(targetFD), mask: unix.EPOLLIN, failed: idle.TargetFailed, shift: targetShift}
	t.up = way{from: &t.client, to: &t.target, pending: tunnel.FromClient, wants: toRead}
	t.down = way{from: &t.target, to: &t.client, pending: tunnel.FromTarget, wants: toRead}
	t.deadline.Owner = t
	t.events.Store(running) // until all is set up
	if !t.register() {
		_ = unix.Close(clientFD)
		_ = unix.Close(targetFD)
		return false
	}
	for _, conn := range []net.Conn{tunnel.Client, tunnel.Target} {
		t.inherit(conn)
		_ = conn.Close() // our descriptors are others: nobody is told
	}
	live.add(t)
	if ctx.Done() != nil {
		t.stop = context.AfterFunc(ctx, func() { t.finish(idle.Canceled) })
	}
	t.setDeadline(t.begin)
	if len(t.up.pending)+len(t.down.pending) > 0 {
		t.events.Or(clientReadable | targetReadable)
	}
	t.handleAll(nil)
	return true
}

// plainTCP returns the TCP connection in wrappers that do nothing to its bytes,
// or nil. A multipath one has no clock, see idle.KernelClock.
func plainTCP(conn net.Conn) *net.TCPConn {
	for range idle.MaxWrappers {
		switch c := conn.(type) {
		case *net.TCPConn:
			if multipath, err := c.MultipathTCP(); err != nil || multipath {
				return nil
			}
			return c
		case idle.Passthrough:
			return c.TCP() // its clock is the kernel's, or it were none
		default:
			if !passesThrough(conn) {
				return nil
			}
			conn = idle.EmbeddedConn(conn)
		}
	}
	return nil
}

// passesThrough knows Caddy's wrappers that only count, or look at the first
// bytes of a connection, which are through when it is a tunnel.
func passesThrough(conn net.Conn) bool {
	kind := reflect.TypeOf(conn)
	if kind == nil || kind.Kind() != reflect.Pointer || kind.Elem().PkgPath() != "github.com/caddyserver/caddy/v2/modules/caddyhttp" {
		return false
	}
	return kind.Elem().Name() == "hijackedConn" || kind.Elem().Name() == "http2Conn"
}

// takeDescriptor returns another descriptor of the same socket.
func takeDescriptor(conn *net.TCPConn) (int, bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	var fd int
	var dupErr error
	if err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || dupErr != nil {
		return 0, false
	}
	if fd >= chunkSize*chunks || !idle.TellsSilenceOf(fd) {
		_ = unix.Close(fd)
		return 0, false
	}
	return fd, true
}

// register lets the poller watch both ends.
func (t *polled) register() bool {
	if t.poller = acquirePoller(); t.poller == nil {
		return false
	}
	if t.poller.add(&t.client) == nil {
		if t.poller.add(&t.target) == nil {
			t.client.armed, t.target.armed = true, true
			return true
		}
		t.poller.remove(&t.client)
		_ = t.poller.control(unix.EPOLL_CTL_DEL, &t.client) // its socket lives on
	}
	releasePoller()
	return false
}

// inherit takes over what a listener says about its connection, which ends its
// watch.
func (t *polled) inherit(conn net.Conn) {
	for range idle.MaxWrappers {
		c, ok := conn.(idle.Passthrough)
		if _, plain := conn.(*net.TCPConn); plain {
			return
		}
		if !ok {
			if conn = idle.EmbeddedConn(conn); conn == nil {
				return
			}
			continue
		}
		timeout, lifetime := c.Limits()
		if timeout > 0 && (t.timeout == 0 || timeout < t.timeout) {
			t.timeout = timeout
		}
		t.lifetime = idle.Earlier(t.lifetime, lifetime)
		conn = c.TCP()
	}
}

// finish ends the tunnel, from anywhere.
func (t *polled) finish(reason idle.Reason) {
	t.reason.CompareAndSwap(nil, &reason)
	t.post(ending, nil)
}

// Due implements the owner of a deadline.
func (t *polled) Due() { t.post(due, nil) }

// post adds events and handles them, unless somebody else is at it, who will.
// Without a buffer of its own the caller borrows one.
func (t *polled) post(bits uint32, buf []byte) {
	if t.events.Or(bits|running)&running == 0 {
		t.handleAll(buf)
	}
}

func (t *polled) handleAll(buf []byte) {
	if buf == nil {
		borrowed := buffers.Get().(*[bufferSize]byte)
		defer buffers.Put(borrowed)
		buf = borrowed[:]
	}
	for {
		bits := t.events.And(running) &^ running
		if !t.over {
			t.handle(bits, buf)
		}
		if t.events.CompareAndSwap(running, 0) {
			return
		}
	}
}

func (t *polled) handle(bits uint32, buf []byte) {
	t.client.seen(bits)
	t.target.seen(bits >> targetShift)
	if reason := t.reason.Load(); reason != nil {
		t.close(*reason)
		return
	}
	if bits&due != 0 && t.checkTime(time.Now()) {
		return
	}
	if bits&unload != 0 {
		t.unload(&t.up)
		t.unload(&t.down)
	}
	if bits&(clientReadable|clientHung|targetWritable|targetHung) != 0 {
		t.advance(&t.up, buf)
	}
	if bits&(targetReadable|targetHung|clientWritable|clientHung) != 0 {
		t.advance(&t.down, buf)
	}
	if t.up.state == finished && t.down.state == finished {
		t.close(idle.Finished)
		return
	}
	t.arm(&t.client, t.up.wants&toRead|t.down.wants&toWrite)
	t.arm(&t.target, t.down.wants&toRead|t.up.wants&toWrite)
}

// seen notes events of an end: it is no longer armed.
func (e *end) seen(bits uint32) {
	if bits&(clientReadable|clientWritable|clientHung) != 0 {
		e.armed = false
	}
	e.hung = e.hung || bits&clientHung != 0
}

// arm waits for what the ways want of an end, and for its failure.
func (t *polled) arm(e *end, w wants) {
	var mask uint32
	if w&toRead != 0 {
		mask |= unix.EPOLLIN
	}
	if w&toWrite != 0 {
		mask |= unix.EPOLLOUT
	}
	if mask == 0 && e.hung {
		// Nothing can be had from it, and epoll would say so for ever. If its
		// peer is gone, the other side's is soon told.
		if !e.alive() {
			t.fail(e.failed)
		}
		return
	}
	if e.armed && e.mask == mask {
		return
	}
	e.armed, e.mask = true, mask
	if t.poller.control(unix.EPOLL_CTL_MOD, e) != nil {
		t.finish(e.failed)
	}
}

// alive reports whether the peer has not broken the connection off.
func (e *end) alive() bool {
	code, err := unix.GetsockoptInt(int(e.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	return err == nil && code == 0
}

// checkTime ends the tunnel if its time is over, and else sets the next one.
func (t *polled) checkTime(now time.Time) (over bool) {
	switch {
	case !t.drainEnd.IsZero() && !now.Before(t.drainEnd):
		t.close(t.failed)
		return true
	case !t.lifetime.IsZero() && !now.Before(t.lifetime):
		t.close(idle.Lifetime)
		return true
	case t.timeout > 0 && t.silence(now) >= t.timeout:
		t.close(idle.Idle)
		return true
	}
	t.setDeadline(now)
	return false
}

func (t *polled) setDeadline(now time.Time) {
	at := idle.Earlier(t.drainEnd, t.lifetime)
	if t.timeout > 0 {
		at = idle.Earlier(at, now.Add(t.timeout-t.silence(now)))
	}
	if !at.IsZero() {
		t.poller.deadlines.Set(&t.deadline, at)
	}
}

// silence returns how long no byte moved.
func (t *polled) silence(now time.Time) time.Duration {
	silence := now.Sub(t.begin)
	if silence <= 0 {
		return 0
	}
	for _, e := range []*end{&t.client, &t.target} {
		if s, err := idle.SilenceOf(int(e.fd)); err == nil {
			silence = min(silence, s)
		}
	}
	return silence
}

// fail notes that one side is gone, and that the tunnel must end soon.
func (t *polled) fail(reason idle.Reason) {
	if t.failed != "" {
		return
	}
	t.failed = reason
	now := time.Now()
	t.drainEnd = now.Add(drainTimeout)
	t.setDeadline(now)
}

// close ends the tunnel: the sockets' buffers are delivered, and then FINs.
func (t *polled) close(reason idle.Reason) {
	t.over = true
	if t.failed != "" {
		reason = t.failed
	}
	t.poller.deadlines.Stop(&t.deadline)
	for _, w := range []*way{&t.up, &t.down} {
		w.pending = nil
		if w.pipe != nil {
			t.poller.pipes.drop(w.pipe)
			w.pipe = nil
		}
	}
	for _, e := range []*end{&t.client, &t.target} {
		t.poller.remove(e)
		_ = unix.Close(int(e.fd))
	}
	releasePoller()
	if t.stop != nil {
		t.stop()
	}
	idle.Closed(idle.Tunnels, reason)
	live.remove(t)
	go t.ended(Result{Sent: t.up.count, Received: t.down.count, Reason: reason})
}
