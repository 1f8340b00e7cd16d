// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

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

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// lockShards spreads claims: only those of one shard wait for each other.
	// A power of two.
	lockShards = 256

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

// entry is one session in the table, or the tombstone of one. What a request
// may change is atomic, all else is settled when the entry is made: a move
// makes a new entry. There may be millions of them, so each byte counts.
type entry struct {
	key      sessionstore.Key
	at       *place // nil: a tombstone
	created  int64  // nanoseconds since 1970, as are all times here; of a tombstone: when the session ended
	expires  int64
	lastUsed atomic.Int64

	// next is another key whose first eight bytes are the same. Such keys can
	// be made on purpose (2^32 digests), and must not meet. Written under the
	// slot's lock.
	next atomic.Pointer[entry]

	maxIdle uint32 // milliseconds
	max     int32
	errors  atomic.Int32
	state   atomic.Int32

	// stale says that the file has an older lastUsed.
	stale atomic.Bool
}

// The states of an entry. Readers see all but the last.
const (
	stateLive    int32 = iota // counted as a session
	stateOver                 // expired: counted as remains
	stateLeaving              // not counted: the next one takes its place in a moment
	stateEnded                // a tombstone: not counted
	stateGone                 // replaced or forgotten: not counted
)

func (e *entry) session() sessionstore.Session {
	if e.at == nil {
		return sessionstore.Session{Key: e.key, Ended: time.Unix(0, e.created), Expires: time.Unix(0, e.expires)}
	}
	return sessionstore.Session{
		Key: e.key, Scope: e.at.scope, Target: e.at.target,
		Created: time.Unix(0, e.created), Expires: time.Unix(0, e.expires),
		LastUsed: time.Unix(0, e.lastUsed.Load()), MaxIdle: time.Duration(e.maxIdle) * time.Millisecond,
		MaxErrors: int(e.max), Errors: int(e.errors.Load()),
	}
}

// end is when the session or tombstone is over, as far as is known now.
func (e *entry) end() int64 {
	if e.maxIdle == 0 {
		return e.expires
	}
	return min(e.expires, e.lastUsed.Load()+int64(e.maxIdle)*int64(time.Millisecond))
}

// bars reports whether s, at now, does not get the key that e holds.
func (e *entry) bars(s sessionstore.Session, now time.Time) bool {
	if now.UnixNano() >= e.end() {
		return false
	}
	return e.at != nil || s.Created.UnixNano() <= e.created
}

// forgotten is when not even the entry's target needs to be known any more.
func (e *entry) forgotten() int64 {
	if e.at == nil {
		return e.expires
	}
	return e.expires + min(e.expires-e.created, int64(sessionstore.RemainsLimit))
}

// place is where sessions are counted: a target of a scope.
type place struct {
	scope, target string
	count         atomic.Int64             // live sessions in the table
	issued        sessionstore.Outstanding // those that clients carry
}

type placeKey struct{ scope, target string }

// table is the memory store's state: sessions on a ristretto cache.
//
// A cache may forget, and a session table must not. What makes the one out of
// the other:
//
//   - Writes of one key are serialised, because ristretto silently loses the
//     second of two that are on their way.
//   - What is written is found beside the cache until ristretto has worked it
//     off and shows it; a dropped one (the buffer was full) is written again.
//   - Nothing has a ttl in ristretto: the table forgets by itself what is long
//     over, under the key's lock. That takes less memory as well.
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
	refused atomic.Int64 // when there last was no room, nanoseconds since 1970
	places  sync.Map     // placeKey to *place

	expiry   expiryQueue // sessions, by when they are over
	sweeping sync.Mutex
	forget   expiryQueue // what is left of them, by when it is of no use any more
	stop     chan struct{}
	done     chan struct{}

	arriving arriving
	brought  chan struct{}

	journal atomic.Pointer[journal] // nil: sessions end with the process
}

func newTable(limit int) (*table, error) {
	t := &table{stop: make(chan struct{}), done: make(chan struct{}), brought: make(chan struct{})}
	t.arriving.wake = make(chan struct{}, 1)
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters: sketchCounters,
		// Never reached: the table counts for itself, see limit.
		MaxCost:            math.MaxInt64 / 2,
		BufferItems:        64,
		IgnoreInternalCost: true,
	})
	if err != nil {
		return nil, err
	}
	t.cache = cache
	t.limit.Store(int64(limit))
	go t.expire()
	go t.bring()
	return t, nil
}

// slot is the cache's key: entries that share it are chained.
func slot(key sessionstore.Key) uint64 { return binary.BigEndian.Uint64(key[:8]) }

func (t *table) lock(key sessionstore.Key) *sync.Mutex { return &t.locks[key[0]] }

// find returns the entry of key, which may be over.
func (t *table) find(key sessionstore.Key) *entry {
	e := t.head(key)
	for e != nil && (e.key != key || e.state.Load() == stateGone) {
		e = e.next.Load()
	}
	return e
}

