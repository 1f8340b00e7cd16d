// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

const (
	// closeTimeout is how long the peers have to answer the Close frames and to
	// close their sides. Then both connections are closed whatever they do.
	closeTimeout = 5 * time.Second

	// wsPiece is what is written to the client at once: a Write of megabytes to
	// a slow reader is no silence. What Caddy takes from an upstream.
	wsPiece = 32 << 10
)

// errWoken is what a client's Read returns when it was woken.
var errWoken = errors.New("woken")

var weaving = sync.Pool{New: func() any { return new([wsPiece + reserve]byte) }}

// turn is a lock that is held for as long as a write to the client takes. (One
// that waits for a sync.Mutex is invisible to testing/synctest.)
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

func (t turn) TryLock() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// wsClient is the client's side of a WebSocket, by version of HTTP.
type wsClient interface {
	Read(p []byte) (int, error) // errWoken after wake, without bytes
	Write(p []byte) (int, error)
	Flush() error      // what was written
	CloseWrite() error // as idle.HalfClose
	// backlog is how many bytes the client's system has taken, ever, and
	// whether there are more that it has not, if that is known.
	backlog() (taken uint64, more bool)
	wake()  // a Read under way, or else the next one
	abort() // reads and writes under way, and all that follow
}

// webSocket is what stands between the client and whoever carries bytes between
// the client and the upstream: a reverse proxy reads from it what the client
// says, and writes to it what the upstream says. It never sees the connection
// to the upstream, so what it has to tell the upstream is read from it like
// words of the client's.
//
// While nothing is to be said it costs a look at the headers of frames and a
// timestamp. There is one timer, which looks when something might be due.
type webSocket struct {
	client wsClient
	idle   time.Duration // zero: never
	ping   time.Duration // zero: never
	cancel func()        // makes the carrier give up the upstream
	report func(reason idle.Reason)

	now    func() int64
	moved  atomic.Int64 // when the last byte came from either peer
	broken atomic.Bool

	user, upstream wsPeer

	reading  sync.Mutex // orders Reads
	up       lane
	queue    []byte       // what Reads are to return first
	readErr  error        // and then
	unread   atomic.Int64 // since when nobody reads from the client; 0: somebody does
	upEnds   atomic.Bool  // the client has said all
	writing  turn         // orders all that is written to the client
	down     lane
	writes   atomic.Int64 // since when a write is under way; 0: none is
	downEnds atomic.Bool  // the upstream has said all

	mu      sync.Mutex
	timer   *time.Timer
	ending  bool           // for a reason of ours
	stopped bool           // by the carrier
	taken   uint64         // of the client's backlog, when it was looked at
	calls   sync.WaitGroup // of the timer, under way
}

// init makes it carry bytes; start starts its clock.
func (s *webSocket) init(client wsClient) {
	s.client = client
	s.now = sinceStart()
	s.writing = make(turn, 1)
	s.user.init(false)
	s.upstream.init(true)
	s.up = lane{frames: frames{masked: true}, from: &s.user, to: &s.upstream, broken: &s.broken, now: s.now}
	s.down = lane{from: &s.upstream, to: &s.user, broken: &s.broken, now: s.now}
}

