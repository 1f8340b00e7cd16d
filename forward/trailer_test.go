// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/proxy"
)

// C2, in trailers: what Connection nominates goes no further, announced or not.
func TestNominatedTrailersEndHere(t *testing.T) {
	requests := make(chan http.Header, 1)
	w := oneProxy(t, originOf(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		requests <- r.Trailer
	}))
	res := w.ask(w.dial(), http.MethodPost, "/", "Connection: x-secret\r\nConnection: close , X-Other\r\n"+
		"Trailer: X-Sum, X-Secret, X-Other, Keep-Alive\r\nTransfer-Encoding: chunked\r\n",
		"5\r\nhello\r\n0\r\nX-Sum: here\r\nX-Secret: a\r\nX-Other: b\r\nKeep-Alive: c\r\n\r\n")
	require.Equal(t, http.StatusOK, res.status)
	require.Equal(t, http.Header{"X-Sum": {"here"}}, <-requests)

	origin := serverOf(t, says("HTTP/1.1 200 OK\r\nConnection: keep-alive, x-secret\r\nTransfer-Encoding: chunked\r\n"+
		"Trailer: X-Sum, X-Secret\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: there\r\nX-Secret: a\r\nX-Late: too\r\nKeep-Alive: b\r\n\r\n"))
	w = oneProxy(t, origin)
	res = w.ask(w.dial(), http.MethodGet, "/", "TE: trailers\r\n", "")
	require.Equal(t, "hello", res.body)
	require.Equal(t, "there", res.trailer.Get("X-Sum"))
	require.Equal(t, "too", res.trailer.Get("X-Late"))
	for _, name := range []string{"X-Secret", "Keep-Alive"} {
		require.NotContains(t, res.trailer, name)
	}
}

// G6: a reload cuts no tunnel.
func TestReloadKeepsTunnels(t *testing.T) {
	target := newPuppet(t, echo)
	w := newWorld(t, alice, oneExit, loopback)
	c := w.tunnel("alice-session-abc", target.address)
	c.send("before")
	c.expect("before")
	require.NoError(t, w.reload(alice+oneExit+loopback+"ttl 20m"))
	c.send("after")
	c.expect("after")
	require.Equal(t, http.StatusOK, w.connect("alice-session-abc", target.address).status)
}

// I2: what does not fit into RFC 1929 cannot be sent; the longest that fits is
// answered as in HTTP.
func TestSocksUserOfTheGreatestLength(t *testing.T) {
	w := newSocksWorld(t, alice, oneExit, loopback)
	target := serverOf(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "here") })
	const prefix = "alice-session-"
	user := prefix + randomText(255-len(prefix))
	conn, err := w.socksDialer(user, proxy.Direct).Dial("tcp", target)
	require.NoError(t, err)
	defer conn.Close()
	text, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "here", string(text))
	_, err = w.socksDialer(user+"x", proxy.Direct).Dial("tcp", target)
	require.Error(t, err)
}

// I3: a name is the exit's matter.
func TestSocksNameIsResolvedAtTheExit(t *testing.T) {
	hosts := make(chan string, 1)
	exit := newPuppet(t, httpProxy(away{to: serverOf(t, echo)}, func(r *http.Request) { hosts <- r.Host })).address
	w := newSocksWorld(t, alice, loopback, "exit http://"+exit)
	conn, err := w.socksDialer("alice", proxy.Direct).Dial("tcp", "nowhere.invalid:443")
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, "nowhere.invalid:443", <-hosts)
}

// B7: an extended CONNECT is the origin's, and so is the next handler's.
func TestExtendedConnectIsTheNextHandlers(t *testing.T) {
	option, config := certificate(t)
	w := newWorldWith(t, "", site{block: alice + oneExit + loopback, server: option})
	client := streams["HTTP/3"](t, config)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://"+w.proxy+"/chat", http.NoBody)
	require.NoError(t, err)
	r.Proto = "websocket"
	res, err := client.RoundTrip(r)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Empty(t, res.Header.Get("Proxy-Authenticate"))
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "not proxied", string(body))
}