func (t *table) get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	if t.closed.Load() {
		return sessionstore.Session{}, sessionstore.ErrClosed
	}
	if e := t.find(key); e != nil {
		return e.session(), nil
	}
	if j := t.journal.Load(); j != nil && j.incomplete() {
		return t.recall(ctx, key)
	}
	return sessionstore.Session{}, nil
}

// recall is get while the file is being loaded.
func (t *table) recall(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	if err := t.begin(ctx); err != nil {
		return sessionstore.Session{}, err
	}
	defer t.closing.RUnlock()
	mu := t.lock(key)
	mu.Lock()
	defer mu.Unlock()
	if e := t.recallLocked(key, time.Now()); e != nil {
		return e.session(), nil
	}
	return sessionstore.Session{}, nil
}

// begin admits a write, which ends with closing.RUnlock. It waits until it is
// known which sessions there are.
func (t *table) begin(ctx context.Context) error {
	if err := t.settle(ctx); err != nil {
		return err
	}
	t.closing.RLock()
	if t.closed.Load() {
		t.closing.RUnlock()
		return sessionstore.ErrClosed
	}
	return nil
}

func (t *table) claim(ctx context.Context, s sessionstore.Session, now time.Time) (sessionstore.Session, bool, error) {
	if err := t.begin(ctx); err != nil {
		return sessionstore.Session{}, false, err
	}
	defer t.closing.RUnlock()
	mu := t.lock(s.Key)
	mu.Lock()
	defer mu.Unlock()

	held := t.recallLocked(s.Key, now)
	if held != nil && held.bars(s, now) {
		return held.session(), false, nil
	}
	e := t.entry(s)
	bound := e.session() // once it is there, others change it
	if err := t.succeedLocked(held, e, now); err != nil {
		return sessionstore.Session{}, false, err
	}
	if s.Carried {
		e.at.issued.Redeem(s)
	}
	t.changed(s.Key)
	return bound, true, nil
}

func (t *table) replace(ctx context.Context, old, next sessionstore.Session, now time.Time) (sessionstore.Session, bool, error) {
	if err := t.begin(ctx); err != nil {
		return sessionstore.Session{}, false, err
	}
	defer t.closing.RUnlock()
	mu := t.lock(old.Key)
	mu.Lock()
	defer mu.Unlock()

	held := t.recallLocked(old.Key, now)
	if held == nil {
		return sessionstore.Session{}, false, nil
	}
	if held.at == nil || !held.session().Same(old) {
		return held.session(), false, nil
	}
	next.Key = old.Key
	e := t.entry(next)
	bound := e.session()
	if err := t.succeedLocked(held, e, now); err != nil {
		return held.session(), false, err
	}
	if next.Carried {
		e.at.issued.Redeem(next)
	}
	t.changed(old.Key)
	return bound, true, nil
}

// succeedLocked puts an entry in the place of its key's last one, which may be
// nil. A place that is counted still is taken over: a move needs no room, nor
// does a session that begins when the one before it is over.
func (t *table) succeedLocked(held, e *entry, now time.Time) error {
	inherits := held != nil && held.state.CompareAndSwap(stateLive, stateLeaving)
	if !inherits {
		if err := t.reserve(now); err != nil {
			return err
		}
	}
	err := t.putLocked(e)
	switch {
	case err != nil && inherits:
		held.state.Store(stateLive)
	case err != nil:
		t.live.Add(-1)
	case inherits:
		held.at.count.Add(-1)
	case held != nil:
		t.leave(held)
	}
	return err
}

// reserve takes a place for one more live session.
func (t *table) reserve(now time.Time) error {
	for {
		live := t.live.Load()
		if live < t.limit.Load() {
			if t.live.CompareAndSwap(live, live+1) {
				return nil
			}
			continue
		}
		// Sessions that are over but were not noticed yet are no reason to refuse.
		t.sweep(now)
		if t.live.Load() >= t.limit.Load() {
			t.refused.Store(now.UnixNano())
			return sessionstore.ErrFull
		}
	}
}

// entry makes what the table has of a session.
func (t *table) entry(s sessionstore.Session) *entry {
	e := &entry{
		key: s.Key, at: t.place(s.Scope, s.Target),
		created: s.Created.UnixNano(), expires: s.Expires.UnixNano(),
		maxIdle: uint32(min(max(s.MaxIdle.Milliseconds(), 0), math.MaxUint32)),
		max:     int32(min(s.MaxErrors, math.MaxInt32)),
	}
	e.errors.Store(int32(min(s.Errors, math.MaxInt32)))
	e.lastUsed.Store(max(s.Created.UnixNano(), lastUsed(s)))
	return e
}

// putLocked writes a session, whose place was reserved, in front of all other
// keys of its slot. It returns when every Get sees it.
func (t *table) putLocked(e *entry) error {
	if err := t.linkLocked(e); err != nil {
		return err
	}
	e.at.count.Add(1)
	t.expiry.add(e, e.end())
	return nil
}

func lastUsed(s sessionstore.Session) int64 {
	if s.LastUsed.IsZero() {
		return 0
	}
	return s.LastUsed.UnixNano()
}

