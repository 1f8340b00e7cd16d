// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// auditInterval is how often an account that is at its limit has its
	// sessions looked up in the store, and auditSize how many of them.
	auditInterval = time.Second
	auditSize     = 64
)

// books count the live sessions of accounts that may have only so many. The
// store knows sessions by keys that do not tell their account, so what begins is
// written down here, with the time when it is over, before it is claimed.
//
// How exact that is: never more sessions than allowed begin in this process, at
// any concurrency. A session that ends before its time (idle, or ended by an
// operator) is counted until an audit finds it, which happens when the account
// is at its limit. Not counted are sessions that this process did not begin:
// those of other machines with the same store, of before a restart, and of
// before the account had a limit.
type books struct {
	mu        sync.Mutex
	byAccount map[string]*book
}

// book is one account's. All of it is under the mutex of books, but never during
// a call to the store.
type book struct {
	entries map[sessionstore.Key]*bookEntry
	due     dueHeap // all entries that are held
	audited time.Time
}

type bookEntry struct {
	key     sessionstore.Key
	expires time.Time // zero while nothing holds the key
	pending int       // claims that are under way
	index   int       // in due; -1 while it is not there
}

// reserve writes down that a session is about to be claimed, unless the account
// has as many as it may. The caller calls settle afterwards, if it is true.
func (b *books) reserve(ctx context.Context, store sessionstore.Store, account string, key sessionstore.Key, limit int, now time.Time) bool {
	if b.tryReserve(account, key, limit, now) {
		return true
	}
	return b.audit(ctx, store, account, now) && b.tryReserve(account, key, limit, now)
}

func (b *books) tryReserve(account string, key sessionstore.Key, limit int, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	own, ok := b.byAccount[account]
	if !ok {
		if b.byAccount == nil {
			b.byAccount = make(map[string]*book)
		}
		own = &book{entries: make(map[sessionstore.Key]*bookEntry)}
		b.byAccount[account] = own
	}
	own.expire(now)
	e, ok := own.entries[key]
	if !ok {
		if len(own.entries) >= limit {
			return false
		}
		e = &bookEntry{key: key, index: -1}
		own.entries[key] = e
	}
	e.pending++
	return true
}

// settle notes how a claim ended: until when the key is held, zero if it is not.
func (b *books) settle(account string, key sessionstore.Key, expires time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.byAccount[account]
	if own == nil || own.entries[key] == nil {
		return
	}
	e := own.entries[key]
	e.pending--
	if !expires.IsZero() { // else another claim of the key may hold it
		own.holdUntil(e, expires)
	}
	b.forgetLocked(account, own, e)
}

// extend notes that a session goes on until another time.
func (b *books) extend(account string, key sessionstore.Key, expires time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if own := b.byAccount[account]; own != nil && own.entries[key] != nil {
		own.holdUntil(own.entries[key], expires)
	}
}

// forgetLocked drops an entry that counts for nothing.
func (b *books) forgetLocked(account string, own *book, e *bookEntry) {
	if e.pending == 0 && e.index < 0 {
		delete(own.entries, e.key)
	}
	if len(own.entries) == 0 {
		delete(b.byAccount, account)
	}
}

// audit looks up some of an account's sessions and drops those that are over
// before their time. It reports whether it did so, and does it once a second.
func (b *books) audit(ctx context.Context, store sessionstore.Store, account string, now time.Time) bool {
	keys := b.toAudit(account, now)
	dropped := false
	for _, key := range keys {
		session, err := store.Get(ctx, key)
		if err != nil || session.Live(now) {
			continue
		}
		dropped = b.drop(account, key) || dropped
	}
	return dropped
}

func (b *books) toAudit(account string, now time.Time) []sessionstore.Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.byAccount[account]
	if own == nil || now.Sub(own.audited) < auditInterval {
		return nil
	}
	own.audited = now
	keys := make([]sessionstore.Key, 0, min(len(own.entries), auditSize))
	for key, e := range own.entries { // in no order
		if len(keys) == auditSize {
			break
		}
		if e.pending == 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// drop forgets an entry, unless its key is being claimed again.
func (b *books) drop(account string, key sessionstore.Key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.byAccount[account]
	if own == nil || own.entries[key] == nil || own.entries[key].pending > 0 {
		return false
	}
	e := own.entries[key]
	own.holdUntil(e, time.Time{})
	delete(own.entries, key)
	return true
}

// expire drops what is over.
func (o *book) expire(now time.Time) {
	for len(o.due) > 0 && !now.Before(o.due[0].expires) {
		e := o.due[0]
		o.holdUntil(e, time.Time{})
		if e.pending == 0 {
			delete(o.entries, e.key)
		}
	}
}

// holdUntil notes until when an entry is held; the zero time is not at all.
func (o *book) holdUntil(e *bookEntry, expires time.Time) {
	if expires.IsZero() {
		if e.index >= 0 {
			heap.Remove(&o.due, e.index)
		}
		return
	}
	e.expires = expires
	if e.index < 0 {
		heap.Push(&o.due, e)
		return
	}
	heap.Fix(&o.due, e.index)
}

// dueHeap is the entries that are held, the next one to be over first.
type dueHeap []*bookEntry

func (d dueHeap) Len() int           { return len(d) }
func (d dueHeap) Less(i, j int) bool { return d[i].expires.Before(d[j].expires) }
func (d dueHeap) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push implements heap.Interface.
func (d *dueHeap) Push(x any) {
	e := x.(*bookEntry)
	e.index = len(*d)
	*d = append(*d, e)
}

// Pop implements heap.Interface.
func (d *dueHeap) Pop() any {
	last := len(*d) - 1
	e := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	e.index = -1
	return e
}
