// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package destination

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ruleEntry is one entry of Allow or Deny: either prefix or key is set. The port
// of an entry with a prefix is key's as well.
type ruleEntry struct {
	prefix netip.Prefix
	key    nameKey
}

func (r *Rules) addPorts(entry string) error {
	first, last, isRange := strings.Cut(entry, "-")
	if !isRange {
		last = first
	}
	from, err := parsePort(first)
	if err != nil {
		return fmt.Errorf("%w: write a port, or a range such as 8000-8999", err)
	}
	to, err := parsePort(last)
	if err != nil {
		return fmt.Errorf("%w: write a port, or a range such as 8000-8999", err)
	}
	if to < from {
		return fmt.Errorf("the range ends before it begins: write %d-%d", to, from)
	}
	r.ports = append(r.ports, portRange{from, to})
	return nil
}

func (r *Rules) addAllow(entry string) error {
	if entry == "*" {
		return errors.New("the public internet is allowed anyway, and other ranges only by name: list those")
	}
	e, err := parseRuleEntry(entry)
	switch {
	case err != nil:
		return err
	case !e.prefix.IsValid():
		r.addName(e.key, allowed)
	case e.key.port != 0:
		r.addrPorts[netip.AddrPortFrom(e.prefix.Addr(), e.key.port)] = struct{}{}
	default:
		r.listed.add(e.prefix, allowed)
	}
	return nil
}

func (r *Rules) addDeny(entry string) error {
	if entry == "*" {
		// As a default, which an allowed name overrides: a listed deny of 0.0.0.0/0
		// would hold for its address.
		r.addName(nameKey{suffix: true}, denied)
		r.byDefault.add(netip.MustParsePrefix("0.0.0.0/0"), denied)
		r.byDefault.add(netip.MustParsePrefix("::/0"), denied)
		return nil
	}
	e, err := parseRuleEntry(entry)
	switch {
	case err != nil:
		return err
	case e.key.port != 0:
		return errors.New("a deny is for every port: leave the port out, or leave it out of ports")
	case e.prefix.IsValid():
		r.listed.add(e.prefix, denied)
	default:
		r.addName(e.key, denied)
	}
	return nil
}

func (r *Rules) addName(key nameKey, v verdict) { r.names[key] = max(r.names[key], v) }

func (r *Rules) addAdmin(entry string) error {
	host, port, err := cutPort(entry)
	if err != nil {
		return err
	}
	a := adminEndpoint{port: port}
	if host != "" {
		if a.host, a.addr, err = ParseHost(host); err != nil {
			return err
		}
		switch {
		case isLocalhost(a.host):
			a.addr = netip.IPv6Loopback()
		case a.addr.IsUnspecified():
			a.addr = netip.Addr{}
		}
	}
	r.admin = append(r.admin, a)
	return nil
}

// parseRuleEntry reads an address, a CIDR, a name or a *.suffix; all but a CIDR
// may have a port. Hosts are normalised as a client's are.
func parseRuleEntry(entry string) (ruleEntry, error) {
	if entry == "" {
		return ruleEntry{}, errors.New("the entry is empty: leave it out")
	}
	if strings.Contains(entry, "://") {
		return ruleEntry{}, errors.New("an entry is not a URL: write its host, or host:port")
	}
	if strings.Contains(entry, "/") {
		prefix, err := parseRulePrefix(entry)
		return ruleEntry{prefix: prefix}, err
	}
	if addr, err := netip.ParseAddr(entry); err == nil && addr.Is6() {
		entry = "[" + entry + "]"
	}
	host, isSuffix := strings.CutPrefix(entry, "*.")
	var e ruleEntry
	var err error
	if strings.LastIndexByte(host, ':') > strings.LastIndexByte(host, ']') {
		if host, e.key.port, err = cutPort(host); err != nil {
			return ruleEntry{}, err
		}
	}
	name, addr, err := ParseHost(host)
	switch {
	case err != nil:
		return ruleEntry{}, fmt.Errorf("%w: write an address, a CIDR, a host name or *.suffix", err)
	case name != "":
		e.key.name, e.key.suffix = name, isSuffix
	case isSuffix:
		return ruleEntry{}, errors.New("a suffix is of names: write a range of addresses as a CIDR")
	default:
		e.prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	return e, nil
}

// parseRulePrefix reads a CIDR; one of IPv4-mapped addresses is one of IPv4,
// which is what addresses are judged as.
func parseRulePrefix(entry string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		return netip.Prefix{}, errors.New("it is not a CIDR: write one such as 10.0.0.0/8, an IPv6 one without brackets")
	}
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < ipv4Offset {
			return netip.Prefix{}, errors.New("it is wider than the IPv4-mapped range: write an IPv4 CIDR")
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-ipv4Offset)
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, fmt.Errorf("its address has bits outside of the prefix: write %s, or %s alone", masked, prefix.Addr())
	}
	return prefix, nil
}
