// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package destination

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// world is a proxy at 198.51.100.9 and 10.0.0.9 whose admin API is on
// localhost:2019, and whose ports and lists a test adds to.
func world(t testing.TB, edit func(*Config)) *Rules {
	t.Helper()
	cfg := Config{
		Admin: []string{"localhost:2019"},
		Own: func() ([]netip.Addr, error) {
			return []netip.Addr{
				netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("198.51.100.9"),
				netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("fe80::9%eth0"),
			}, nil
		},
	}
	if edit != nil {
		edit(&cfg)
	}
	r, err := NewRules(cfg)
	require.NoError(t, err)
	return r
}

// dial does what an exit without a proxy of its own does: check, then, for the
// address that it is about to dial, CheckAddr. The address may be left out.
func dial(t testing.TB, r *Rules, hostport, addr string) error {
	t.Helper()
	d, err := Parse(hostport)
	require.NoError(t, err)
	if err := r.Check(d); err != nil || addr == "" {
		return err
	}
	return r.CheckAddr(d, netip.MustParseAddr(addr))
}

func TestDeniedByDefault(t *testing.T) {
	r := world(t, nil)
	v4 := []string{
		"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1", "127.255.255.255",
		"169.254.0.1", "169.254.169.254", "172.16.0.0", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.168.0.1", "192.168.255.255",
		"198.18.0.1", "198.19.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200",
		"198.51.100.9", // its own
	}
	v6 := []string{
		"::", "::1", "fe80::1", "febf::1", "fec0::1", "fc00::1", "fdff::1", "fd00:ec2::254", "ff02::1", "64:ff9b:1::1",
		"2001:db8::9", // its own
	}
	for _, s := range v4 {
		b := netip.MustParseAddr(s).As4()
		in := func(prefix string, at int) string {
			a := netip.MustParseAddr(prefix).As16()
			copy(a[at:], b[:])
			return netip.AddrFrom16(a).String()
		}
		relayed := netip.MustParseAddr("2001:0:cb00:7107::").As16() // Teredo by way of 203.0.113.7
		for i := range b {
			relayed[12+i] = ^b[i]
		}
		v6 = append(v6, in("::ffff:0:0", 12), in("::", 12), in("::ffff:0:0:0", 12), in("64:ff9b::", 12), in("2002::", 2), in("2001::", 4), netip.AddrFrom16(relayed).String())
		require.ErrorIs(t, dial(t, r, s+":80", ""), ErrProhibited, s)
		require.ErrorIs(t, dial(t, r, "rebound.example:80", s), ErrProhibited, s)
	}
	for _, s := range v6 {
		require.ErrorIs(t, dial(t, r, "["+s+"]:80", ""), ErrProhibited, s)
		require.ErrorIs(t, dial(t, r, "rebound.example:80", s), ErrProhibited, s)
	}
	require.ErrorIs(t, dial(t, r, "rebound.example:80", "fe80::1%eth0"), ErrProhibited)
	for _, s := range []string{"localhost:80", "LOCALHOST.:80", "x.localhost:80"} {
		require.EqualError(t, dial(t, r, s, ""), "destination prohibited: "+strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(s, ":80"), "."))+" is not allowed: add it to allow")
	}
}

func TestPublicInternetIsAllowed(t *testing.T) {
	r := world(t, func(c *Config) { c.Allow = []string{"10.0.0.0/8", "db.internal:5432"} })
	for _, s := range []string{
		"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.0.0.1", "128.0.0.1", "172.15.255.255", "172.32.0.0",
		"192.0.1.0", "192.167.0.1", "198.17.0.1", "198.20.0.1", "223.255.255.255", "192.0.2.1", "198.51.100.1", "203.0.113.7",
	} {
		require.NoError(t, dial(t, r, s+":443", s))
		require.NoError(t, dial(t, r, "shop.example:80", s))
	}
	for _, s := range []string{"2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1", "2001:0:101:101:0:0:fefe:fefe", "2001:db8::1"} {
		require.NoError(t, dial(t, r, "["+s+"]:443", s))
		require.NoError(t, dial(t, r, "shop.example:80", s))
	}
}

