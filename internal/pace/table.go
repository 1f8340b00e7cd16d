// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pace

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shards = 64

	// perShard bounds the memory that clients can take by coming from many
	// addresses: about 10 MiB in all.
	perShard = 1024

	// Limit is how many addresses a Table knows at most.
	Limit = shards * perShard
)

// Table is a bounded table of what is known of client addresses. What is
// over is dropped; where nothing is and there is no room, somebody else is.
type Table[T any, P interface {
	*T
	Over(now time.Time) bool
}] struct {
	seed   maphash.Seed
	size   atomic.Int64 // so that nobody takes a lock where there is nothing
	shards [shards]shard[T]
}

type shard[T any] struct {
	mu    sync.Mutex
	known map[netip.Addr]*T
	swept time.Time
}

// New makes an empty table.
func New[T any, P interface {
	*T
	Over(now time.Time) bool
}]() *Table[T, P] {
	return &Table[T, P]{seed: maphash.MakeSeed()}
}

// See calls use with what is known of an address, if anything is, and forgets
// it if it is over then.
func (p *Table[T, P]) See(addr netip.Addr, now time.Time, use func(P)) {
	if p.size.Load() == 0 {
		return
	}
	s := &p.shards[maphash.Comparable(p.seed, addr)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.known[addr]
	if !ok {
		return
	}
	use(t)
	if P(t).Over(now) {
		delete(s.known, addr)
		p.size.Add(-1)
	}
}

// At calls use with what is known of an address, and begins to know it.
func (p *Table[T, P]) At(addr netip.Addr, now time.Time, use func(P)) {
	s := &p.shards[maphash.Comparable(p.seed, addr)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.known[addr]
	if !ok {
		p.makeRoomLocked(s, now)
		t = new(T)
		if s.known == nil {
			s.known = make(map[netip.Addr]*T)
		}
		s.known[addr] = t
		p.size.Add(1)
	}
	use(t)
}

func (p *Table[T, P]) makeRoomLocked(s *shard[T], now time.Time) {
	full := len(s.known) >= perShard
	if !full && now.Sub(s.swept) < time.Minute {
		return
	}
	s.swept = now
	for addr, t := range s.known {
		if P(t).Over(now) {
			delete(s.known, addr)
			p.size.Add(-1)
		}
	}
	for addr := range s.known { // in no order
		if len(s.known) < perShard {
			return
		}
		delete(s.known, addr)
		p.size.Add(-1)
	}
}

// Len returns how many addresses something is known of.
func (p *Table[T, P]) Len() int { return int(p.size.Load()) }