// linkLocked puts an entry in the place of all others of its key.
func (t *table) linkLocked(e *entry) error {
	e.next.Store(t.head(e.key))
	if err := t.setLocked(e); err != nil {
		e.state.Store(stateGone)
		return err
	}
	// Only now: until the new entry is there, readers need the old one.
	e.unlinkLocked(e.key)
	return nil
}

// unlinkLocked takes the entries of key, and those that are gone, out of the
// chain behind e.
func (e *entry) unlinkLocked(key sessionstore.Key) {
	for next := e.next.Load(); next != nil; next = e.next.Load() {
		if next.key == key || next.state.Load() == stateGone {
			e.next.Store(next.next.Load())
			continue
		}
		e = next
	}
}

// place returns where the sessions of a target are counted.
func (t *table) place(scope, target string) *place {
	key := placeKey{scope, target}
	if p, ok := t.places.Load(key); ok {
		return p.(*place)
	}
	p, _ := t.places.LoadOrStore(key, &place{scope: scope, target: target})
	return p.(*place)
}

func (t *table) touch(s sessionstore.Session, now time.Time, use sessionstore.Use) (int, error) {
	if t.closed.Load() {
		return s.Errors, sessionstore.ErrClosed
	}
	e := t.find(s.Key)
	if e == nil || e.at == nil || e.at.target != s.Target || e.created != s.Created.UnixNano() {
		return s.Errors, nil
	}
	before := e.lastUsed.Swap(now.UnixNano())
	if e.maxIdle > 0 {
		t.used(e, before, now.UnixNano())
	}
	switch use {
	case sessionstore.Failed:
		n := int(e.errors.Add(1))
		t.changed(s.Key)
		return n, nil
	case sessionstore.Succeeded:
		if e.errors.Load() != 0 && e.errors.Swap(0) != 0 {
			t.changed(s.Key)
		}
		return 0, nil // and not what another goroutine made of it since
	case sessionstore.Looked:
	}
	return int(e.errors.Load()), nil
}

// used notes that the file is behind with when a session was last used, once in
// a sixteenth of what it may be idle for; between these, only a clean stop
// writes it.
func (t *table) used(e *entry, before, now int64) {
	part := max(int64(e.maxIdle)*int64(time.Millisecond)/16, int64(time.Second))
	if now/part != before/part {
		t.changed(e.key)
	} else if !e.stale.Load() {
		e.stale.Store(true)
	}
}

// endSession puts a tombstone in the place of the key's session, if there is
// time left for one.
func (t *table) endSession(ctx context.Context, key sessionstore.Key, now, until time.Time) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	defer t.closing.RUnlock()
	mu := t.lock(key)
	mu.Lock()
	defer mu.Unlock()

	held := t.recallLocked(key, now)
	expires := int64(0)
	if !until.IsZero() {
		expires = until.UnixNano()
	}
	if held != nil {
		expires = max(expires, held.expires)
	}
	if expires <= now.UnixNano() {
		return nil // what was, is over
	}
	ended := now.UnixNano()
	if held != nil {
		ended = max(ended, held.created) // by a clock that is ahead
	}
	tombstone := &entry{key: key, created: ended, expires: expires}
	tombstone.state.Store(stateEnded)
	if err := t.linkLocked(tombstone); err != nil {
		return err
	}
	t.forget.add(tombstone, expires)
	if held != nil {
		t.leave(held)
	}
	t.changed(key)
	return nil
}

// leave takes an entry out of whatever count it is in.
func (t *table) leave(e *entry) {
	switch e.state.Swap(stateGone) {
	case stateLive:
		e.at.count.Add(-1)
		t.live.Add(-1)
	case stateOver:
		t.remains.Add(-1)
	}
}

// entries returns all that the table knows, in no order.
func (t *table) entries() []*entry {
	entries := make([]*entry, 0, max(t.live.Load(), 0))
	// First, because they go from here to there.
	seen := make(map[*entry]bool)
	t.arriving.each(func(head *entry) {
		for e := head; e != nil; e = e.next.Load() {
			entries = append(entries, e)
			seen[e] = true
		}
	})
	// Collected first: ristretto holds a lock while it lists.
	t.cache.IterValues(func(head *entry) bool {
		for e := head; e != nil; e = e.next.Load() {
			if !seen[e] {
				entries = append(entries, e)
			}
		}
		return false
	})
	return entries
}

func (t *table) all(ctx context.Context) iter.Seq2[sessionstore.Session, error] {
	return func(yield func(sessionstore.Session, error) bool) {
		if t.closed.Load() {
			yield(sessionstore.Session{}, sessionstore.ErrClosed)
			return
		}
		if err := t.complete(ctx); err != nil {
			yield(sessionstore.Session{}, err)
			return
		}
		for _, e := range t.entries() {
			if err := ctx.Err(); err != nil {
				yield(sessionstore.Session{}, err)
				return
			}
			state := e.state.Load()
			listed := (state == stateLive || state == stateEnded) && time.Now().UnixNano() < e.end()
			if listed && !yield(e.session(), nil) {
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
	<-t.brought
	if j := t.journal.Load(); j != nil {
		j.close()
	}
	t.cache.Close()
}