func TestReasonHidesWhatANameResolvesTo(t *testing.T) {
	r := world(t, func(c *Config) { c.Ports = []string{"80", "2019"}; c.Deny = []string{"203.0.113.0/24"} })
	tests := []struct{ hostport, addr, want string }{
		{"rebound.example:80", "10.1.2.3", "rebound.example has an address that is not allowed: add the name or the address to allow"},
		{"rebound.example:80", "203.0.113.7", "rebound.example, or its address, is denied"},
		{"rebound.example:2019", "127.0.0.1", "rebound.example:2019 is not allowed: only an allow of exactly its host:port opens it"},
		{"10.1.2.3:80", "", "10.1.2.3 is not allowed: add it to allow"},
		{"203.0.113.7:80", "", "203.0.113.7 is denied"},
		{"127.1:2019", "", "127.0.0.1:2019 is not allowed: only an allow of exactly its host:port opens it"},
		{"shop.example:25", "", "port 25 is not allowed (have 80, 2019): add it to ports"},
		{"1.1.1.1:25", "", "port 25 is not allowed (have 80, 2019): add it to ports"},
	}
	for _, tt := range tests {
		require.EqualError(t, dial(t, r, tt.hostport, tt.addr), "destination prohibited: "+tt.want)
	}
	require.ErrorIs(t, r.Check(Destination{}), ErrMalformed)
	require.ErrorIs(t, r.Check(Destination{Host: "a"}), ErrMalformed)
	require.ErrorIs(t, r.CheckAddr(Destination{Host: "a", Port: 80}, netip.Addr{}), ErrProhibited)
}

// F2: a name passes, the address that it moved to does not.
func TestRebindingIsRefusedAtTheAddress(t *testing.T) {
	r := world(t, nil)
	d, err := Parse("rebound.example:80")
	require.NoError(t, err)
	require.NoError(t, r.Check(d))
	require.NoError(t, r.CheckAddr(d, netip.MustParseAddr("203.0.113.7")))
	require.ErrorIs(t, r.CheckAddr(d, netip.MustParseAddr("127.0.0.1")), ErrProhibited)
}

func TestPorts(t *testing.T) {
	r := world(t, func(c *Config) {
		c.Ports = []string{"443", "8000-8999"}
		c.Allow = []string{"ssh.example:22", "203.0.113.7:25", "[2001:db8::1]:25", "*.mail.example:587"}
	})
	for _, s := range []string{
		"a.example:443", "a.example:8000", "a.example:8999", "ssh.example:22", "203.0.113.7:25", "0xcb007107:25", "[2001:db8::1]:25",
		"a.b.mail.example:587",
	} {
		require.NoError(t, dial(t, r, s, ""), s)
	}
	for _, s := range []string{
		"a.example:80", "a.example:7999", "a.example:9000", "a.ssh.example:22", "ssh.example:25", "203.0.113.8:25", "203.0.113.7:22", "mail.example:587",
		"[64:ff9b::203.0.113.7]:25",
	} {
		require.ErrorIs(t, dial(t, r, s, ""), ErrProhibited, s)
	}
}

