// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

const (
	// batch is how many events a worker takes at once: few, for it handles them
	// one after the other while other workers may have nothing to do.
	batch = 4

	// pollerLinger is how long a poller without tunnels stays.
	pollerLinger = 100 * time.Millisecond

	// chunkSize and chunks bound the table of descriptors, which is made as it
	// is needed. A process with more descriptors copies.
	chunkSize = 1024
	chunks    = 1024
)

// poller is an epoll instance and the workers that carry bytes when it says so.
// There is one while there are tunnels: tunnels outlive configurations.
//
// Its own descriptor is watched by Go's poller, so that a worker that waits is
// a goroutine and no thread. Of several workers that wait, one sees the next
// events and then lets the next one wait: that is what reading from an os.File
// does.
type poller struct {
	fd        int
	file      *os.File
	raw       syscall.RawConn
	ends      [chunks]atomic.Pointer[[chunkSize]atomic.Pointer[end]] // by descriptor
	serial    atomic.Int32
	deadlines idle.Deadlines
	pipes     pipeSet
}

// shared is the poller of the process.
var shared struct {
	mu     sync.Mutex
	poller *poller
	users  int
	linger *time.Timer
}

// acquirePoller returns the process's poller, or nil if the system refuses one.
func acquirePoller() *poller {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.poller == nil {
		p, err := newPoller()
		if err != nil {
			return nil
		}
		shared.poller = p
	}
	shared.users++
	return shared.poller
}

func releasePoller() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.users--
	if shared.users > 0 {
		return
	}
	if shared.linger == nil {
		shared.linger = time.AfterFunc(pollerLinger, closeUnusedPoller)
		return
	}
	shared.linger.Reset(pollerLinger)
}

func closeUnusedPoller() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.users > 0 || shared.poller == nil {
		return
	}
	shared.poller.close()
	shared.poller = nil
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or os.File would not poll it
		_ = unix.Close(fd)
		return nil, err
	}
	p := &poller{fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	// A file that Go's poller refused knows no deadlines; a worker would spin.
	if err := p.file.SetReadDeadline(time.Time{}); err != nil {
		_ = p.file.Close()
		return nil, err
	}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, err
	}
	for range max(2, runtime.GOMAXPROCS(0)) {
		go p.work()
	}
	return p, nil
}

// close ends the workers.
func (p *poller) close() {
	_ = p.file.Close()
	p.pipes.close()
}

// work handles events until the poller is closed.
func (p *poller) work() {
	var w waiter
	wait := w.wait
	buf := make([]byte, bufferSize)
	for p.raw.Read(wait) == nil {
		for _, event := range w.events[:max(w.n, 0)] {
			if e := p.find(event.Fd, event.Pad); e != nil {
				e.tunnel.post(e.bits(event.Events), buf)
			}
		}
	}
}

// waiter takes events.
type waiter struct {
	events [batch]unix.EpollEvent
	n      int
}

// wait returns false where Go's poller is to wait for the epoll instance.
func (w *waiter) wait(fd uintptr) bool {
	var err error
	w.n, err = unix.EpollWait(int(fd), w.events[:], 0)
	return w.n > 0 || err != nil && err != unix.EINTR
}

// find returns the end of an event, or nil if it has been closed since: another
// one may have its descriptor by now, but none its serial number.
func (p *poller) find(fd, serial int32) *end {
	chunk := p.ends[fd/chunkSize].Load()
	if chunk == nil {
		return nil
	}
	e := chunk[fd%chunkSize].Load()
	if e == nil || e.serial != serial {
		return nil
	}
	return e
}

// add begins to watch an end for what it is armed for.
func (p *poller) add(e *end) error {
	e.serial = p.serial.Add(1)
	slot := &p.ends[e.fd/chunkSize]
	chunk := slot.Load()
	if chunk == nil {
		slot.CompareAndSwap(nil, new([chunkSize]atomic.Pointer[end]))
		chunk = slot.Load()
	}
	chunk[e.fd%chunkSize].Store(e)
	err := p.control(unix.EPOLL_CTL_ADD, e)
	if err != nil {
		chunk[e.fd%chunkSize].Store(nil)
	}
	return err
}

// remove ends the watch of an end whose descriptor is about to be closed, which
// takes it out of epoll. A child that is being started shares the file for a
// moment; what still comes then, once, is of an end that find does not know.
func (p *poller) remove(e *end) {
	p.ends[e.fd/chunkSize].Load()[e.fd%chunkSize].Store(nil)
}

func (p *poller) control(op int, e *end) error {
	return unix.EpollCtl(p.fd, op, int(e.fd), &unix.EpollEvent{
		Events: e.mask | unix.EPOLLONESHOT, Fd: e.fd, Pad: e.serial,
	})
}
