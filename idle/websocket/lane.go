// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"sync/atomic"
	"time"
)

const (
	nonceSize   = 8
	payloadSize = nonceSize + 8 // of our Pings: the nonce, and which one it is
	pongSize    = 2 + maskSize + payloadSize

	// reserve is the room that weave needs besides its input: for what it held
	// back, a Ping and a Close.
	reserve = 64

	wantPing  = 1 << 0
	wantClose = 1 << 1
)

// wsPeer is one end of a WebSocket. Times are those of webSocket.now.
type wsPeer struct {
	masked bool            // what is sent to it is masked, as servers want it
	nonce  [nonceSize]byte // marks our Pings to it; nobody else knows it

	wanted atomic.Uint32 // frames that it is to get at the next boundary
	shut   atomic.Bool   // it cannot be sent frames any more: it got a Close, or a FIN
	sent   atomic.Uint64 // Pings
	sentAt atomic.Int64  // when the last one went
	heard  atomic.Int64  // when the last byte came from it
	taken  atomic.Int64  // when it last took bytes

	answered uint64 // the last Ping whose Pong came; belongs to the lane from it

	// Guarded by webSocket.mu: silent for the interval, and asked, or to be,
	// since then.
	asking bool
	asked  int64
}

func (p *wsPeer) init(masked bool) {
	p.masked = masked
	_, _ = rand.Read(p.nonce[:]) // it cannot fail
}

// lane is one direction of a WebSocket. What comes in goes out, but for Pongs to
// Pings of ours, and with our own frames between those that pass.
type lane struct {
	frames   frames
	from, to *wsPeer
	broken   *atomic.Bool // one lane cannot be followed: neither gets frames
	now      func() int64

	held  [pongSize]byte // may be the beginning of a Pong to us, not passed on yet
	nheld int
	over  bool // nothing goes out any more
}

// plain reports whether bytes go out as they come in.
func (l *lane) plain() bool {
	return l.to.wanted.Load() == 0 && l.nheld == 0 && !l.over && l.from.sent.Load() == l.from.answered
}

// pass takes bytes that go out as they came in.
func (l *lane) pass(p []byte) {
	l.frames.advance(p)
	l.note()
}

func (l *lane) note() {
	if l.frames.closed && !l.to.shut.Load() {
		l.to.shut.Store(true)
	}
	if l.frames.broken && !l.broken.Load() {
		l.broken.Store(true)
	}
}

// weave takes bytes that came in, and appends what is to go out: at most reserve
// bytes more. It may be given bytes that lie that far behind dst in one buffer.
func (l *lane) weave(dst, p []byte) []byte {
	wanted := l.to.wanted.Load() // once: reserve has room for one frame of each kind
	for {
		if wanted != 0 {
			dst, wanted = l.inject(dst, wanted)
		}
		if l.over || len(p) == 0 {
			return dst
		}
		if l.frames.boundary() && (l.nheld > 0 || l.from.sent.Load() != l.from.answered) {
			dst, p = l.inspect(dst, p)
			continue
		}
		n := l.frames.next(p)
		dst = append(dst, p[:n]...)
		p = p[n:]
		l.note()
	}
}

// inject puts in the frames that are wanted if they may stand here, and returns
// those that are wanted still. A Close that may not is not waited for: what has
// begun was silent for long.
func (l *lane) inject(dst []byte, wanted uint32) ([]byte, uint32) {
	possible := !l.over && l.frames.boundary() && !l.frames.closed && !l.broken.Load()
	switch {
	case wanted&wantClose != 0:
		if possible {
			dst = appendClose(dst, l.to.masked)
		}
		l.over = true
		l.frames.advance(l.held[:l.nheld])
		l.nheld = 0
		l.to.shut.Store(true)
		wanted = 0
		l.to.wanted.Store(0)
	case possible:
		n := l.to.sent.Add(1)
		dst = appendControl(dst, opcodePing, binary.BigEndian.AppendUint64(bytes.Clone(l.to.nonce[:]), n), l.to.masked)
		l.to.sentAt.Store(l.now())
		fallthrough
	case l.over || l.frames.closed || l.broken.Load():
		wanted = 0
		l.to.wanted.And(^uint32(wantPing))
	}
	return dst, wanted
}

// inspect looks whether a frame is a Pong to a Ping of ours. Its bytes are held
// back for as long as they may be, which is at most pongSize.
func (l *lane) inspect(dst, p []byte) (out, rest []byte) {
	for len(p) > 0 {
		l.held[l.nheld] = p[0]
		l.nheld++
		p = p[1:]
		held := l.held[:l.nheld]
		if !l.mayBePong(held) {
			return l.release(dst), p
		}
		if l.nheld < l.pongSize() {
			continue
		}
		if n := l.answers(held); n > l.from.answered && n <= l.from.sent.Load() {
			l.from.answered = n
			l.nheld = 0
			return dst, p
		}
		return l.release(dst), p
	}
	return dst, p
}

// release lets what was held back go out: at most one frame.
func (l *lane) release(dst []byte) []byte {
	held := l.held[:l.nheld]
	l.nheld = 0
	l.pass(held)
	return append(dst, held...)
}

func (l *lane) pongSize() int {
	if l.frames.masked {
		return pongSize
	}
	return pongSize - maskSize
}

// mayBePong looks at the first two bytes: what tells a Pong of that length.
func (l *lane) mayBePong(held []byte) bool {
	second := byte(payloadSize)
	if l.frames.masked {
		second |= maskBit
	}
	return held[0] == finalBit|opcodePong && (len(held) < 2 || held[1] == second)
}

// answers returns which Ping of ours a Pong answers, or 0.
func (l *lane) answers(pong []byte) uint64 {
	var payload [payloadSize]byte
	copy(payload[:], pong[len(pong)-payloadSize:])
	if l.frames.masked {
		key := pong[2 : 2+maskSize]
		for i := range payload {
			payload[i] ^= key[i%maskSize]
		}
	}
	if !bytes.Equal(payload[:nonceSize], l.from.nonce[:]) {
		return 0
	}
	return binary.BigEndian.Uint64(payload[nonceSize:])
}

// sinceStart is a clock of nanoseconds, monotonic.
func sinceStart() func() int64 {
	begin := time.Now()
	return func() int64 { return int64(time.Since(begin)) }
}