func TestMostSpecificRuleWins(t *testing.T) {
	tests := []struct {
		name           string
		allow, deny    []string
		reached, stays string // "hostport" or "hostport address", separated by commas
	}{
		{
			"an allow opens a default range, but not what is listed by itself within", []string{"10.0.0.0/8", "169.254.0.0/16", "127.0.0.0/8", "fc00::/7"}, nil,
			"10.1.1.1:80, shop.example:80 10.1.1.1, 169.254.1.1:80, 127.0.0.1:80, localhost:80 127.0.0.1, [fd00::1]:80, [64:ff9b::10.1.1.1]:80, [::ffff:10.1.1.1]:80",
			"10.0.0.9:80, 169.254.169.254:80, [fd00:ec2::254]:80, 192.168.0.1:80, [::1]:80, localhost:80 ::1, [64:ff9b::10.0.0.9]:80",
		},
		{"a single address opens what a range does not", []string{"10.0.0.9", "169.254.169.254"}, nil, "10.0.0.9:80, 169.254.169.254:80", "10.0.0.8:80"},
		{"an address with a port opens no other port", []string{"10.1.1.1:443"}, nil, "10.1.1.1:443, shop.example:443 10.1.1.1", "10.1.1.1:80, 10.1.1.2:443"},
		{"everything is shorter than a default", []string{"0.0.0.0/0", "::/0"}, nil, "1.1.1.1:80", "10.1.1.1:80, [::1]:80"},
		{"a longer deny in an allow", []string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, "10.2.0.1:80", "10.1.0.1:80, shop.example:80 10.1.0.1, [2002:a01:1::]:80"},
		{"a longer allow in a deny", []string{"203.0.113.0/24"}, []string{"203.0.0.0/16", "2001:db8::/32"}, "203.0.113.7:80, [64:ff9b::203.0.113.7]:80", "203.0.112.7:80, [2001:db8::1]:80, [64:ff9b::203.0.112.7]:80"},
		{"deny wins a tie of ranges", []string{"10.0.0.0/8"}, []string{"10.0.0.0/8"}, "1.1.1.1:80", "10.1.1.1:80"},
		{"deny wins a tie of addresses, whatever the port", []string{"10.1.1.1:80", "10.1.1.2"}, []string{"10.1.1.1", "10.1.1.2/32"}, "1.1.1.1:80", "10.1.1.1:80, 10.1.1.2:80"},
		{"deny wins a tie across embeddings", []string{"64:ff9b::a01:101"}, []string{"10.1.1.1"}, "1.1.1.1:80", "[64:ff9b::10.1.1.1]:80"},
		{"an embedding may be allowed by itself", []string{"64:ff9b::a01:101", "64:ff9b::/96"}, nil, "[64:ff9b::10.1.1.1]:80", "[64:ff9b::10.1.1.2]:80, 10.1.1.1:80"},
		{"mapped prefixes are IPv4", []string{"::ffff:10.1.0.0/112"}, []string{"::ffff:203.0.113.7"}, "10.1.1.1:80", "10.2.1.1:80, 203.0.113.7:80"},

		{"an exact name beats a suffix", []string{"a.example"}, []string{"*.example"}, "a.example:80, b.a:80, example:80", "b.example:80, a.a.example:80"},
		{"an exact deny beats an allowed suffix", []string{"*.example"}, []string{"a.example"}, "b.example:80 10.1.1.1", "a.example:80"},
		{"a longer suffix beats a shorter one", []string{"*.b.example"}, []string{"*.example", "*.a.b.example"}, "x.b.example:80, a.b.example:80", "b.example:80, x.a.b.example:80"},
		{"deny wins a tie of names", []string{"a.example", "*.b.example:80"}, []string{"A.example.", "*.b.example"}, "b.example:80", "a.example:80, x.b.example:80"},
		{"a name opens its private addresses", []string{"intranet.example"}, nil, "intranet.example:80 10.1.1.1, intranet.example:80 10.0.0.9, intranet.example:80 ::1", "other.example:80 10.1.1.1, 10.1.1.1:80"},
		{"a name with a port opens them for that port", []string{"intranet.example:443"}, nil, "intranet.example:443 10.1.1.1", "intranet.example:80 10.1.1.1"},
		{"a name does not open a denied address", []string{"intranet.example"}, []string{"10.1.0.0/16"}, "intranet.example:80 10.2.1.1", "intranet.example:80 10.1.1.1"},
		{"an address in a denied range may be allowed for a name", []string{"intranet.example", "10.1.1.1"}, []string{"10.1.0.0/16"}, "intranet.example:80 10.1.1.1", "intranet.example:80 10.1.1.2"},
		{"an allowed address does not open a denied name", []string{"10.1.1.1"}, []string{"intranet.example"}, "10.1.1.1:80", "intranet.example:80"},
		{"localhost by name", []string{"localhost"}, nil, "localhost:80 127.0.0.1, localhost:80 ::1", "a.localhost:80, 127.0.0.1:80"},

		{"deny everything else", []string{"shop.example", "*.cdn.example", "203.0.113.0/24", "10.1.1.1", "2001:db8::/32"}, []string{"*"},
			"shop.example:80 10.1.1.1, shop.example:80 1.1.1.1, a.cdn.example:80 2606:4700::1, 203.0.113.7:80, 10.1.1.1:80, [2001:db8::1]:80",
			"other.example:80, cdn.example:80, 1.1.1.1:80, 10.1.1.2:80, [2606:4700::1]:80, [64:ff9b::101:101]:80, localhost:80"},
		{"IDNA in a rule", []string{"Bücher.example"}, []string{"*.Straße.example."}, "xn--bcher-kva.example:80 10.1.1.1", "a.xn--strae-oqa.example:80"},
		{"odd spelling in a rule", []string{"0x0a010101", "[fd00::1]"}, []string{"203.0.113.07"}, "10.1.1.1:80, [fd00::1]:80", "203.0.113.7:80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := world(t, func(c *Config) { c.Allow, c.Deny = tt.allow, tt.deny })
			for s := range strings.SplitSeq(tt.reached, ", ") {
				hostport, addr, _ := strings.Cut(s, " ")
				require.NoError(t, dial(t, r, hostport, addr), s)
			}
			for s := range strings.SplitSeq(tt.stays, ", ") {
				hostport, addr, _ := strings.Cut(s, " ")
				require.ErrorIs(t, dial(t, r, hostport, addr), ErrProhibited, s)
			}
		})
	}
}

