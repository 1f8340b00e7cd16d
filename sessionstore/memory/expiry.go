// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"sync"
	"time"
)

// expiryTick is how exactly the counts follow the clock. Whether a session is
// live does not depend on it: that is asked of the clock each time.
const expiryTick = 250 * time.Millisecond

// expiryQueue knows which entries to look at when, to the tick. The zero value
// is ready for use.
type expiryQueue struct {
	mu      sync.Mutex
	buckets map[int64][]*entry
	swept   int64 // buckets up to and including this one were taken
}

// add notes an entry. It is taken at the first tick that is not before at.
func (q *expiryQueue) add(e *entry, at int64) {
	tick := int64(expiryTick)
	bucket := (at + tick - 1) / tick
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.buckets == nil {
		q.buckets = make(map[int64][]*entry)
		q.swept = time.Now().UnixNano() / tick
	}
	bucket = max(bucket, q.swept+1)
	q.buckets[bucket] = append(q.buckets[bucket], e)
}

// take returns the entries that are due at now, each entry once.
func (q *expiryQueue) take(now time.Time) []*entry {
	last := now.UnixNano() / int64(expiryTick)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.buckets == nil {
		return nil
	}
	var due []*entry
	for ; q.swept < last && len(q.buckets) > 0; q.swept++ {
		due = append(due, q.buckets[q.swept+1]...)
		delete(q.buckets, q.swept+1)
	}
	q.swept = max(q.swept, last)
	return due
}

// expire keeps the counts at the clock until the table is closed.
func (t *table) expire() {
	defer close(t.done)
	ticker := time.NewTicker(expiryTick)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			t.sweep(now)
			for _, e := range t.forget.take(now) {
				t.forgetEntry(e)
			}
		case <-t.stop:
			return
		}
	}
}

// sweep takes sessions that are over out of the counts: all of them, also those
// that another call is about to take out. What they were bound to stays known
// for a while, unless that memory is full as well.
func (t *table) sweep(now time.Time) {
	t.sweeping.Lock()
	defer t.sweeping.Unlock()
	for _, e := range t.expiry.take(now) {
		if e.end() > now.UnixNano() && e.state.Load() == stateLive {
			t.expiry.add(e, e.end()) // it was used since
			continue
		}
		next, until := stateOver, e.forgotten()
		if t.remains.Load() >= t.limit.Load() {
			next, until = stateGone, now.UnixNano()
		} else {
			t.remains.Add(1)
		}
		if !e.state.CompareAndSwap(stateLive, next) {
			if next == stateOver {
				t.remains.Add(-1)
			}
			continue
		}
		t.forget.add(e, until)
		e.at.count.Add(-1)
		t.live.Add(-1)
	}
}

// forgetEntry takes an entry out of the table, unless another one took its
// place meanwhile.
func (t *table) forgetEntry(e *entry) {
	mu := t.lock(e.key)
	mu.Lock()
	defer mu.Unlock()
	defer func() {
		if t.find(e.key) == nil {
			t.changed(e.key)
		}
	}()
	if _, on := t.arriving.get(e.key); on {
		t.forget.add(e, time.Now().UnixNano()) // at the next tick
		return
	}
	head := t.head(e.key)
	for at := head; ; at = at.next.Load() {
		if at == nil {
			return
		}
		if at == e {
			break
		}
	}
	t.leave(e)
	switch next := e.next.Load(); {
	case head != e:
		head.unlinkLocked(e.key)
	case next == nil:
		t.cache.Del(slot(e.key))
	default:
		if err := t.setLocked(next); err != nil {
			return // it is gone all the same
		}
	}
}
