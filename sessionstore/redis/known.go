// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	knownShards = 256
	// knownLimit bounds how many sessions of one shard are kept: a million in
	// all. One that is dropped costs a command when it is asked for.
	knownLimit = 4096
)

// known keeps what was read from the server, or written to it, until the server
// says that somebody else changed it.
//
// Nothing older may take the place of something newer. Answers come in the
// order of the server, all on one connection, but the goroutines that wait for
// them run in any order:
//
//  1. Get asks, the server answers v1.
//  2. Another Caddy writes v2. Its invalidation arrives and finds nothing.
//  3. The goroutine of 1 goes on and would keep v1 for ever.
//
// The same happens with our own write in step 2, of which the server does not
// tell us (NOLOOP). And one Get may see what a write did that is not answered yet,
// after which no other may see less. Hence all questions about a key that are on
// their way at once have a sequence number in common, their flight's. Each
// invalidation moves it, and each write, when it begins and when it ends. An answer
// is kept only if it has not moved since the question, and a read's only if no
// write is on its way. While one is, what is kept does not count. A write that
// finds that the number has moved cannot know whether its answer is the newest, and
// drops what is kept: the next Get asks.
//
// A connection that breaks may have lost invalidations. All that was known
// before then is of an old epoch: it serves while the server is away, and is
// asked for again as soon as it is not.
type known struct {
	epoch  atomic.Uint64
	shards [knownShards]knownShard
}

type knownShard struct {
	mu       sync.RWMutex
	sessions map[sessionstore.Key]*knownSession
	flights  map[sessionstore.Key]*flight
}

// flight is the questions about a key that are on their way.
type flight struct {
	asking, writing int
	seq             uint64
}

// knownSession is a session as the server has it, but for when it was used.
type knownSession struct {
	session  sessionstore.Session
	lastUsed atomic.Int64
	epoch    atomic.Uint64 // 0: what the server has may be newer
}

func newKnown() *known {
	k := new(known)
	k.epoch.Store(1)
	for i := range k.shards {
		k.shards[i].sessions = make(map[sessionstore.Key]*knownSession)
		k.shards[i].flights = make(map[sessionstore.Key]*flight)
	}
	return k
}

// shard takes another byte of the key than tagOf.
func (k *known) shard(key sessionstore.Key) *knownShard { return &k.shards[key[15]] }

// mark is a moment before a question to the server.
type mark struct {
	flight     *flight
	seq, epoch uint64
}

// beginRead is called before a question, which ends with read or failedRead.
func (k *known) beginRead(key sessionstore.Key) mark {
	s := k.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beginLocked(key, k.epoch.Load())
}

// beginWrite is called before a write, which ends with wrote or failedWrite.
func (k *known) beginWrite(key sessionstore.Key) mark {
	s := k.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.beginLocked(key, k.epoch.Load())
	m.flight.writing++
	m.flight.seq++
	m.seq = m.flight.seq
	s.unsureLocked(key)
	return m
}

func (s *knownShard) beginLocked(key sessionstore.Key, epoch uint64) mark {
	f := s.flights[key]
	if f == nil {
		f = new(flight)
		s.flights[key] = f
	}
	f.asking++
	return mark{f, f.seq, epoch}
}

func (s *knownShard) endLocked(key sessionstore.Key, f *flight) {
	if f.asking--; f.asking == 0 {
		delete(s.flights, key)
	}
}

func (s *knownShard) endWriteLocked(key sessionstore.Key, f *flight) {
	f.writing--
	f.seq++
	s.endLocked(key, f)
}

func (s *knownShard) unsureLocked(key sessionstore.Key) {
	if e := s.sessions[key]; e != nil {
		e.epoch.Store(0)
	}
}

// find returns a session and whether it is certainly what the server has.
func (k *known) find(key sessionstore.Key) (e *knownSession, sure bool) {
	s := k.shard(key)
	s.mu.RLock()
	e = s.sessions[key]
	s.mu.RUnlock()
	return e, e != nil && e.epoch.Load() == k.epoch.Load()
}

func (e *knownSession) get() sessionstore.Session {
	s := e.session
	if s.Target != "" {
		s.LastUsed = time.Unix(0, e.lastUsed.Load())
	}
	return s
}

// read keeps what the server answered to a question that was asked at m. The
// zero session is nothing, and is not kept.
func (k *known) read(key sessionstore.Key, session sessionstore.Session, m mark) {
	s := k.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.endLocked(key, m.flight)
	switch {
	case m.flight.seq != m.seq || m.flight.writing > 0:
	case session.Expires.IsZero():
		delete(s.sessions, key)
	default:
		s.putLocked(key, session, m.epoch)
	}
}

// failedRead ends a question without an answer.
func (k *known) failedRead(key sessionstore.Key, m mark) {
	s := k.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(key, m.flight)
}

// wrote keeps what the server answered to a write that was sent at m.
func (k *known) wrote(key sessionstore.Key, session sessionstore.Session, m mark) {
	s := k.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.endWriteLocked(key, m.flight)
	if m.flight.seq != m.seq || session.Expires.IsZero() {
		delete(s.sessions, key)
		return
	}
	s.putLocked(key, session, m.epoch)
}

// failedWrite ends a write that may have happened, or may happen later. What is
// kept serves while the server is away.
func (k *known) failedWrite(key sessionstore.Key, m mark) {
	s := k.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsureLocked(key)
	s.endWriteLocked(key, m.flight)
}

// drop notes that somebody else changed a session.
func (k *known) drop(key sessionstore.Key) {
	s := k.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[key]; f != nil {
		f.seq++
	}
	delete(s.sessions, key)
}

func (s *knownShard) putLocked(key sessionstore.Key, session sessionstore.Session, epoch uint64) {
	e := &knownSession{session: session}
	used := nanos(session.LastUsed)
	if old := s.sessions[key]; old != nil && old.session.Same(session) && session.MaxIdle == 0 {
		used = max(used, old.lastUsed.Load()) // known here only
	}
	e.lastUsed.Store(used)
	e.epoch.Store(epoch)
	if len(s.sessions) >= knownLimit {
		for other := range s.sessions {
			delete(s.sessions, other)
			break
		}
	}
	s.sessions[key] = e
}

// sweep forgets what is over in a shard.
func (k *known) sweep(shard int, now time.Time) {
	s := &k.shards[shard%knownShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, e := range s.sessions {
		if !now.Before(forgottenAt(e.session)) {
			delete(s.sessions, key)
		}
	}
}
