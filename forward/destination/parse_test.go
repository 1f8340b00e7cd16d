// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package destination

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// F4: one host has one spelling.
func TestDestinationIsNormalised(t *testing.T) {
	label := strings.Repeat("a", 63)
	longest := label + "." + label + "." + label + "." + strings.Repeat("a", 61)
	tests := []struct{ in, want string }{
		{"shop.example:443", "shop.example:443"},
		{"shop.example:00443", "shop.example:443"},
		{"SHOP.Example.:443", "shop.example:443"},
		{"localhost:1", "localhost:1"},
		{"r3---sn-4g5e.example:443", "r3---sn-4g5e.example:443"},
		{"-a_b-.example:65535", "-a_b-.example:65535"},
		{"1.example:80", "1.example:80"},
		{"0x7f.example:80", "0x7f.example:80"},
		{"0xg:80", "0xg:80"},
		{"1e100:80", "1e100:80"},
		{longest + ".:80", longest + ":80"},

		{"bücher.example:80", "xn--bcher-kva.example:80"},
		{"BÜCHER.example:80", "xn--bcher-kva.example:80"},
		{"straße.example:80", "xn--strae-oqa.example:80"},
		{"shop。example。:80", "shop.example:80"},
		{"ｓｈｏｐ.example:80", "shop.example:80"},
		{"\u212aelvin.example:80", "kelvin.example:80"},

		{"203.0.113.7:80", "203.0.113.7:80"},
		{"127.0.0.1.:80", "127.0.0.1:80"},
		{"127.1:80", "127.0.0.1:80"},
		{"127.0.1:80", "127.0.0.1:80"},
		{"0x7f.1:80", "127.0.0.1:80"},
		{"0X7F.0x0.0x0.0x1:80", "127.0.0.1:80"},
		{"0x7f000001:80", "127.0.0.1:80"},
		{"0x00000000007f000001:80", "127.0.0.1:80"},
		{"2130706433:80", "127.0.0.1:80"},
		{"017700000001:80", "127.0.0.1:80"},
		{"0177.0.0.01:80", "127.0.0.1:80"},
		{"010.8:80", "8.0.0.8:80"},
		{"10.65535:80", "10.0.255.255:80"},
		{"0:80", "0.0.0.0:80"},
		{"00:80", "0.0.0.0:80"},
		{"4294967295:80", "255.255.255.255:80"},
		{"１２７.０.０.１:80", "127.0.0.1:80"},
		{"127。1:80", "127.0.0.1:80"},
		{"①②⑦.1:80", "127.0.0.1:80"},

		{"[2001:db8::1]:443", "[2001:db8::1]:443"},
		{"[2001:DB8:0:0::1]:443", "[2001:db8::1]:443"},
		{"[::ffff:127.0.0.1]:80", "127.0.0.1:80"},
		{"[::ffff:7f00:1]:80", "127.0.0.1:80"},
		{"[64:ff9b::127.0.0.1]:80", "[64:ff9b::7f00:1]:80"},
		{"shop.example:0000080", "shop.example:80"},
		{"127.0.0.1:065535", "127.0.0.1:65535"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := Parse(tt.in)
			require.NoError(t, err)
			require.Equal(t, tt.want, got.String())
			require.NotEqual(t, got.Host == "", !got.Addr.IsValid())
		})
	}
}

