// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package destination

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// deniedByDefault are the ranges that a client reaches only if they are allowed
// in so many words. Documentation ranges (RFC 5737) are left out: nothing is
// there to protect.
var deniedByDefault = []string{
	"0.0.0.0/8",      // this network; Linux takes 0.0.0.0 for loopback
	"10.0.0.0/8",     // private, RFC 1918
	"100.64.0.0/10",  // carrier-grade NAT, RFC 6598
	"127.0.0.0/8",    // loopback
	"169.254.0.0/16", // link-local, RFC 3927
	"172.16.0.0/12",  // private, RFC 1918
	"192.0.0.0/24",   // IETF protocol assignments, RFC 6890
	"192.168.0.0/16", // private, RFC 1918
	"198.18.0.0/15",  // benchmarking, RFC 2544
	"224.0.0.0/4",    // multicast
	"240.0.0.0/4",    // reserved, and broadcast
	"::/128",         // unspecified
	"::1/128",        // loopback
	"64:ff9b:1::/48", // local-use NAT64, RFC 8215: where the IPv4 address is, each network decides
	"fc00::/7",       // unique local, RFC 4193
	"fe80::/10",      // link-local
	"fec0::/10",      // site-local, RFC 3879
	"ff00::/8",       // multicast

	// Metadata services hand out a machine's credentials. Alone, so that an allow
	// of the range around one does not open it.
	"169.254.169.254/32", // most clouds
	"169.254.170.2/32",   // Amazon ECS
	"169.254.170.23/32",  // Amazon EKS
	"fd00:ec2::254/128",  // Amazon EC2
	"fd00:ec2::23/128",   // Amazon EKS
	"fd20:ce::254/128",   // Google
	"100.100.100.200/32", // Alibaba
	"168.63.129.16/32",   // Azure: a public address, but only the host answers there
	"192.0.0.192/32",     // Oracle
}

// embedding is an address as a rule may see it: the address itself, or an IPv4
// address inside an IPv6 one, to which a translator or relay would pass the
// connection on.
type embedding struct {
	addr netip.Addr
	// offset is where addr begins in the IPv6 address. Added to the length of a
	// matching prefix, it makes lengths comparable across embeddings.
	offset int
}

var (
	nat64          = netip.MustParsePrefix("64:ff9b::/96")
	ipv4Compatible = netip.MustParsePrefix("::/96")
	ipv4Translated = netip.MustParsePrefix("::ffff:0:0:0/96")
	sixToFour      = netip.MustParsePrefix("2002::/16")
	teredo         = netip.MustParsePrefix("2001::/32")
)

// ipv4Offset is where an IPv4 address begins in its IPv4-mapped form, in bits.
const ipv4Offset = 96

// embeddings returns addr, which has no zone and is not IPv4-mapped, and the
// IPv4 addresses in it. It returns an array so that nothing is allocated.
func embeddings(addr netip.Addr) (list [3]embedding, n int) {
	if addr.Is4() {
		return [3]embedding{{addr, ipv4Offset}}, 1
	}
	list[0] = embedding{addr, 0}
	b := addr.As16()
	switch {
	case nat64.Contains(addr), ipv4Compatible.Contains(addr), ipv4Translated.Contains(addr):
		list[1] = embedding{netip.AddrFrom4([4]byte(b[12:16])), ipv4Offset}
		return list, 2
	case sixToFour.Contains(addr):
		list[1] = embedding{netip.AddrFrom4([4]byte(b[2:6])), 16}
		return list, 2
	case teredo.Contains(addr): // RFC 4380 §4: the server, and the client inverted
		list[1] = embedding{netip.AddrFrom4([4]byte(b[4:8])), 32}
		list[2] = embedding{netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), ipv4Offset}
		return list, 3
	default:
		return list, 1
	}
}

// verdict is what a rule says. The higher one wins a tie.
type verdict uint8

const (
	unsaid verdict = iota
	allowed
	denied
)

// prefixTable finds the longest prefix for an address: one map lookup for each
// length that is in the table.
type prefixTable struct {
	verdicts map[netip.Prefix]verdict
	// The lengths in the table, longest first.
	lengths4, lengths6 []int
}