func (s *webSocket) start() {
	now := s.now()
	s.moved.Store(now)
	s.user.heard.Store(now)
	s.upstream.heard.Store(now)
	s.unread.Store(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped && s.timer == nil {
		first := s.idle
		if s.ping > 0 && (first == 0 || s.ping < first) {
			first = s.ping
		}
		s.timer = time.AfterFunc(first, s.check)
	}
}

// stop ends the clock. Calls of its timer may be under way still.
func (s *webSocket) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// Read returns what the upstream is to get.
func (s *webSocket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	s.upstream.taken.Store(s.now()) // what the last Read returned
	for {
		if len(s.queue) > 0 {
			n := copy(p, s.queue)
			if s.queue = s.queue[n:]; len(s.queue) == 0 {
				s.queue = nil
			}
			return n, nil
		}
		switch {
		case s.readErr != nil:
			return 0, s.readErr
		case s.up.over:
			s.drain(p)
			continue
		case s.up.plain():
			n, err := s.hear(p)
			if n > 0 && !s.up.plain() { // the client was asked meanwhile
				s.queue = s.up.weave(make([]byte, 0, n+reserve), p[:n])
				_ = s.noteRead(err, &s.queue) // a deadline is found again
				continue
			}
			if n > 0 {
				s.up.pass(p[:n])
			}
			if err = s.noteEnd(err); n > 0 || err != nil {
				return n, err
			}
			continue
		}
		if n, err := s.readWoven(p); n > 0 || err != nil {
			return n, err
		}
	}
}

// readWoven reads where bytes may come in that are not to go out, or the other
// way round. It returns 0 if there was nothing for the upstream.
func (s *webSocket) readWoven(p []byte) (int, error) {
	buf := p
	if len(p) < 4*reserve {
		buf = make([]byte, 4*reserve)
	}
	out := s.up.weave(buf[:0], nil)
	var err error
	switch {
	case len(out) > 0:
	case s.up.over:
		s.readErr = io.EOF // the upstream cannot be told by a frame
	default:
		var n int
		n, err = s.hear(buf[reserve:])
		out = s.up.weave(buf[:0], buf[reserve:reserve+n])
		err = s.noteRead(err, &out)
	}
	if &buf[0] == &p[0] {
		return len(out), err
	}
	n := copy(p, out)
	s.queue = out[n:]
	return n, err
}

// noteRead notes what became of a read and is to go out. The end comes after
// that, and what was held back before it.
func (s *webSocket) noteRead(err error, out *[]byte) error {
	if err = s.noteEnd(err); s.readErr != nil {
		*out = s.up.release(*out)
		err = nil
	}
	return err
}

// drain takes what the client says after the upstream was told the end: its
// Close, if it is alive. To close a socket with bytes unread would reset it, and
// destroy what the client has not got yet.
func (s *webSocket) drain(p []byte) {
	n, err := s.hear(p)
	s.up.frames.advance(p[:n])
	if s.up.frames.closed {
		s.hangUp() // the handshake is complete
		err = io.EOF
	}
	if err != nil && !errors.Is(err, errWoken) {
		s.readErr = io.EOF
	}
}

// hear reads from the client.
func (s *webSocket) hear(p []byte) (int, error) {
	s.unread.Store(0)
	n, err := s.client.Read(p)
	now := s.now()
	if n > 0 {
		s.user.heard.Store(now)
		s.moved.Store(now)
	}
	s.unread.Store(now)
	return n, err
}

// noteEnd notes that the client has said all, or failed. An expired deadline of
// the reader's own is no end.
func (s *webSocket) noteEnd(err error) error {
	switch {
	case err == nil || errors.Is(err, errWoken):
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	s.readErr = err
	s.upEnds.Store(true)
	s.upstream.shut.Store(true)
	return err
}

// Write takes what the client is to get.
func (s *webSocket) Write(p []byte) (n int, err error) {
	s.writing.Lock()
	for {
		var m int
		m, err = s.deliver(p[n:min(n+wsPiece, len(p))])
		if n += m; err != nil || n == len(p) {
			break
		}
	}
	s.writing.Unlock()
	s.settle()
	return n, err
}

// deliver passes a piece on to the client. A part of it may be held back.
func (s *webSocket) deliver(p []byte) (int, error) {
	now := s.now()
	s.upstream.heard.Store(now)
	s.moved.Store(now)
	if s.down.over {
		return len(p), nil // the client was told the end
	}
	if s.down.plain() {
		s.down.pass(p)
		return s.say(p)
	}
	buf := weaving.Get().(*[wsPiece + reserve]byte)
	defer weaving.Put(buf)
	out := s.down.weave(buf[:0], p)
	if len(out) > 0 {
		if _, err := s.say(out); err != nil {
			return 0, err
		}
	}
	s.sayEnd(len(out) > 0)
	return len(p), nil
}

// say writes to the client.
func (s *webSocket) say(p []byte) (int, error) {
	s.writes.Store(s.now())
	n, err := s.client.Write(p)
	if n > 0 {
		s.user.taken.Store(s.now())
	}
	s.writes.Store(0)
	return n, err
}

// Flush sends what was written.
func (s *webSocket) Flush() error {
	s.writing.Lock()
	err := s.flush()
	s.writing.Unlock()
	s.settle()
	return err
}

func (s *webSocket) flush() error {
	s.writes.Store(s.now())
	defer s.writes.Store(0)
	err := s.client.Flush()
	s.user.taken.Store(s.now())
	return err
}

// settle says to the client what is to be said. If somebody writes to it just
// now, they do when they are through.
func (s *webSocket) settle() {
	for s.user.wanted.Load() != 0 && s.writing.TryLock() {
		s.sayOwn()
		stuck := s.user.wanted.Load() != 0 // within a frame
		s.writing.Unlock()
		if stuck {
			return
		}
	}
}

// sayOwn writes frames of ours.
func (s *webSocket) sayOwn() {
	var buf [reserve]byte
	out := s.down.weave(buf[:0], nil)
	if len(out) > 0 {
		s.writes.Store(s.now())
		_, err := s.client.Write(out)
		if err == nil {
			err = s.client.Flush()
		}
		s.writes.Store(0)
		if err != nil {
			s.abort() // half a frame may have gone
			return
		}
	}
	s.sayEnd(len(out) > 0)
}

// sayEnd closes our half towards a client that gets nothing any more. If it was
// told by a Close frame, that waits for its answer.
func (s *webSocket) sayEnd(told bool) {
	if s.down.over && !told {
		_ = s.endDown()
	}
}

// endDown closes our half towards the client, once.
func (s *webSocket) endDown() error {
	if s.downEnds.Swap(true) {
		return nil
	}
	s.user.shut.Store(true)
	return s.client.CloseWrite()
}

func (s *webSocket) hangUp() {
	if s.writing.TryLock() {
		_ = s.endDown()
		s.writing.Unlock()
	}
}

// CloseWrite is called when the upstream has said all.
func (s *webSocket) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.sayHeld(); err != nil {
		return err
	}
	return s.endDown()
}

// sayHeld passes on the beginning of what never became a Pong.
func (s *webSocket) sayHeld() error {
	if s.down.nheld == 0 {
		return nil
	}
	var buf [pongSize]byte
	_, err := s.say(s.down.release(buf[:0]))
	return err
}

// check runs when something might be due.
func (s *webSocket) check() {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return
	}
	s.calls.Add(1)
	defer s.calls.Done()
	if s.ending {
		s.mu.Unlock()
		s.abort() // the peers have had their time
		return
	}
	next, reason := s.look(s.now())
	switch {
	case reason != "":
		s.ending = true
		s.timer.Reset(closeTimeout)
	case next > 0:
		s.timer.Reset(next)
	}
	s.mu.Unlock()
	if reason != "" {
		s.report(reason)
		s.user.wanted.Or(wantClose)
		s.upstream.wanted.Or(wantClose)
	}
	if s.upstream.wanted.Load() != 0 {
		s.client.wake()
	}
	s.settle()
}

