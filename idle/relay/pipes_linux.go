// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPipes bounds the pipes of the process, and with it what they take of
	// the 64 MiB that the kernel gives a user without capabilities for all pipes
	// (pipe-user-pages-soft, pipe(7)): beyond that it shrinks new ones to a page
	// or two, and splicing costs more than copying. More than a dozen are for
	// receivers that each take a moment: with 128 busy tunnels and 16 pipes, a
	// third of the CPU time went into copying for those that got none.
	maxPipes = 48
	// pipeSize is what each asks for. Smaller ones measured a quarter worse, and
	// four times as many of them no better.
	pipeSize = 1 << 20
	// minPipeSize is what makes one worth having.
	minPipeSize = 64 << 10

	// pipePatience is how long, to twice as long, a pipe stays that nobody uses,
	// or with a tunnel whose receiver does not take what is in it.
	pipePatience = 500 * time.Millisecond
)

// pipe is what splice needs between two sockets.
type pipe struct {
	r, w int

	// Of the set, under its mutex.
	holder *polled // whose bytes are in it and wait for a receiver
	since  int     // the tick at which it was put back, or its bytes last moved
}

// pipeSet is a bounded number of them. A tunnel takes one when bytes are there and
// puts it back when they are through; one that gets none copies. The zero value
// is ready.
type pipeSet struct {
	refused atomic.Bool // the system lets nobody splice

	mu     sync.Mutex
	free   []*pipe
	held   map[*pipe]struct{}
	open   int
	tick   int
	timer  *time.Timer
	closed bool
}

// take returns an empty pipe, or nil if there is none.
func (s *pipeSet) take() *pipe {
	if s.refused.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		return p
	}
	if s.open == maxPipes || s.closed {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	size, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size, err = unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	}
	if err != nil || size < minPipeSize {
		p.close()
		return nil
	}
	s.open++
	s.watchLocked()
	return p
}

// put gives an empty pipe back.
func (s *pipeSet) put(p *pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(p)
	if s.closed {
		s.closeLocked(p)
		return
	}
	p.since = s.tick
	s.free = append(s.free, p)
}

// hold notes that a pipe waits for its tunnel's receiver since now.
func (s *pipeSet) hold(p *pipe, t *polled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = make(map[*pipe]struct{})
	}
	p.holder, p.since = t, s.tick
	s.held[p] = struct{}{}
}

// drop closes a pipe with bytes in it that nobody wants any more.
func (s *pipeSet) drop(p *pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(p)
	s.closeLocked(p)
}

func (s *pipeSet) forgetLocked(p *pipe) {
	p.holder = nil
	delete(s.held, p)
}

func (s *pipeSet) closeLocked(p *pipe) {
	p.close()
	s.open--
}

// close closes the free pipes, and the others as they come back.
func (s *pipeSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, p := range s.free {
		s.closeLocked(p)
	}
	s.free = nil
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *pipeSet) watchLocked() {
	if s.timer == nil {
		s.timer = time.AfterFunc(pipePatience, s.clean)
	} else if s.open == 1 {
		s.timer.Reset(pipePatience)
	}
}

// clean closes pipes that nobody used for a while and takes others from those
// whose receivers stall.
func (s *pipeSet) clean() {
	for _, t := range s.stale() {
		t.post(unload, nil)
	}
}

// stale closes what is free for too long, and returns those that hold a pipe
// for too long.
func (s *pipeSet) stale() []*polled {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick++
	// The last one put is the next one taken, so the stale ones are in front.
	for len(s.free) > 0 && s.free[0].since < s.tick-1 {
		s.closeLocked(s.free[0])
		s.free = s.free[1:]
	}
	var stalled []*polled
	for p := range s.held {
		if p.since < s.tick-1 {
			stalled = append(stalled, p.holder)
		}
	}
	if s.open > 0 && !s.closed {
		s.timer.Reset(pipePatience)
	}
	return stalled
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}
