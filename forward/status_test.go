// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net"
	"net/http"
	"testing"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// silentNames is a name server that hears and does not answer.
func silentNames(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

// H: each kind of failure has its status, for tunnels and for requests, and a
// Proxy-Status that RFC 9209 can be read from. None of them loses the client its
// connection without saying so (A7).
func TestEachKindOfFailureHasItsStatus(t *testing.T) {
	dead := proxytest.DeadPort(t)
	socks := func(code byte) string {
		return "exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksSays(code)).Address
	}
	for kind, c := range map[string]struct {
		block       string
		user        string
		destination string
		lines       string
		status      int
	}{
		"dns_error":                 {block: proxytest.OneExit + "resolver " + proxytest.NewNames(t, "udp", nil).Address, destination: "nowhere.shop.example:443", status: 502},
		"dns_timeout":               {block: proxytest.OneExit + "dial_timeout 300ms\nresolver " + silentNames(t), destination: "slow.shop.example:443", status: 504},
		"connection_refused":        {block: proxytest.OneExit, destination: dead, status: 502},
		"connection_timeout":        {block: "dial_timeout 300ms\nexit socks5://" + proxytest.NewPuppet(t, proxytest.Hang).Address, destination: "shop.example:443", status: 504},
		"connection_limit_reached":  {block: "exit direct://127.0.0.11 {\n max_sessions 1\n}\n", user: "alice-session-second", destination: dead, status: 503},
		"destination_ip_prohibited": {block: proxytest.OneExit, destination: "169.254.169.254:80", status: 403},
		"destination_unavailable":   {block: socks(4), destination: "shop.example:443", status: 502},
		"destination_ip_unroutable": {block: socks(3), destination: "shop.example:443", status: 502},
		"connection_terminated":     {block: "exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksHangsUp).Address, destination: "shop.example:443", status: 502},
		"http_request_denied":       {block: proxytest.OneExit, user: "nobody", destination: dead, status: 407},
		"http_request_error":        {block: proxytest.OneExit, destination: "127.0.0.1:0", status: 400},
		"proxy_loop_detected":       {block: proxytest.OneExit, destination: dead, lines: "Via: its own", status: 502},
		"destination_not_found":     {block: proxytest.OneExit, user: "alice-country-nowhere-session-x", destination: dead, status: 503},
	} {
		t.Run(kind, func(t *testing.T) {
			origin, requests := recording(t)
			w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + c.block})
			if c.user == "" {
				c.user = "alice"
			}
			if c.lines != "" {
				require.Equal(t, http.StatusOK, w.Forwarded("alice").Status)
				c.lines = "Via: " + (<-requests).Header.Get("Via") + "\r\n"
			}
			if kind == "connection_limit_reached" {
				require.Equal(t, http.StatusOK, w.Connect("alice-session-first", origin).Status)
			}
			for method, target := range map[string]string{http.MethodConnect: c.destination, http.MethodGet: "http://" + c.destination + "/"} {
				conn := w.Dial()
				ask := func() proxytest.Reply {
					conn.Send(method + " " + target + " HTTP/1.1\r\nHost: x\r\n" + c.lines + proxytest.Credentials(c.user) + "\r\n")
					return conn.Answer(method)
				}
				res := ask()
				require.Equal(t, c.status, res.Status, "%s: %s", method, res.Body)
				list, err := httpsfv.UnmarshalList(res.Header["Proxy-Status"])
				require.NoError(t, err, res.Header["Proxy-Status"])
				require.Len(t, list, 1)
				status := list[0].(httpsfv.Item)
				require.Equal(t, httpsfv.Token("caddy"), status.Value)
				told, _ := status.Params.Get("error")
				require.Equal(t, httpsfv.Token(kind), told, method)
				require.NotEmpty(t, res.Body)
				if res.Response.Close {
					conn.ExpectClosed()
					continue
				}
				require.Equal(t, c.status, ask().Status, "%s again", method)
			}
		})
	}
}

// I4, over the wire: what an exit says of a destination is what a SOCKS5 client is
// told.
func TestSocksReplyOfAnExitReachesTheClient(t *testing.T) {
	for code, want := range map[byte]byte{1: 4, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6} {
		w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.Loopback, "exit socks5://"+proxytest.NewPuppet(t, proxytest.SocksSays(code)).Address)
		c := w.Dial()
		c.Send(proxytest.SocksText("alice", proxytest.AlicePassword, proxytest.SocksDomain("shop.example", 443)))
		got := c.ExpectEnd()
		require.Len(t, got, 14, "code %d: %q", code, got)
		require.Equal(t, "\x05\x02\x01\x00\x05"+string([]byte{want}), got[:6], "code %d", code)
	}
}

// I1: the methods are those that are configured, and of several that a client
// offers the one with credentials is taken.
func TestSocksMethodsAreThoseConfigured(t *testing.T) {
	required := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	for said, want := range map[string]string{
		"\x05\x01\x00": "\x05\xff", "\x05\x02\x00\x01": "\x05\xff", "\x05\x01\x80": "\x05\xff", "\x05\x00": "\x05\xff",
	} {
		c := required.Dial()
		c.Send(said)
		require.Equal(t, want, c.ExpectEnd(), "%q", said)
	}
	c := required.Dial()
	c.Send("\x05\x03\x00\x01\x02")
	c.Expect("\x05\x02")
	c.Close()

	open := proxytest.NewWorldWith(t, "", proxytest.Wrapped("open\n"+proxytest.OneExit+proxytest.Loopback, "sticky_socks5 {\n auth none\n}"))
	for said, want := range map[string]string{"\x05\x01\x01": "\x05\xff", "\x05\x02\x01\x80": "\x05\xff", "\x05\x00": "\x05\xff"} {
		c := open.Dial()
		c.Send(said)
		require.Equal(t, want, c.ExpectEnd(), "%q", said)
	}
	for said, want := range map[string]string{"\x05\x01\x00": "\x05\x00", "\x05\x02\x02\x00": "\x05\x02", "\x05\x01\x02": "\x05\x02"} {
		c := open.Dial()
		c.Send(said)
		c.Expect(want)
		c.Close()
	}
}

// I2: a user or a password of no length, or one that is cut short by the end.
func TestSocksCredentialsOfOddLengths(t *testing.T) {
	w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	long := string(make([]byte, 255))
	for name, c := range map[string]string{
		"no user":                   "\x00\x06secret",
		"no password":               "\x05alice\x00",
		"neither":                   "\x00\x00",
		"a user of 255 NULs":        "\xff" + long + "\x06secret",
		"a password of 255 NULs":    "\x05alice\xff" + long,
		"a line break in the user":  "\x09alice\r\n:x\x06secret",
		"a long id beside no space": "\xffalice-session-" + proxytest.RandomText(255-len("alice-session-")) + "\x05wrong",
	} {
		t.Run(name, func(t *testing.T) {
			conn := w.Dial()
			conn.Send("\x05\x01\x02\x01" + c + "\x05\x01\x00" + proxytest.SocksDomain("127.0.0.1", 80))
			got := conn.ExpectClosedAfter()
			require.NotContains(t, got, "\x05\x00\x00\x01", "it is a tunnel: %q", got)
			require.NotEmpty(t, got)
		})
	}
}