// add needs a masked prefix.
func (t *prefixTable) add(prefix netip.Prefix, v verdict) {
	if t.verdicts == nil {
		t.verdicts = make(map[netip.Prefix]verdict)
	}
	t.verdicts[prefix] = max(t.verdicts[prefix], v)
	lengths := &t.lengths6
	if prefix.Addr().Is4() {
		lengths = &t.lengths4
	}
	at, found := slices.BinarySearchFunc(*lengths, prefix.Bits(), func(have, want int) int { return want - have })
	if !found {
		*lengths = slices.Insert(*lengths, at, prefix.Bits())
	}
}

// longest returns the verdict of the longest prefix over an address's
// embeddings, and that prefix's length in IPv6 terms; -1 if there is none.
func (t *prefixTable) longest(list []embedding) (v verdict, length int) {
	length = -1
	for _, e := range list {
		lengths := t.lengths6
		if e.addr.Is4() {
			lengths = t.lengths4
		}
		for _, bits := range lengths {
			if e.offset+bits < length {
				break
			}
			prefix, err := e.addr.Prefix(bits)
			if err != nil {
				break // never: the length is one of this family
			}
			found := t.verdicts[prefix]
			if found == unsaid {
				continue
			}
			if e.offset+bits > length {
				v, length = found, e.offset+bits
			} else {
				v = max(v, found)
			}
			break
		}
	}
	return v, length
}

// ownMaxAge is for how long the machine's own addresses are remembered. Asking
// costs a system call and a dozen allocations; addresses change with a lease.
const ownMaxAge = 30 * time.Second

// ownAddrs knows the addresses of this machine's interfaces, where services
// listen that trust the machine. What a router in front translates to them (a
// cloud's elastic address) is not known here.
type ownAddrs struct {
	collect  func() ([]netip.Addr, error)
	snapshot atomic.Pointer[ownSnapshot]
	refresh  sync.Mutex // held by the one goroutine that collects
}

type ownSnapshot struct {
	addrs map[netip.Addr]struct{}
	taken time.Time
}

func newOwnAddrs(collect func() ([]netip.Addr, error), now time.Time) (*ownAddrs, error) {
	o := &ownAddrs{collect: collect}
	addrs, err := collect()
	if err != nil {
		return nil, fmt.Errorf("addresses of this machine: %w", err)
	}
	o.store(addrs, now)
	return o, nil
}

// contains reports whether addr is this machine's. Whoever comes when the
// addresses are due collects them; others meanwhile go by the last ones.
func (o *ownAddrs) contains(addr netip.Addr, now time.Time) bool {
	if o.due(now) && o.refresh.TryLock() {
		if o.due(now) {
			o.collectLocked(now)
		}
		o.refresh.Unlock()
	}
	_, ok := o.snapshot.Load().addrs[addr]
	return ok
}

func (o *ownAddrs) due(now time.Time) bool { return now.Sub(o.snapshot.Load().taken) >= ownMaxAge }

// collectLocked keeps the last addresses if new ones are not to be had, until
// the next time they are due.
func (o *ownAddrs) collectLocked(now time.Time) {
	addrs, err := o.collect()
	if err != nil {
		o.snapshot.Store(&ownSnapshot{addrs: o.snapshot.Load().addrs, taken: now})
		return
	}
	o.store(addrs, now)
}

// store leaves out loopback: it is a default range, and as an own address it
// would stay denied under an allow of that range.
func (o *ownAddrs) store(addrs []netip.Addr, now time.Time) {
	set := make(map[netip.Addr]struct{}, len(addrs))
	for _, addr := range addrs {
		if addr = addr.WithZone("").Unmap(); addr.IsValid() && !addr.IsLoopback() {
			set[addr] = struct{}{}
		}
	}
	o.snapshot.Store(&ownSnapshot{addrs: set, taken: now})
}

// interfaceAddrs is the default source of ownAddrs.
func interfaceAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, item := range list {
		if network, ok := item.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(network.IP); ok {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs, nil
}
