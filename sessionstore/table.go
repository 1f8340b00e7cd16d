// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

const (
	// lockShards spreads claims: only those of one shard wait for each other.
	// A power of two.
	lockShards = 256

	// remainsLimit is how long at most an expired session's target is
	// remembered, so that the next session can be put elsewhere.
	remainsLimit = time.Hour

	// setAttempts bounds how often a write that ristretto dropped is tried
	// again. Each attempt waits until its buffer was worked off, so that the
	// second one finds room even under load.
	setAttempts = 64

	// ristretto's frequency sketch serves its eviction, which this table never
	// lets happen: the smallest one does.
	sketchCounters = 1 << 10
)

// errDropped says that ristretto did not take an entry after all attempts.
var errDropped = errors.New("session table did not take the entry")

// entry is one session in the table. What a request may change is atomic, all
// else is settled when the entry is made: a move makes a new entry.
type entry struct {
	key      Key
	scope    string
	target   string
	created  int64 // nanoseconds since 1970, as are all times here
	expires  int64
	lastUsed atomic.Int64
	errors   atomic.Int32
	max      int32
	state    atomic.Int32
	count    *atomic.Int64 // of the scope and target

	// next is another key whose first eight bytes are the same. Such keys can
	// be made on purpose (2^32 digests), and must not meet. Written under the
	// slot's lock.
	next atomic.Pointer[entry]
}

// The states of an entry. Readers see all but the last.
const (
	stateLive    int32 = iota // counted as a session
	stateOver                 // expired: counted as remains
	stateLeaving              // not counted: the next one takes its place in a moment
	stateGone                 // replaced, ended or forgotten: not counted
)

func (e *entry) session() Session {
	return Session{
		Key: e.key, Scope: e.scope, Target: e.target,
		Created: time.Unix(0, e.created), Expires: time.Unix(0, e.expires),
		LastUsed:  time.Unix(0, e.lastUsed.Load()),
		MaxErrors: int(e.max), Errors: int(e.errors.Load()),
	}
}

// forgotten is when not even the entry's target needs to be known any more.
func (e *entry) forgotten() int64 {
	return e.expires + min(e.expires-e.created, int64(remainsLimit))
}

type countKey struct{ scope, target string }

// table is the memory store's state: sessions on a ristretto cache.
//
// A cache may forget, and a session table must not. What makes the one out of
// the other:
//
//   - Writes of one key are serialised, because ristretto silently loses the
//     second of two that are on their way.
//   - Each write waits until ristretto has worked it off and then looks
//     whether it is there; a dropped one (the buffer was full) or one that its
//     expiry clean-up took away in that moment is written again.
//   - The table counts its sessions itself and refuses the one too many, so
//     that ristretto's own limit is never reached and it evicts nothing.
//   - Closing waits for writes, because a write after it may panic.
type table struct {
	cache *ristretto.Cache[uint64, *entry]
	locks [lockShards]sync.Mutex

	// closing is held for reading by whoever writes to the cache.
	closing sync.RWMutex
	closed  atomic.Bool

	limit   atomic.Int64 // live sessions at most
	live    atomic.Int64
	remains atomic.Int64
	counts  sync.Map // countKey to *atomic.Int64

	expiry expiryQueue
	stop   chan struct{}
	done   chan struct{}
}

func newTable(limit int) (*table, error) {
	t := &table{stop: make(chan struct{}), done: make(chan struct{})}
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters: sketchCounters,
		// Never reached: the table counts for itself, see limit.
		MaxCost:            math.MaxInt64 / 2,
		BufferItems:        64,
		IgnoreInternalCost: true,
		OnEvict:            t.onEvict,
	})
	if err != nil {
		return nil, err
	}
	t.cache = cache
	t.limit.Store(int64(limit))
	go t.expire()
	return t, nil
}

// slot is the cache's key: entries that share it are chained.
func slot(key Key) uint64 { return binary.BigEndian.Uint64(key[:8]) }

func (t *table) lock(key Key) *sync.Mutex { return &t.locks[key[0]] }

