// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package destination is about where clients of a forward proxy want to go: how
// they write a host and a port, and which of them may be reached.
package destination

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// ErrMalformed is wrapped by what Parse returns; its text
// is fit for the body of a 400.
var ErrMalformed = errors.New("malformed destination")

// Bounds of a host name (RFC 1035 §2.3.4), and of what is looked at in search of
// one: in UTF-8 a name is longer than in the form that it is asked for in.
const (
	maxHostName  = 253
	maxHostLabel = 63
	maxText      = 512
)

// Destination is where a client wants to go, normalised: one host has one
// spelling, whatever the client wrote. Either Host or Addr is set.
type Destination struct {
	// Host is a name in lower case and ASCII, without the trailing dot.
	Host string
	// Addr is the address if the host is a literal, without a zone; an
	// IPv4-mapped one is the IPv4 address.
	Addr netip.Addr
	Port uint16
}

// String returns host:port as net.Dial and a CONNECT line take it.
func (d Destination) String() string {
	if d.Addr.IsValid() {
		return netip.AddrPortFrom(d.Addr, d.Port).String()
	}
	return d.Host + ":" + strconv.Itoa(int(d.Port))
}

// Parse reads the authority of a CONNECT (RFC 9110 §9.3.6): a host
// and a port, both required. What some resolver would take for an IPv4 address
// is one here (127.1, 0x7f.1, 2130706433, full-width digits): else it would pass
// the rules as a name.
func Parse(hostport string) (Destination, error) {
	if len(hostport) > maxText {
		return Destination{}, fmt.Errorf("%w: it is %d bytes long: at most %d are allowed", ErrMalformed, len(hostport), maxText)
	}
	host, port, err := cutPort(hostport)
	if err != nil {
		return Destination{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	name, addr, err := ParseHost(host)
	if err != nil {
		return Destination{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return Destination{Host: name, Addr: addr, Port: port}, nil
}

// cutPort splits at the last colon. An IPv6 address keeps its brackets.
func cutPort(hostport string) (host string, port uint16, err error) {
	colon := strings.LastIndexByte(hostport, ':')
	if colon < 0 || strings.LastIndexByte(hostport, ']') > colon {
		return "", 0, errors.New("the port is missing: write host:port")
	}
	host = hostport[:colon]
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "", 0, errors.New("there is more than one colon: write an IPv6 address as [address]:port")
	}
	port, err = parsePort(hostport[colon+1:])
	return host, port, err
}

// parsePort reads a port as decimal digits alone; strconv would take a sign. Zeros
// before it have no meaning.
func parsePort(s string) (uint16, error) {
	n := 0
	for i, digits := 0, strings.TrimLeft(s, "0"); i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' || i >= len("65535") {
			n = 0
			break
		}
		n = n*10 + int(digits[i]-'0')
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535", clipped(s))
	}
	return uint16(n), nil
}

// ParseHost normalises a host; an IPv6 address is in brackets. Either name or
// addr is set if err is nil.
func ParseHost(host string) (name string, addr netip.Addr, err error) {
	if strings.HasPrefix(host, "[") {
		addr, err = parseBracketed(host)
		return "", addr, err
	}
	// Other names are not put through IDNA: its lookup rules refuse ones that are
	// in use, such as r3---sn-4g5e.example and those with an underscore.
	name = host
	if !isASCII(host) {
		// ToASCII takes bytes that are not UTF-8 for U+FFFD.
		if name, err = idna.Lookup.ToASCII(host); err != nil || !utf8.ValidString(host) {
			return "", netip.Addr{}, fmt.Errorf("host %q is not a name that IDNA allows", clipped(host))
		}
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if endsInNumber(name) {
		if addr, ok := parseIPv4(name); ok {
			return "", addr, nil
		}
		return "", netip.Addr{}, fmt.Errorf("host %q ends like an IPv4 address but is none", clipped(host))
	}
	if !validName(name) {
		return "", netip.Addr{}, fmt.Errorf("host %q is neither a name nor an address", clipped(host))
	}
	return name, netip.Addr{}, nil
}

// parseBracketed reads [IPv6].
func parseBracketed(host string) (netip.Addr, error) {
	inner, closed := strings.CutSuffix(host[1:], "]")
	addr, err := netip.ParseAddr(inner)
	switch {
	case !closed || err != nil || !addr.Is6():
		return netip.Addr{}, fmt.Errorf("host %q is not an IPv6 address in brackets", clipped(host))
	case addr.Zone() != "":
		// A zone names an interface of this machine.
		return netip.Addr{}, fmt.Errorf("host %q has a zone: leave it out", clipped(host))
	}
	return addr.Unmap(), nil
}

// validName reports whether name consists of labels of host bytes. Underscores
// and outer hyphens are in use, though RFC 1123 has neither.
func validName(name string) bool {
	if len(name) > maxHostName {
		return false
	}
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			label++
		case c == '.' && label > 0:
			label = 0
		default:
			return false
		}
		if label > maxHostLabel {
			return false
		}
	}
	return label > 0
}

// endsInNumber reports whether the last label is decimal or hexadecimal: such a
// host is an IPv4 address or nothing (WHATWG URL, "ends in a number").
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// parseIPv4 reads what inet_aton does: up to four parts in decimal, octal after
// a 0 or hexadecimal after 0x, the last of which fills the bytes that remain.
func parseIPv4(s string) (netip.Addr, bool) {
	var value uint64
	for part := range 4 {
		text, rest, more := strings.Cut(s, ".")
		n, ok := parseIPv4Part(text)
		if !ok {
			return netip.Addr{}, false
		}
		if !more {
			remaining := 8 * (4 - part)
			if n >= 1<<remaining {
				return netip.Addr{}, false
			}
			value = value<<remaining | n
			return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
		}
		if n > 255 {
			return netip.Addr{}, false
		}
		value, s = value<<8|n, rest
	}
	return netip.Addr{}, false
}

func parseIPv4Part(s string) (uint64, bool) {
	base := 10
	if digits, ok := strings.CutPrefix(s, "0x"); ok {
		s, base = digits, 16
	} else if len(s) > 1 && s[0] == '0' {
		s, base = s[1:], 8
	}
	// A base that is given leaves ParseUint neither a sign nor an underscore.
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// clipped bounds how much of a client's text is repeated to it.
func clipped(s string) string { return s[:min(len(s), 64)] }

// WithPort is where a URL of http leads to.
func WithPort(u *url.URL) string {
	if u.Port() == "" {
		return strings.TrimSuffix(u.Host, ":") + ":80"
	}
	return u.Host
}
