// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// share is how many bytes a way carries before others have theirs. Short ones
// measured far worse: the next turn is on another core.
const share = 32 << 20

// way is one direction through a polled tunnel.
type way struct {
	from, to *end
	pending  []byte // read and not yet written
	pipe     *pipe  // taken, with inPipe bytes that were read and not yet written
	inPipe   int
	count    int64
	discards int
	state    state
	wants    wants
	bulk     bool // the last read filled what there was room for
}

// state is how far a way has come.
type state uint8

const (
	carrying state = iota
	said           // the sender has said all, the rest is being delivered
	// discarding: the receiver is gone, and what the sender still says is read,
	// see drainLimit.
	discarding
	given // enough was discarded
	finished
)

// wants is what a way waits for.
type wants uint8

const (
	toRead wants = 1 << iota
	toWrite
)

// advance carries what can be carried without waiting.
func (t *polled) advance(w *way, buf []byte) {
	w.wants = 0
	for left := share; left > 0; {
		var moved int
		var wants wants
		switch w.state {
		case carrying, said:
			moved, wants = t.carry(w, buf)
		case discarding:
			moved, wants = w.discard(buf)
		case given, finished:
			t.giveBack(w)
			return
		}
		if wants != 0 {
			w.wants = wants
			t.giveBack(w)
			return
		}
		left -= max(moved, 1)
	}
	w.wants = toRead
	if len(w.pending) > 0 || w.inPipe > 0 {
		w.wants = toWrite
	}
	t.giveBack(w)
}

func (t *polled) other(w *way) *way {
	if w == &t.up {
		return &t.down
	}
	return &t.up
}

// giveBack puts the pipe back, or notes who waits with it.
func (t *polled) giveBack(w *way) {
	switch {
	case w.pipe == nil:
	case w.inPipe > 0:
		t.poller.pipes.hold(w.pipe, t)
	default:
		t.poller.pipes.put(w.pipe)
		w.pipe = nil
	}
}

// carry writes what is pending, or else reads and writes once. It returns what
// the way must wait for, if it must.
func (t *polled) carry(w *way, buf []byte) (int, wants) {
	switch {
	case len(w.pending) > 0:
		n, wants := t.write(w, w.pending)
		if w.pending = w.pending[n:]; len(w.pending) == 0 {
			w.pending = nil
		}
		return n, wants
	case w.inPipe > 0:
		return t.splice(w)
	case w.state == said:
		// Other errors than these are of a peer that is gone: what it had said
		// may still be unread, and reading tells. Where the other way is finished
		// too, closing says the same.
		if t.other(w).state != finished {
			_ = unix.Shutdown(int(w.to.fd), unix.SHUT_WR)
		}
		w.state = finished
		return 0, 0
	}
	if w.bulk && w.pipe == nil {
		w.pipe = t.poller.pipes.take()
	}
	if w.bulk && w.pipe != nil {
		return t.fill(w)
	}
	n, err := ignoringSignals(func() (int, error) { return unix.Read(int(w.from.fd), buf) })
	if wants, ok := t.received(w, n, err); !ok {
		return 0, wants
	}
	w.bulk = n == len(buf)
	m, wants := t.write(w, buf[:n])
	if m < n && w.state == carrying {
		w.pending = append([]byte(nil), buf[m:n]...)
	}
	return n, wants
}

// fill moves what came into the pipe, and on.
func (t *polled) fill(w *way) (int, wants) {
	n, err := ignoringSignals(func() (int, error) {
		n, err := unix.Splice(int(w.from.fd), nil, w.pipe.w, nil, pipeSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	if spliceRefused(err) {
		t.poller.pipes.refused.Store(true)
		t.giveBack(w)
		return 0, 0
	}
	if wants, ok := t.received(w, n, err); !ok {
		return 0, wants
	}
	w.bulk = n >= bufferSize
	w.inPipe = n
	return t.splice(w)
}

// received looks at how a read ended; false: with nothing to carry.
func (t *polled) received(w *way, n int, err error) (wants, bool) {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return toRead, false
	case err != nil:
		t.fail(w.from.failed)
		w.state = said
		return 0, false
	case n == 0:
		w.state = said
		return 0, false
	}
	return 0, true
}

// splice moves what is in the pipe to the receiver.
func (t *polled) splice(w *way) (int, wants) {
	n, err := ignoringSignals(func() (int, error) {
		n, err := unix.Splice(w.pipe.r, nil, int(w.to.fd), nil, w.inPipe, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	return t.sent(w, n, err, &w.inPipe)
}

func (t *polled) write(w *way, p []byte) (int, wants) {
	n, err := ignoringSignals(func() (int, error) { return unix.Write(int(w.to.fd), p) })
	left := len(p)
	return t.sent(w, n, err, &left)
}

// sent looks at how a write ended, and takes what was written from left.
func (t *polled) sent(w *way, n int, err error, left *int) (int, wants) {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, toWrite
	case err != nil:
		t.fail(w.to.failed)
		t.abandon(w)
		return 0, 0
	}
	w.count += int64(n)
	if *left -= n; *left > 0 {
		return n, toWrite
	}
	return n, 0
}

// abandon forgets what cannot be delivered.
func (t *polled) abandon(w *way) {
	w.state = discarding
	w.pending = nil
	if w.pipe != nil {
		t.poller.pipes.drop(w.pipe)
		w.pipe, w.inPipe = nil, 0
	}
}

// discard reads what nobody can be told any more.
func (w *way) discard(buf []byte) (int, wants) {
	n, err := ignoringSignals(func() (int, error) { return unix.Read(int(w.from.fd), buf) })
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, toRead
	case err != nil || n == 0:
		w.state = finished
		return 0, 0
	}
	if w.discards += n; w.discards >= drainLimit {
		w.state = given
	}
	return n, 0
}

// unload takes the pipe from a way whose receiver stalls: there are few, and
// memory is plenty.
func (t *polled) unload(w *way) {
	if w.pipe == nil || w.inPipe == 0 {
		return
	}
	pending := make([]byte, w.inPipe)
	for got := 0; got < len(pending); {
		n, err := ignoringSignals(func() (int, error) { return unix.Read(w.pipe.r, pending[got:]) })
		if err != nil || n == 0 { // cannot be: the bytes are in it
			t.finish(w.to.failed)
			return
		}
		got += n
	}
	w.pending, w.inPipe = pending, 0
	t.giveBack(w)
}

func ignoringSignals(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// spliceRefused reports whether the system does not splice these at all.
func spliceRefused(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM)
}
