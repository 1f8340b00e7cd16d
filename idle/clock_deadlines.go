// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"container/heap"
	"sync"
	"time"
)

// Deadlines call many owners, each when its time has come, with one timer for
// all of them. The zero value is ready.
type Deadlines struct {
	mu    sync.Mutex
	heap  deadlineHeap
	timer *time.Timer
	wakes time.Time // when the timer fires; zero: it does not
}

// Deadline is one owner's place. Its zero value is not set.
type Deadline struct {
	Owner interface{ Due() }
	at    time.Time
	place int // in the heap, plus 1; 0: not in it
}

// Set calls the owner at a time, instead of the one set before.
func (d *Deadlines) Set(e *Deadline, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e.at = at
	if e.place == 0 {
		heap.Push(&d.heap, e)
	} else {
		heap.Fix(&d.heap, e.place-1)
	}
	d.wakeLocked()
}

// Stop forgets what was set. A call that has begun is not waited for.
func (d *Deadlines) Stop(e *Deadline) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.place > 0 {
		heap.Remove(&d.heap, e.place-1)
	}
	if len(d.heap) == 0 {
		d.heap = nil // a burst of connections is no reason to hold memory
		d.wakeLocked()
	}
}

// wakeLocked lets the timer fire for the first deadline. It may fire earlier,
// for one that is no more: then it is set again.
func (d *Deadlines) wakeLocked() {
	if len(d.heap) == 0 {
		if d.timer != nil {
			d.timer.Stop()
		}
		d.wakes = time.Time{}
		return
	}
	first := d.heap[0].at
	if !d.wakes.IsZero() && !first.Before(d.wakes) {
		return
	}
	d.wakes = first
	if d.timer == nil {
		d.timer = time.AfterFunc(time.Until(first), d.fire)
		return
	}
	d.timer.Reset(time.Until(first))
}

// fire calls all owners that are due.
func (d *Deadlines) fire() {
	for _, e := range d.expired(time.Now()) {
		e.Owner.Due()
	}
}

func (d *Deadlines) expired(now time.Time) []*Deadline {
	d.mu.Lock()
	defer d.mu.Unlock()
	var due []*Deadline
	for len(d.heap) > 0 && !d.heap[0].at.After(now) {
		due = append(due, heap.Pop(&d.heap).(*Deadline))
	}
	d.wakes = time.Time{}
	d.wakeLocked()
	return due
}

// Earlier returns the earlier of two times of which zero is never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// deadlineHeap implements heap.Interface.
type deadlineHeap []*Deadline

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *deadlineHeap) Push(x any) {
	e := x.(*Deadline)
	*h = append(*h, e)
	e.place = len(*h)
}

func (h *deadlineHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.place = 0
	return e
}
