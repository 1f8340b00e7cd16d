// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// arrivingLimit is how many entries may be on their way to ristretto before
	// whoever adds one waits for it.
	arrivingLimit = 1 << 17

	// bringBatch is how many are set and then waited for at once. Ristretto's
	// buffer has room for 32768, and drops what does not fit.
	bringBatch = 1024
)

// arriving are the first entries of slots that ristretto does not show yet, so
// that nobody who claims a session waits for its goroutine. They are looked for
// where the cache has none: a session that is kept does not pass here.
//
// The cache shows an entry at some moment after it was set, and then that
// entry, whatever took its place here meanwhile. So what was set is not
// replaced here any more: whoever wants to, waits until it is shown.
type arriving struct {
	n      atomic.Int64
	shards [lockShards]arrivingShard
	wake   chan struct{}

	mu    sync.Mutex
	queue []sessionstore.Key // one of each slot that was not set yet
}

// arrivingShard is written by whoever holds the lock of its keys.
type arrivingShard struct {
	mu    sync.RWMutex
	slots map[uint64]arrival
}

type arrival struct {
	head *entry
	set  bool
}

func (a *arriving) get(key sessionstore.Key) (arrival, bool) {
	if a.n.Load() == 0 {
		return arrival{}, false
	}
	shard := &a.shards[key[0]]
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	found, ok := shard.slots[slot(key)]
	return found, ok
}

// putLocked makes head the first entry of its slot. False means that it has to
// be set in the cache and waited for.
func (a *arriving) putLocked(head *entry) bool {
	before, ok := a.get(head.key)
	if before.set || !ok && a.n.Load() >= arrivingLimit {
		return false
	}
	shard := &a.shards[head.key[0]]
	shard.mu.Lock()
	if shard.slots == nil {
		shard.slots = make(map[uint64]arrival)
	}
	shard.slots[slot(head.key)] = arrival{head: head}
	shard.mu.Unlock()
	if !ok {
		a.n.Add(1)
		a.enqueue(head.key)
	}
	return true
}

func (a *arriving) enqueue(key sessionstore.Key) {
	a.mu.Lock()
	a.queue = append(a.queue, key)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *arriving) take() []sessionstore.Key {
	a.mu.Lock()
	defer a.mu.Unlock()
	keys := a.queue
	a.queue = nil
	return keys
}

// setLocked notes that an entry was set in the cache.
func (a *arriving) setLocked(head *entry) {
	shard := &a.shards[head.key[0]]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.slots[slot(head.key)] = arrival{head: head, set: true}
}

// shownLocked notes that the cache shows the slot of a key.
func (a *arriving) shownLocked(key sessionstore.Key) {
	shard := &a.shards[key[0]]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if _, ok := shard.slots[slot(key)]; ok {
		delete(shard.slots, slot(key))
		a.n.Add(-1)
		if len(shard.slots) == 0 {
			shard.slots = nil // a map does not give its room back
		}
	}
}

// each calls f with the first entry of every slot.
func (a *arriving) each(f func(head *entry)) {
	for i := range a.shards {
		shard := &a.shards[i]
		shard.mu.RLock()
		for _, at := range shard.slots {
			f(at.head)
		}
		shard.mu.RUnlock()
	}
}

// head returns the first entry of a key's slot.
func (t *table) head(key sessionstore.Key) *entry {
	if e, ok := t.cache.Get(slot(key)); ok {
		return e
	}
	if at, ok := t.arriving.get(key); ok {
		return at.head
	}
	e, _ := t.cache.Get(slot(key)) // it may be shown since
	return e
}

// setLocked makes head the first entry of its slot, for all who look.
func (t *table) setLocked(head *entry) error {
	if _, shown := t.cache.Get(slot(head.key)); !shown && t.arriving.putLocked(head) {
		return nil
	}
	for range setAttempts {
		t.cache.Set(slot(head.key), head, 1)
		t.cache.Wait()
		if got, ok := t.cache.Get(slot(head.key)); ok && got == head {
			t.arriving.shownLocked(head.key)
			return nil
		}
	}
	return errDropped
}

// bring brings entries into the cache until the table is closed.
func (t *table) bring() {
	defer close(t.brought)
	for {
		select {
		case <-t.arriving.wake:
		case <-t.stop:
			return
		}
		for batch := range slices.Chunk(t.arriving.take(), bringBatch) {
			for _, key := range batch {
				t.locked(key, t.departLocked)
			}
			t.cache.Wait()
			for _, key := range batch {
				t.locked(key, t.arrivedLocked)
			}
		}
	}
}

// departLocked sets what nobody set yet.
func (t *table) departLocked(key sessionstore.Key) {
	if at, ok := t.arriving.get(key); ok && !at.set {
		t.arriving.setLocked(at.head)
		t.cache.Set(slot(key), at.head, 1)
	}
}

// arrivedLocked looks whether the cache shows what was set. It dropped it if its
// buffer was full.
func (t *table) arrivedLocked(key sessionstore.Key) {
	at, ok := t.arriving.get(key)
	if !ok {
		return // somebody else waited for it
	}
	if _, shown := t.cache.Get(slot(key)); shown {
		t.arriving.shownLocked(key)
		return
	}
	t.cache.Set(slot(key), at.head, 1)
	t.arriving.enqueue(key)
}

func (t *table) locked(key sessionstore.Key, f func(sessionstore.Key)) {
	mu := t.lock(key)
	mu.Lock()
	defer mu.Unlock()
	f(key)
}