// find returns the entry of key, which may be over.
func (t *table) find(key Key) *entry {
	e, _ := t.cache.Get(slot(key))
	for e != nil && (e.key != key || e.state.Load() == stateGone) {
		e = e.next.Load()
	}
	return e
}

func (t *table) get(key Key) (Session, error) {
	if t.closed.Load() {
		return Session{}, ErrClosed
	}
	if e := t.find(key); e != nil {
		return e.session(), nil
	}
	return Session{}, nil
}

// begin admits a write, which ends with closing.RUnlock.
func (t *table) begin() error {
	t.closing.RLock()
	if t.closed.Load() {
		t.closing.RUnlock()
		return ErrClosed
	}
	return nil
}

func (t *table) claim(s Session, now time.Time) (Session, bool, error) {
	if err := t.begin(); err != nil {
		return Session{}, false, err
	}
	defer t.closing.RUnlock()
	mu := t.lock(s.Key)
	mu.Lock()
	defer mu.Unlock()

	held := t.find(s.Key)
	if held != nil && now.UnixNano() < held.expires {
		return held.session(), false, nil
	}
	e, err := t.succeedLocked(held, s, now)
	if err != nil {
		return Session{}, false, err
	}
	return e.session(), true, nil
}

func (t *table) replace(old, next Session, now time.Time) (Session, bool, error) {
	if err := t.begin(); err != nil {
		return Session{}, false, err
	}
	defer t.closing.RUnlock()
	mu := t.lock(old.Key)
	mu.Lock()
	defer mu.Unlock()

	held := t.find(old.Key)
	if held == nil {
		return Session{}, false, nil
	}
	if !held.session().Same(old) {
		return held.session(), false, nil
	}
	next.Key = old.Key
	e, err := t.succeedLocked(held, next, now)
	if err != nil {
		return held.session(), false, err
	}
	return e.session(), true, nil
}

// succeedLocked puts a session in the place of its key's last one, which may be
// nil. A place that is counted still is taken over: a move needs no room, nor
// does a session that begins when the one before it is over.
func (t *table) succeedLocked(held *entry, s Session, now time.Time) (*entry, error) {
	inherits := held != nil && held.state.CompareAndSwap(stateLive, stateLeaving)
	if !inherits {
		if err := t.reserve(now); err != nil {
			return nil, err
		}
	}
	e, err := t.putLocked(s)
	switch {
	case err != nil && inherits:
		held.state.Store(stateLive)
	case err != nil:
		t.live.Add(-1)
	case inherits:
		held.count.Add(-1)
	case held != nil:
		t.leave(held)
	}
	return e, err
}

// reserve takes a place for one more live session.
func (t *table) reserve(now time.Time) error {
	for {
		if t.live.Add(1) <= t.limit.Load() {
			return nil
		}
		t.live.Add(-1)
		// A session that is over but was not noticed yet is no reason to refuse.
		if t.sweep(now) == 0 {
			return ErrFull
		}
	}
}

// putLocked writes a session, whose place was reserved, in front of all other
// keys of its slot. It returns when every Get sees it.
func (t *table) putLocked(s Session) (*entry, error) {
	e := &entry{
		key: s.Key, scope: s.Scope, target: s.Target,
		created: s.Created.UnixNano(), expires: s.Expires.UnixNano(),
		max: int32(min(s.MaxErrors, math.MaxInt32)), count: t.counter(s.Scope, s.Target),
	}
	e.lastUsed.Store(s.Created.UnixNano())
	head, _ := t.cache.Get(slot(s.Key))
	e.next.Store(head)
	if err := t.setLocked(e); err != nil {
		e.state.Store(stateGone)
		return nil, err
	}
	// Only now: until the new entry is there, readers need the old one.
	e.unlinkLocked(s.Key)
	e.count.Add(1)
	t.expiry.add(e)
	return e, nil
}