func TestMalformedDestinationIsRefusedWithReason(t *testing.T) {
	const noPort = "the port is missing: write host:port"
	tests := []struct{ in, want string }{
		{"", noPort},
		{"shop.example", noPort},
		{"[::1]", noPort},
		{"shop.example:", `port "" is not a number from 1 to 65535`},
		{"shop.example:0", `port "0" is not a number from 1 to 65535`},
		{"shop.example:65536", `port "65536" is not a number from 1 to 65535`},
		{"shop.example:000000", `port "000000" is not a number from 1 to 65535`},
		{"shop.example:+80", `port "+80" is not a number from 1 to 65535`},
		{"shop.example:-1", `port "-1" is not a number from 1 to 65535`},
		{"shop.example: 80", `port " 80" is not a number from 1 to 65535`},
		{"shop.example:80\r\n", `port "80\r\n" is not a number from 1 to 65535`},
		{"shop.example:https", `port "https" is not a number from 1 to 65535`},
		{"shop.example:0x50", `port "0x50" is not a number from 1 to 65535`},
		{"shop.example:８０", `port "８０" is not a number from 1 to 65535`},
		{":80", `host "" is neither a name nor an address`},
		{".:80", `host "." is neither a name nor an address`},
		{"a..b:80", `host "a..b" is neither a name nor an address`},
		{"a..:80", `host "a.." is neither a name nor an address`},
		{".a:80", `host ".a" is neither a name nor an address`},
		{"user@shop.example:80", `host "user@shop.example" is neither a name nor an address`},
		{"shop.example/x:80", `host "shop.example/x" is neither a name nor an address`},
		{"a b:80", `host "a b" is neither a name nor an address`},
		{"a\x00b:80", `host "a\x00b" is neither a name nor an address`},
		{"a\r\nX: y:80", "there is more than one colon: write an IPv6 address as [address]:port"},
		{"127%2e0.0.1:80", `host "127%2e0.0.1" ends like an IPv4 address but is none`},
		{"shop%2eexample:80", `host "shop%2eexample" is neither a name nor an address`},
		{"*.example:80", `host "*.example" is neither a name nor an address`},
		{strings.Repeat("a", 64) + ":80", `host "` + strings.Repeat("a", 64) + `" is neither a name nor an address`},
		{strings.Repeat("a.", 127) + "a:80", `host "` + strings.Repeat("a.", 32) + `" is neither a name nor an address`},
		{strings.Repeat("a", 600), "it is 600 bytes long: at most 512 are allowed"},
		{"\xff.example:80", `host "\xff.example" is not a name that IDNA allows`},
		{"a\u200db.example:80", "host \"a\\u200db.example\" is not a name that IDNA allows"},

		{"1.2.3.4.5:80", `host "1.2.3.4.5" ends like an IPv4 address but is none`},
		{"256.0.0.1:80", `host "256.0.0.1" ends like an IPv4 address but is none`},
		{"1.2.3.256:80", `host "1.2.3.256" ends like an IPv4 address but is none`},
		{"1..1:80", `host "1..1" ends like an IPv4 address but is none`},
		{"08.1:80", `host "08.1" ends like an IPv4 address but is none`},
		{"4294967296:80", `host "4294967296" ends like an IPv4 address but is none`},
		{"99999999999999999999999:80", `host "99999999999999999999999" ends like an IPv4 address but is none`},
		{"0x:80", `host "0x" ends like an IPv4 address but is none`},
		{"shop.1:80", `host "shop.1" ends like an IPv4 address but is none`},

		{"::1:80", "there is more than one colon: write an IPv6 address as [address]:port"},
		{"[127.0.0.1]:80", `host "[127.0.0.1]" is not an IPv6 address in brackets`},
		{"[shop.example]:80", `host "[shop.example]" is not an IPv6 address in brackets`},
		{"[::1]x:80", `host "[::1]x" is not an IPv6 address in brackets`},
		{"[::1]:80:80", `host "[::1]:80" is not an IPv6 address in brackets`},
		{"[fe80::1%eth0]:80", `host "[fe80::1%eth0]" has a zone: leave it out`},
		{"[fe80::1%25eth0]:80", `host "[fe80::1%25eth0]" has a zone: leave it out`},
		{"[::ffff:10.0.0.1%1]:80", `host "[::ffff:10.0.0.1%1]" has a zone: leave it out`},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := Parse(tt.in)
			require.ErrorIs(t, err, ErrMalformed)
			require.EqualError(t, err, "malformed destination: "+tt.want)
			require.Zero(t, got)
		})
	}
}