func TestAdminStaysDeniedButForItsExactHostAndPort(t *testing.T) {
	everywhere := []string{"localhost", "127.0.0.0/8", "127.0.0.1", "::1", "0.0.0.0", "10.0.0.9", "198.51.100.9", "64:ff9b::7f00:1", "a.example", "a.example:2019"}
	tests := []struct {
		name, admin    string
		allow          []string
		reached, stays string
	}{
		{
			"localhost", "localhost:2019", nil,
			"127.0.0.1:80, localhost:80 127.0.0.1, a.example:2019 10.0.0.9, 10.0.0.9:2019, 1.1.1.1:2019",
			"127.0.0.1:2019, 127.9.9.9:2019, [::1]:2019, 0.0.0.0:2019, localhost:2019, a.example:2019 127.0.0.1, [64:ff9b::127.0.0.1]:2019, [::ffff:127.0.0.1]:2019, 2130706433:2019",
		},
		{"localhost by name", "localhost:2019", []string{"LOCALHOST:2019"}, "localhost:2019 127.0.0.1, localhost:2019 ::1", "127.0.0.1:2019, a.example:2019 127.0.0.1"},
		{"localhost by address", "localhost:2019", []string{"127.0.0.1:2019"}, "127.0.0.1:2019, a.example:2019 127.0.0.1", "[::1]:2019, 127.0.0.2:2019, localhost:2019"},
		{"loopback address", "127.0.0.1:2019", nil, "10.0.0.9:2019", "127.0.0.1:2019, [::1]:2019, 0.0.0.0:2019, a.example:2019 0.0.0.0, localhost:2019 127.0.0.1"},
		{"every address", ":2019", nil, "1.1.1.1:2019, 127.0.0.1:80", "127.0.0.1:2019, [::1]:2019, 10.0.0.9:2019, 198.51.100.9:2019, a.example:2019 198.51.100.9"},
		{"every IPv6 address", "[::]:2019", []string{"10.0.0.9:2019"}, "10.0.0.9:2019", "127.0.0.1:2019, 198.51.100.9:2019"},
		{"one address", "10.0.0.9:2019", nil, "127.0.0.1:2019, 198.51.100.9:2019", "10.0.0.9:2019, a.example:2019 10.0.0.9, [2002:a00:9::]:2019"},
		{"a name", "admin.example:2019", nil, "1.1.1.1:2019", "admin.example:2019, 127.0.0.1:2019, 10.0.0.9:2019, a.example:2019 10.0.0.9"},
		{"a name that is allowed", "admin.example:2019", []string{"admin.example:2019"}, "admin.example:2019 10.0.0.9", "10.0.0.9:2019, a.example:2019 10.0.0.9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := world(t, func(c *Config) {
				c.Ports = []string{"80", "2019"}
				c.Admin = []string{tt.admin}
				c.Allow = append(tt.allow, everywhere...)
			})
			for s := range strings.SplitSeq(tt.reached, ", ") {
				hostport, addr, _ := strings.Cut(s, " ")
				require.NoError(t, dial(t, r, hostport, addr), s)
			}
			for s := range strings.SplitSeq(tt.stays, ", ") {
				hostport, addr, _ := strings.Cut(s, " ")
				require.ErrorIs(t, dial(t, r, hostport, addr), ErrProhibited, s)
			}
		})
	}
}