// look returns why the WebSocket is to end, or when to look again.
func (s *webSocket) look(now int64) (next time.Duration, reason idle.Reason) {
	if s.idle > 0 {
		if next = s.idle - time.Duration(now-s.moved.Load()); next <= 0 {
			return 0, idle.Idle
		}
	}
	if s.ping == 0 || s.broken.Load() {
		return next, ""
	}
	for _, p := range []*wsPeer{&s.user, &s.upstream} {
		due := s.ask(p, now)
		if due == 0 {
			return 0, idle.NoPong
		}
		if next == 0 || due < next {
			next = due
		}
	}
	return next, ""
}

// ask asks a peer that is silent for the interval whether it lives. It returns
// when to look at it again, or 0 if it is dead.
func (s *webSocket) ask(p *wsPeer, now int64) time.Duration {
	interval := int64(s.ping)
	heard := p.heard.Load()
	if p.asking && heard >= p.asked {
		p.asking = false
		p.wanted.And(^uint32(wantPing))
	}
	if due := heard + interval; due > now {
		return time.Duration(due - now)
	}
	if !p.asking {
		p.asking, p.asked = true, now
		s.worksOff(p)
		if !p.shut.Load() {
			p.wanted.Or(wantPing)
		}
		return s.ping
	}
	if due := max(p.asked, p.sentAt.Load()) + interval; due > now {
		return time.Duration(due - now)
	}
	since, audible := s.writes.Load(), s.unread.Load() == 0
	if p == &s.upstream {
		audible = since == 0 && !s.downEnds.Load()
		since = s.unread.Load()
		if s.upEnds.Load() {
			since = 0
		}
	}
	switch {
	case since != 0 && since+interval <= now && p.taken.Load() <= p.asked:
		return 0 // it takes nothing
	case since == 0 && audible && p.wanted.Load()&wantPing == 0 && !s.worksOff(p):
		return 0 // it was asked, or cannot be, and says nothing
	}
	// It takes bytes, or waits for the rest of a frame, or what it says is not
	// read because the other one takes nothing.
	p.asked = now
	return s.ping
}

// worksOff reports whether a peer took bytes since this was asked last, and has
// not got all yet: a Ping waits behind megabytes on the way to a slow client.
func (s *webSocket) worksOff(p *wsPeer) bool {
	if p != &s.user {
		return false
	}
	taken, more := s.client.backlog()
	progress := taken != s.taken
	s.taken = taken
	return progress && more
}

// abort closes both connections, whatever the peers do.
func (s *webSocket) abort() {
	s.client.abort()
	s.cancel()
}
