// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net"
	"net/http"
	"testing"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/require"
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
	dead := deadPort(t)
	socks := func(code byte) string { return "exit socks5://" + newPuppet(t, socksSays(code)).address }
	for kind, c := range map[string]struct {
		block       string
		user        string
		destination string
		lines       string
		status      int
	}{
		"dns_error":                 {block: oneExit + "resolver " + newNames(t, "udp", nil).address, destination: "nowhere.shop.example:443", status: 502},
		"dns_timeout":               {block: oneExit + "dial_timeout 300ms\nresolver " + silentNames(t), destination: "slow.shop.example:443", status: 504},
		"connection_refused":        {block: oneExit, destination: dead, status: 502},
		"connection_timeout":        {block: "dial_timeout 300ms\nexit socks5://" + newPuppet(t, hang).address, destination: "shop.example:443", status: 504},
		"connection_limit_reached":  {block: "exit direct://127.0.0.11 {\n max_sessions 1\n}\n", user: "alice-session-second", destination: dead, status: 503},
		"destination_ip_prohibited": {block: oneExit, destination: "169.254.169.254:80", status: 403},
		"destination_unavailable":   {block: socks(4), destination: "shop.example:443", status: 502},
		"destination_ip_unroutable": {block: socks(3), destination: "shop.example:443", status: 502},
		"connection_terminated":     {block: "exit socks5://" + newPuppet(t, socksHangsUp).address, destination: "shop.example:443", status: 502},
		"http_request_denied":       {block: oneExit, user: "nobody", destination: dead, status: 407},
		"http_request_error":        {block: oneExit, destination: "127.0.0.1:0", status: 400},
		"proxy_loop_detected":       {block: oneExit, destination: dead, lines: "Via: its own", status: 502},
		"destination_not_found":     {block: oneExit, user: "alice-country-nowhere-session-x", destination: dead, status: 503},
	} {
		t.Run(kind, func(t *testing.T) {
			origin, requests := recording(t)
			w := newWorldWith(t, origin, site{block: alice + loopback + c.block})
			if c.user == "" {
				c.user = "alice"
			}
			if c.lines != "" {
				require.Equal(t, http.StatusOK, w.forwarded("alice").status)
				c.lines = "Via: " + (<-requests).Header.Get("Via") + "\r\n"
			}
			if kind == "connection_limit_reached" {
				require.Equal(t, http.StatusOK, w.connect("alice-session-first", origin).status)
			}
			for method, target := range map[string]string{http.MethodConnect: c.destination, http.MethodGet: "http://" + c.destination + "/"} {
				conn := w.dial()
				ask := func() reply {
					conn.send(method + " " + target + " HTTP/1.1\r\nHost: x\r\n" + c.lines + credentials(c.user) + "\r\n")
					return conn.answer(method)
				}
				res := ask()
				require.Equal(t, c.status, res.status, "%s: %s", method, res.body)
				list, err := httpsfv.UnmarshalList(res.header["Proxy-Status"])
				require.NoError(t, err, res.header["Proxy-Status"])
				require.Len(t, list, 1)
				status := list[0].(httpsfv.Item)
				require.Equal(t, httpsfv.Token("caddy"), status.Value)
				told, _ := status.Params.Get("error")
				require.Equal(t, httpsfv.Token(kind), told, method)
				require.NotEmpty(t, res.body)
				if res.response.Close {
					conn.expectClosed()
					continue
				}
				require.Equal(t, c.status, ask().status, "%s again", method)
			}
		})
	}
}

// I4, over the wire: what an exit says of a destination is what a SOCKS5 client is
// told.
func TestSocksReplyOfAnExitReachesTheClient(t *testing.T) {
	for code, want := range map[byte]byte{1: 4, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6} {
		w := newSocksWorld(t, alice, loopback, "exit socks5://"+newPuppet(t, socksSays(code)).address)
		c := w.dial()
		c.send(socksText("alice", alicePassword, socksDomain("shop.example", 443)))
		got := c.expectEnd()
		require.Len(t, got, 14, "code %d: %q", code, got)
		require.Equal(t, "\x05\x02\x01\x00\x05"+string([]byte{want}), got[:6], "code %d", code)
	}
}

// I1: the methods are those that are configured, and of several that a client
// offers the one with credentials is taken.
func TestSocksMethodsAreThoseConfigured(t *testing.T) {
	required := newSocksWorld(t, alice, oneExit, loopback)
	for said, want := range map[string]string{
		"\x05\x01\x00": "\x05\xff", "\x05\x02\x00\x01": "\x05\xff", "\x05\x01\x80": "\x05\xff", "\x05\x00": "\x05\xff",
	} {
		c := required.dial()
		c.send(said)
		require.Equal(t, want, c.expectEnd(), "%q", said)
	}
	c := required.dial()
	c.send("\x05\x03\x00\x01\x02")
	c.expect("\x05\x02")
	c.close()

	open := newWorldWith(t, "", wrapped("open\n"+oneExit+loopback, "sticky_socks5 {\n auth none\n}"))
	for said, want := range map[string]string{"\x05\x01\x01": "\x05\xff", "\x05\x02\x01\x80": "\x05\xff", "\x05\x00": "\x05\xff"} {
		c := open.dial()
		c.send(said)
		require.Equal(t, want, c.expectEnd(), "%q", said)
	}
	for said, want := range map[string]string{"\x05\x01\x00": "\x05\x00", "\x05\x02\x02\x00": "\x05\x02", "\x05\x01\x02": "\x05\x02"} {
		c := open.dial()
		c.send(said)
		c.expect(want)
		c.close()
	}
}

// I2: a user or a password of no length, or one that is cut short by the end.
func TestSocksCredentialsOfOddLengths(t *testing.T) {
	w := newSocksWorld(t, alice, oneExit, loopback)
	long := string(make([]byte, 255))
	for name, c := range map[string]string{
		"no user":                   "\x00\x06secret",
		"no password":               "\x05alice\x00",
		"neither":                   "\x00\x00",
		"a user of 255 NULs":        "\xff" + long + "\x06secret",
		"a password of 255 NULs":    "\x05alice\xff" + long,
		"a line break in the user":  "\x09alice\r\n:x\x06secret",
		"a long id beside no space": "\xffalice-session-" + randomText(255-len("alice-session-")) + "\x05wrong",
	} {
		t.Run(name, func(t *testing.T) {
			conn := w.dial()
			conn.send("\x05\x01\x02\x01" + c + "\x05\x01\x00" + socksDomain("127.0.0.1", 80))
			got := conn.expectClosedAfter()
			require.NotContains(t, got, "\x05\x00\x00\x01", "it is a tunnel: %q", got)
			require.NotEmpty(t, got)
		})
	}
}
