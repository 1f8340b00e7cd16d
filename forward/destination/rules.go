// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package destination

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// ErrProhibited is wrapped by what Check and CheckAddr return; its text is fit
// for the body of a 403. It never holds an address that the client did not write
// itself: what a name resolves to in here is not the client's business.
var ErrProhibited = errors.New("destination prohibited")

// Config is what an operator says about destinations.
type Config struct {
	// Ports that clients may connect to: numbers and ranges (8000-8999).
	// Default: 80 and 443.
	Ports []string

	// What clients may connect to although it is denied by default: addresses,
	// CIDRs, host names, *.suffix (every name below suffix, not suffix itself);
	// an address or a name may have a port, and then the entry is for that port
	// only, and opens it even if Ports does not list it.
	//
	// The public internet is allowed whether or not anything is listed here; to
	// allow nothing but these entries, deny *.
	Allow []string

	// What clients may not connect to: as Allow, without ports. A * denies
	// whatever no entry of Allow names.
	Deny []string

	// Where Caddy's admin API listens, as host:port; an empty host is every
	// address. It is reached only if Allow has exactly that host:port, or the
	// address and port that is dialled.
	Admin []string

	// NothingByDefault denies nothing that is not listed: for rules that come on
	// top of others.
	NothingByDefault bool

	// Own returns the addresses of this machine, which are denied by default.
	// Called at most every 30 seconds. Default: those of its interfaces.
	Own func() ([]netip.Addr, error)
}

// Rules say which destinations clients may reach. Apart from remembering the
// machine's own addresses for a while they are immutable; they are safe for
// concurrent use.
//
// Names: an exact name beats a suffix, a longer suffix beats a shorter one, and
// deny wins a tie. An allowed name may have any address, private ones too, but
// for those under an entry of Deny, and the admin API.
//
// Addresses: the longest prefix wins, over what is listed and what is denied by
// default; in a tie a listed deny wins over a listed allow, and that over the
// default. So allow 10.0.0.0/8 opens that range, but neither the machine's own
// address in it nor, for 169.254.0.0/16, the metadata service: those must be
// listed by themselves, and allow 0.0.0.0/0 opens nothing. An IPv4 address
// within an IPv6 one (mapped, compatible, NAT64, 6to4, Teredo) is judged as well.
//
// A port in an entry of Allow makes it no more specific.
type Rules struct {
	ports     []portRange
	portsText string // ports in messages
	names     map[nameKey]verdict
	listed    prefixTable
	byDefault prefixTable
	addrPorts map[netip.AddrPort]struct{} // entries of Allow
	admin     []adminEndpoint
	own       *ownAddrs
}

type portRange struct{ first, last uint16 }

// nameKey is a rule about names. An empty suffix is every name.
type nameKey struct {
	name   string
	suffix bool
	port   uint16 // 0: every port
}

// adminEndpoint is where the admin API listens.
type adminEndpoint struct {
	host string     // as configured, if by name
	addr netip.Addr // some loopback address: all of them; invalid: every address of this machine
	port uint16
}

// NewRules compiles the configuration.
func NewRules(cfg Config) (*Rules, error) {
	r := &Rules{
		names:     make(map[nameKey]verdict),
		addrPorts: make(map[netip.AddrPort]struct{}),
	}
	if !cfg.NothingByDefault {
		for _, prefix := range deniedByDefault {
			r.byDefault.add(netip.MustParsePrefix(prefix), denied)
		}
	}
	ports := cfg.Ports
	if len(ports) == 0 {
		ports = []string{"80", "443"}
	}
	for _, entry := range ports {
		if err := r.addPorts(entry); err != nil {
			return nil, fmt.Errorf("ports %q: %w", entry, err)
		}
	}
	r.portsText = strings.Join(ports, ", ")
	for _, entry := range cfg.Allow {
		if err := r.addAllow(entry); err != nil {
			return nil, fmt.Errorf("allow %q: %w", entry, err)
		}
	}
	for _, entry := range cfg.Deny {
		if err := r.addDeny(entry); err != nil {
			return nil, fmt.Errorf("deny %q: %w", entry, err)
		}
	}
	for _, entry := range cfg.Admin {
		if err := r.addAdmin(entry); err != nil {
			return nil, fmt.Errorf("admin %q: %w", entry, err)
		}
	}
	collect := cfg.Own
	if collect == nil {
		collect = interfaceAddrs
	}
	var err error
	if r.own, err = newOwnAddrs(collect, time.Now()); err != nil {
		return nil, err
	}
	return r, nil
}

// Check says what can be said before the name is resolved: about the port, a
// name, a literal address. It is all that is checked where the exit resolves
// names itself. A destination it refuses must not be passed to CheckAddr.
func (r *Rules) Check(d Destination) error {
	if d.Port == 0 || d.Host == "" && !d.Addr.IsValid() {
		return fmt.Errorf("%w: the host or the port is missing", ErrMalformed)
	}
	if d.Addr.IsValid() {
		_, opened := r.addrPorts[netip.AddrPortFrom(d.Addr.WithZone("").Unmap(), d.Port)]
		if !opened && !r.portListed(d.Port) {
			return r.errPort(d.Port)
		}
		return r.CheckAddr(d, d.Addr)
	}
	v, opened := r.judgeName(d.Host, d.Port)
	switch {
	case v == denied:
		return fmt.Errorf("%w: %s is denied", ErrProhibited, d.Host)
	case !opened && !r.portListed(d.Port):
		return r.errPort(d.Port)
	case r.isAdminName(d) && !r.allowsName(d):
		return errAdmin(d)
	case v == allowed || !isLocalhost(d.Host):
		return nil
	}
	// An exit that resolves by itself would connect to itself. The name is
	// loopback whatever a resolver says (RFC 6761 §6.3), so it goes by that.
	if r.CheckAddr(d, netip.AddrFrom4([4]byte{127, 0, 0, 1})) == nil || r.CheckAddr(d, netip.IPv6Loopback()) == nil {
		return nil
	}
	return fmt.Errorf("%w: %s is not allowed: add it to allow", ErrProhibited, d.Host)
}