func TestBadEntriesAreRefusedWithCure(t *testing.T) {
	const cure = ": write an address, a CIDR, a host name or *.suffix"
	tests := []struct {
		cfg  Config
		want string
	}{
		{Config{Ports: []string{"0"}}, `ports "0": port "0" is not a number from 1 to 65535: write a port, or a range such as 8000-8999`},
		{Config{Ports: []string{"https"}}, `ports "https": port "https" is not a number from 1 to 65535: write a port, or a range such as 8000-8999`},
		{Config{Ports: []string{"80-"}}, `ports "80-": port "" is not a number from 1 to 65535: write a port, or a range such as 8000-8999`},
		{Config{Ports: []string{"90-80"}}, `ports "90-80": the range ends before it begins: write 80-90`},
		{Config{Allow: []string{""}}, `allow "": the entry is empty: leave it out`},
		{Config{Allow: []string{"*"}}, `allow "*": the public internet is allowed anyway, and other ranges only by name: list those`},
		{Config{Allow: []string{"http://a.example"}}, `allow "http://a.example": an entry is not a URL: write its host, or host:port`},
		{Config{Allow: []string{"10.0.0.0/33"}}, `allow "10.0.0.0/33": it is not a CIDR: write one such as 10.0.0.0/8, an IPv6 one without brackets`},
		{Config{Allow: []string{"[fd00::]/8"}}, `allow "[fd00::]/8": it is not a CIDR: write one such as 10.0.0.0/8, an IPv6 one without brackets`},
		{Config{Allow: []string{"10.0.0.0/8:80"}}, `allow "10.0.0.0/8:80": it is not a CIDR: write one such as 10.0.0.0/8, an IPv6 one without brackets`},
		{Config{Allow: []string{"10.1.2.3/8"}}, `allow "10.1.2.3/8": its address has bits outside of the prefix: write 10.0.0.0/8, or 10.1.2.3 alone`},
		{Config{Allow: []string{"::ffff:0.0.0.0/64"}}, `allow "::ffff:0.0.0.0/64": it is wider than the IPv4-mapped range: write an IPv4 CIDR`},
		{Config{Allow: []string{"a.example:0"}}, `allow "a.example:0": port "0" is not a number from 1 to 65535`},
		{Config{Allow: []string{":80"}}, `allow ":80": host "" is neither a name nor an address` + cure},
		{Config{Allow: []string{"*.example.*"}}, `allow "*.example.*": host "example.*" is neither a name nor an address` + cure},
		{Config{Allow: []string{"*."}}, `allow "*.": host "" is neither a name nor an address` + cure},
		{Config{Allow: []string{"*.0.0.1"}}, `allow "*.0.0.1": a suffix is of names: write a range of addresses as a CIDR`},
		{Config{Allow: []string{"10.0.0.0-10.0.0.9"}}, `allow "10.0.0.0-10.0.0.9": host "10.0.0.0-10.0.0.9" ends like an IPv4 address but is none` + cure},
		{Config{Allow: []string{"fe80::1%eth0"}}, `allow "fe80::1%eth0": host "[fe80::1%eth0]" has a zone: leave it out` + cure},
		{Config{Deny: []string{"a.example:80"}}, `deny "a.example:80": a deny is for every port: leave the port out, or leave it out of ports`},
		{Config{Deny: []string{"10.0.0.1:80"}}, `deny "10.0.0.1:80": a deny is for every port: leave the port out, or leave it out of ports`},
		{Config{Deny: []string{"a b"}}, `deny "a b": host "a b" is neither a name nor an address` + cure},
		{Config{Admin: []string{"localhost"}}, `admin "localhost": the port is missing: write host:port`},
		{Config{Admin: []string{"a b:2019"}}, `admin "a b:2019": host "a b" is neither a name nor an address`},
		{Config{Own: func() ([]netip.Addr, error) { return nil, errors.New("no netlink") }}, `addresses of this machine: no netlink`},
	}
	for _, tt := range tests {
		r, err := NewRules(tt.cfg)
		require.EqualError(t, err, tt.want)
		require.Nil(t, r)
	}
}

func TestOwnAddressesAreThoseOfTheInterfaces(t *testing.T) {
	r, err := NewRules(Config{Deny: []string{"*"}, Allow: []string{"0.0.0.0/0", "::/0", "127.0.0.0/8", "::1"}})
	require.NoError(t, err)
	addrs, err := interfaceAddrs()
	require.NoError(t, err)
	require.NotEmpty(t, addrs)
	for _, addr := range addrs {
		err := r.CheckAddr(Destination{Host: "a.example", Port: 80}, addr)
		require.ErrorIs(t, err, ErrProhibited, "%s: deny * holds for the name", addr)
		d := Destination{Addr: addr.Unmap(), Port: 80}
		if addr.Unmap().IsLoopback() {
			require.NoError(t, r.Check(d), addr)
			continue
		}
		require.ErrorIs(t, r.Check(d), ErrProhibited, addr)
	}
}

func TestOwnAddressesAreCollectedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own, calls := []netip.Addr{netip.MustParseAddr("203.0.113.1")}, 0
		var failure error
		r := world(t, func(c *Config) {
			c.Own = func() ([]netip.Addr, error) { calls++; return own, failure }
		})
		before, after := Destination{Addr: netip.MustParseAddr("203.0.113.1"), Port: 80}, Destination{Addr: netip.MustParseAddr("203.0.113.2"), Port: 80}
		require.ErrorIs(t, r.Check(before), ErrProhibited)
		require.NoError(t, r.Check(after))

		own = []netip.Addr{after.Addr}
		time.Sleep(ownMaxAge - 1)
		require.ErrorIs(t, r.Check(before), ErrProhibited)
		require.Equal(t, 1, calls)
		time.Sleep(time.Nanosecond)
		require.NoError(t, r.Check(before))
		require.ErrorIs(t, r.Check(after), ErrProhibited)
		require.Equal(t, 2, calls)

		failure = errors.New("no netlink")
		time.Sleep(ownMaxAge)
		require.ErrorIs(t, r.Check(after), ErrProhibited, "the last addresses stay")
		require.ErrorIs(t, r.Check(after), ErrProhibited)
		require.Equal(t, 3, calls, "a failure is not tried again at once")
	})
}

// Whoever finds a collection under way does not wait for it.
func TestSlowCollectionHoldsUpOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := false
		r := world(t, func(c *Config) {
			c.Own = func() ([]netip.Addr, error) {
				if slow {
					time.Sleep(time.Minute)
				}
				return nil, nil
			}
		})
		slow = true
		time.Sleep(ownMaxAge)
		d := Destination{Addr: netip.MustParseAddr("203.0.113.1"), Port: 80}
		done := make(chan error)
		go func() { done <- r.Check(d) }()
		synctest.Wait()
		start := time.Now()
		require.NoError(t, r.Check(d))
		require.Equal(t, start, time.Now())
		require.NoError(t, <-done)
	})
}

func TestAllowedDestinationAllocatesNothing(t *testing.T) {
	r := world(t, func(c *Config) {
		c.Allow = []string{"10.0.0.0/8", "*.internal.example", "intranet.example:80"}
		c.Deny = []string{"203.0.113.0/24", "2001:db8::/32", "*.evil.example"}
	})
	for _, tt := range []struct{ hostport, addr string }{
		{"shop.example:443", "1.1.1.1"},
		{"shop.example:443", "2606:4700::1111"},
		{"shop.example:443", "2001:0:101:101:0:0:fefe:fefe"},
		{"shop.example:443", "10.1.1.1"},
		{"a.internal.example:443", "192.168.1.1"},
		{"intranet.example:80", "fe80::1%eth0"},
		{"1.1.1.1:443", "1.1.1.1"},
		{"[2606:4700::1111]:443", "2606:4700::1111"},
	} {
		addr := netip.MustParseAddr(tt.addr)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			d, err := Parse(tt.hostport)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Check(d); err != nil {
				t.Fatal(err)
			}
			if err := r.CheckAddr(d, addr); err != nil {
				t.Fatal(err)
			}
		}), tt)
	}
}

func BenchmarkCheck(b *testing.B) {
	r := world(b, func(c *Config) {
		c.Allow, c.Deny = []string{"10.0.0.0/8", "*.internal.example"}, []string{"203.0.113.0/24"}
	})
	for _, bb := range []struct{ name, hostport, addr string }{
		{"name", "www.shop.example:443", "1.1.1.1"},
		{"name6", "www.shop.example:443", "2606:4700::1111"},
		{"literal", "1.1.1.1:443", "1.1.1.1"},
		{"denied", "www.shop.example:443", "192.168.1.1"},
	} {
		addr := netip.MustParseAddr(bb.addr)
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d, err := Parse(bb.hostport)
				if err == nil && r.Check(d) == nil {
					_ = r.CheckAddr(d, addr)
				}
			}
		})
	}
}
