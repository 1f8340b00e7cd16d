// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"hash/maphash"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	addressShards = 64
	// addressesPerShard bounds the memory that clients can take by coming from
	// many addresses: about 10 MiB in all.
	addressesPerShard = 1024
	// ipv6Site is how much of an IPv6 address names one client: whoever has an
	// address has all of its /64.
	ipv6Site = 64
)

var errNoAddr = errors.New("no address")

// clientAddr is the address that limits are about: the client's, as Caddy knows
// it (behind trusted proxies the one that they name). An IPv6 address stands for
// its /64. It is invalid where there is none, as on a Unix socket.
func clientAddr(r *http.Request) netip.Addr {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	var addr netip.Addr
	err := errNoAddr
	if text != "" {
		addr, err = netip.ParseAddr(text)
	}
	if err != nil {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return netip.Addr{}
		}
		addr = from.Addr()
	}
	addr = addr.WithZone("").Unmap()
	if addr.Is6() {
		prefix, _ := addr.Prefix(ipv6Site) // fits
		return prefix.Addr()
	}
	return addr
}

// perAddress is a bounded table of what is known of client addresses. What is
// over is dropped; where nothing is and there is no room, somebody else is.
type perAddress[T any, P interface {
	*T
	over(now time.Time) bool
}] struct {
	seed   maphash.Seed
	size   atomic.Int64 // so that nobody takes a lock where there is nothing
	shards [addressShards]addressShard[T]
}

type addressShard[T any] struct {
	mu    sync.Mutex
	known map[netip.Addr]*T
	swept time.Time
}

func newPerAddress[T any, P interface {
	*T
	over(now time.Time) bool
}]() *perAddress[T, P] {
	return &perAddress[T, P]{seed: maphash.MakeSeed()}
}

// see calls use with what is known of an address, if anything is, and forgets
// it if it is over then.
func (p *perAddress[T, P]) see(addr netip.Addr, now time.Time, use func(P)) {
	if p.size.Load() == 0 {
		return
	}
	s := &p.shards[maphash.Comparable(p.seed, addr)%addressShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.known[addr]
	if !ok {
		return
	}
	use(t)
	if P(t).over(now) {
		delete(s.known, addr)
		p.size.Add(-1)
	}
}

// at calls use with what is known of an address, and begins to know it.
func (p *perAddress[T, P]) at(addr netip.Addr, now time.Time, use func(P)) {
	s := &p.shards[maphash.Comparable(p.seed, addr)%addressShards]
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

func (p *perAddress[T, P]) makeRoomLocked(s *addressShard[T], now time.Time) {
	full := len(s.known) >= addressesPerShard
	if !full && now.Sub(s.swept) < time.Minute {
		return
	}
	s.swept = now
	for addr, t := range s.known {
		if P(t).over(now) {
			delete(s.known, addr)
			p.size.Add(-1)
		}
	}
	for addr := range s.known { // in no order
		if len(s.known) < addressesPerShard {
			return
		}
		delete(s.known, addr)
		p.size.Add(-1)
	}
}
