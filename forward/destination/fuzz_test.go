// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package destination

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// FuzzParseDestination holds it against what the rest of the system would make
// of the same text: whatever is an address to net.ParseIP or to the C library
// never comes out as a name, nor as another address.
func FuzzParseDestination(f *testing.F) {
	for _, seed := range []string{
		"shop.example:443", "SHOP.example.:80", "127.1:80", "0x7f.1:80", "017700000001:80", "2130706433:80", "0x:80", "1.2.3.4.5:1",
		"[::ffff:127.0.0.1]:80", "[fe80::1%eth0]:80", "::1:80", "b\u00fccher.example:80", "127\u30021:80", "\uff11\uff12\uff17.1:80",
		"a..:80", "*.example:80", "xn--a:80", "a\xff:80", "\u212a:80",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, hostport string) {
		d, err := Parse(hostport)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || d != (Destination{}) {
				t.Fatalf("%q: %+v, %v", hostport, d, err)
			}
			return
		}
		if d.Port == 0 || (d.Host == "") != d.Addr.IsValid() || d.Addr.Zone() != "" || d.Addr.Is4In6() {
			t.Fatalf("%q: %+v", hostport, d)
		}
		// Normalised once is normalised.
		again, err := Parse(d.String())
		if err != nil || again != d {
			t.Fatalf("%q: %q became %+v, %v", hostport, d, again, err)
		}
		// The text that goes on to an exit is one host and one port, for net as well.
		host, port, err := net.SplitHostPort(d.String())
		if err != nil || port != strconv.Itoa(int(d.Port)) || strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune("/@?#%[]\\", c) }) {
			t.Fatalf("%q: net reads %q as %q and %q, %v", hostport, d, host, port, err)
		}
		for _, text := range []string{hostport, d.String()} {
			written := text[:strings.LastIndexByte(text, ':')]
			written = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(written, "["), "]"), ".")
			want, ok := inetAton(written)
			if ip := net.ParseIP(written); ip != nil {
				want, ok = netip.AddrFromSlice(ip)
			}
			if ok && want.Unmap() != d.Addr {
				t.Fatalf("%q: %+v, want the address %s", hostport, d, want)
			}
		}
	})
}

// inetAton is inet_aton(3), written another way: strconv settles the bases.
func inetAton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var bytes [4]byte
	for i, part := range parts {
		lower := strings.ToLower(part)
		if strings.Contains(part, "_") || strings.HasPrefix(lower, "0b") || strings.HasPrefix(lower, "0o") {
			return netip.Addr{}, false // Go's alone
		}
		n, err := strconv.ParseUint(part, 0, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		if i < len(parts)-1 {
			if n > 255 {
				return netip.Addr{}, false
			}
			bytes[i] = byte(n)
			continue
		}
		var last [4]byte
		binary.BigEndian.PutUint32(last[:], uint32(n))
		if strings.Trim(string(last[:i]), "\x00") != "" {
			return netip.Addr{}, false
		}
		copy(bytes[i:], last[i:])
	}
	return netip.AddrFrom4(bytes), true
}

// FuzzCheckAddr holds the default ranges against the standard library's idea of
// what is not global, for an address and for each place where an IPv6 address
// may hold an IPv4 one.
func FuzzCheckAddr(f *testing.F) {
	for _, seed := range []string{"127.0.0.1", "10.1.1.1", "::ffff:10.1.1.1", "64:ff9b::a01:101", "2002:a01:101::", "2001:0:a01:101::", "2001::f5fe:fefe", "1.1.1.1", "::2", "ff02::1"} {
		f.Add(netip.MustParseAddr(seed).AsSlice())
	}
	r := world(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		err := r.CheckAddr(Destination{Host: "shop.example", Port: 443}, addr)
		if err != nil {
			if !errors.Is(err, ErrProhibited) || strings.Contains(err.Error(), addr.String()) {
				t.Fatalf("%s: %v", addr, err)
			}
			return
		}
		suspects := []net.IP{b}
		if len(b) == 16 {
			switch {
			case strings.HasPrefix(string(b), "\x00\x64\xff\x9b\x00\x00\x00\x00\x00\x00\x00\x00"), strings.HasPrefix(string(b), strings.Repeat("\x00", 12)):
				suspects = append(suspects, b[12:])
			case b[0] == 0x20 && b[1] == 0x02:
				suspects = append(suspects, b[2:6])
			case b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 && b[3] == 0:
				suspects = append(suspects, b[4:8], net.IP{^b[12], ^b[13], ^b[14], ^b[15]})
			}
		}
		for _, ip := range suspects {
			if ip.IsLoopback() || ip.IsPrivate() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.Equal(net.IPv4bcast) {
				t.Fatalf("%s is allowed, though it leads to %s", addr, ip)
			}
		}
	})
}