// setLocked makes head the first entry of its slot.
func (t *table) setLocked(head *entry) error {
	until := head.forgotten()
	for e := head.next.Load(); e != nil; e = e.next.Load() {
		until = max(until, e.forgotten())
	}
	for range setAttempts {
		ttl := max(time.Until(time.Unix(0, until)), time.Second)
		t.cache.SetWithTTL(slot(head.key), head, 1, ttl)
		t.cache.Wait()
		if got, ok := t.cache.Get(slot(head.key)); ok && got == head {
			return nil
		}
	}
	return errDropped
}

// unlinkLocked takes the entries of key, and those that are gone, out of the
// chain behind e.
func (e *entry) unlinkLocked(key Key) {
	for next := e.next.Load(); next != nil; next = e.next.Load() {
		if next.key == key || next.state.Load() == stateGone {
			e.next.Store(next.next.Load())
			continue
		}
		e = next
	}
}

func (t *table) counter(scope, target string) *atomic.Int64 {
	key := countKey{scope, target}
	if n, ok := t.counts.Load(key); ok {
		return n.(*atomic.Int64)
	}
	n, _ := t.counts.LoadOrStore(key, new(atomic.Int64))
	return n.(*atomic.Int64)
}

func (t *table) touch(s Session, now time.Time, use Use) (int, error) {
	if t.closed.Load() {
		return s.Errors, ErrClosed
	}
	e := t.find(s.Key)
	if e == nil || e.target != s.Target || e.created != s.Created.UnixNano() {
		return s.Errors, nil
	}
	e.lastUsed.Store(now.UnixNano())
	switch use {
	case Failed:
		return int(e.errors.Add(1)), nil
	case Succeeded:
		e.errors.Store(0)
	case Looked:
	}
	return int(e.errors.Load()), nil
}

func (t *table) endSession(key Key) error {
	if err := t.begin(); err != nil {
		return err
	}
	defer t.closing.RUnlock()
	mu := t.lock(key)
	mu.Lock()
	defer mu.Unlock()
	if e := t.find(key); e != nil {
		t.leave(e)
		t.dropLocked(e)
	}
	return nil
}

// dropLocked takes an entry that is gone out of its slot.
func (t *table) dropLocked(e *entry) {
	head, _ := t.cache.Get(slot(e.key))
	if head == nil {
		return
	}
	if head != e {
		head.unlinkLocked(e.key)
		return
	}
	next := e.next.Load()
	if next == nil {
		t.cache.Del(slot(e.key))
		return
	}
	// If this fails, the entry stays where it is, and no reader minds it.
	_ = t.setLocked(next)
}

// leave takes an entry out of whatever count it is in.
func (t *table) leave(e *entry) {
	switch e.state.Swap(stateGone) {
	case stateLive:
		e.count.Add(-1)
		t.live.Add(-1)
	case stateOver:
		t.remains.Add(-1)
	}
}

// onEvict is told by ristretto what it forgets: what is long over.
func (t *table) onEvict(item *ristretto.Item[*entry]) {
	for e := item.Value; e != nil; e = e.next.Load() {
		t.leave(e)
	}
}

func (t *table) all(ctx context.Context) iter.Seq2[Session, error] {
	return func(yield func(Session, error) bool) {
		if t.closed.Load() {
			yield(Session{}, ErrClosed)
			return
		}
		// Collected first: ristretto holds a lock while it lists.
		entries := make([]*entry, 0, max(t.live.Load(), 0))
		t.cache.IterValues(func(head *entry) bool {
			for e := head; e != nil; e = e.next.Load() {
				entries = append(entries, e)
			}
			return false
		})
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				yield(Session{}, err)
				return
			}
			live := e.state.Load() == stateLive && time.Now().UnixNano() < e.expires
			if live && !yield(e.session(), nil) {
				return
			}
		}
	}
}

// close ends the table. Writes that are on their way come first; all calls
// after it fail with ErrClosed.
func (t *table) close() {
	t.closing.Lock()
	closed := t.closed.Swap(true)
	t.closing.Unlock()
	if closed {
		return
	}
	close(t.stop)
	<-t.done
	t.cache.Close()
}