// CheckAddr judges the address that is dialled for d, after d passed Check. It
// must be the very address that is given to connect(2): a name that is resolved
// again may have moved (DNS rebinding). It allocates only to refuse, and when
// the machine's own addresses are collected again.
func (r *Rules) CheckAddr(d Destination, addr netip.Addr) error {
	return r.checkAddrAt(d, addr, time.Now())
}

func (r *Rules) checkAddrAt(d Destination, addr netip.Addr, now time.Time) error {
	if !addr.IsValid() {
		return fmt.Errorf("%w: %s has no address", ErrProhibited, d)
	}
	addr = addr.WithZone("").Unmap()
	array, n := embeddings(addr)
	list := array[:n]
	target := netip.AddrPortFrom(addr, d.Port)
	_, exact := r.addrPorts[target]

	named := unsaid
	if d.Host != "" {
		named, _ = r.judgeName(d.Host, d.Port)
	}
	if r.isAdmin(list, d.Port, now) && !exact && (!r.isAdminName(d) || !r.allowsName(d)) {
		return errAdmin(d)
	}
	v, length := r.listed.longest(list)
	if full := list[0].offset + addr.BitLen(); exact && length < full {
		v, length = allowed, full
	}
	switch {
	case v == denied || named == denied:
		if d.Host != "" {
			return fmt.Errorf("%w: %s, or its address, is denied", ErrProhibited, d.Host)
		}
		return fmt.Errorf("%w: %s is denied", ErrProhibited, d.Addr)
	case named == allowed:
		return nil
	case v == allowed && length >= r.defaultLength(list, now):
		return nil
	case v == unsaid && r.defaultLength(list, now) < 0:
		return nil
	case d.Host != "":
		return fmt.Errorf("%w: %s has an address that is not allowed: add the name or the address to allow", ErrProhibited, d.Host)
	default:
		return fmt.Errorf("%w: %s is not allowed: add it to allow", ErrProhibited, d.Addr)
	}
}

// defaultLength is the length of the longest prefix that is denied by default,
// or -1.
func (r *Rules) defaultLength(list []embedding, now time.Time) int {
	_, length := r.byDefault.longest(list)
	for _, e := range list {
		if full := e.offset + e.addr.BitLen(); full > length && r.own.contains(e.addr, now) {
			length = full
		}
	}
	return length
}

// judgeName returns what the most specific rule says about a name, and whether
// an entry with that port names it.
func (r *Rules) judgeName(host string, port uint16) (v verdict, opened bool) {
	key := nameKey{name: host}
	for {
		key.port = port
		withPort := r.names[key]
		key.port = 0
		opened = opened || withPort == allowed
		if v == unsaid {
			v = max(withPort, r.names[key])
		}
		switch {
		case key.name == "":
			return v, opened
		case !key.suffix:
			key.suffix = true
		}
		_, key.name, _ = strings.Cut(key.name, ".")
	}
}

// allowsName reports whether an entry of Allow is exactly this name and port.
func (r *Rules) allowsName(d Destination) bool {
	return r.names[nameKey{name: d.Host, port: d.Port}] == allowed
}

func (r *Rules) portListed(port uint16) bool {
	for _, p := range r.ports {
		if p.first <= port && port <= p.last {
			return true
		}
	}
	return false
}

// isAdminName reports whether d is the admin API's address as configured, by
// name.
func (r *Rules) isAdminName(d Destination) bool {
	for _, a := range r.admin {
		if a.host != "" && a.host == d.Host && a.port == d.Port {
			return true
		}
	}
	return false
}

// isAdmin reports whether a connection to that address and port may end at the
// admin API. It errs on the side of yes: an API that listens on some loopback
// address is taken to listen on all of them, and one that is configured by a
// name other than localhost, on every address of this machine.
func (r *Rules) isAdmin(list []embedding, port uint16, now time.Time) bool {
	for _, a := range r.admin {
		if a.port != port {
			continue
		}
		for _, e := range list {
			local := e.addr.IsLoopback() || e.addr.IsUnspecified()
			switch {
			case e.addr == a.addr:
				return true
			case !a.addr.IsValid() && (local || r.own.contains(e.addr, now)):
				return true
			case a.addr.IsLoopback() && local:
				return true
			}
		}
	}
	return false
}

func (r *Rules) errPort(port uint16) error {
	return fmt.Errorf("%w: port %d is not allowed (have %s): add it to ports", ErrProhibited, port, r.portsText)
}

func errAdmin(d Destination) error {
	return fmt.Errorf("%w: %s is not allowed: only an allow of exactly its host:port opens it", ErrProhibited, d)
}

func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// IsOwn reports whether an address is one of this machine's.
func (r *Rules) IsOwn(addr netip.Addr) bool { return r.own.contains(addr, time.Now()) }
