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

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// C2, in trailers: what Connection nominates goes no further, announced or not.
func TestNominatedTrailersEndHere(t *testing.T) {
	requests := make(chan http.Header, 1)
	w := oneProxy(t, proxytest.OriginOf(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		requests <- r.Trailer
	}))
	res := w.Ask(w.Dial(), http.MethodPost, "/", "Connection: x-secret\r\nConnection: close , X-Other\r\n"+
		"Trailer: X-Sum, X-Secret, X-Other, Keep-Alive\r\nTransfer-Encoding: chunked\r\n",
		"5\r\nhello\r\n0\r\nX-Sum: here\r\nX-Secret: a\r\nX-Other: b\r\nKeep-Alive: c\r\n\r\n")
	require.Equal(t, http.StatusOK, res.Status)
	require.Equal(t, http.Header{"X-Sum": {"here"}}, <-requests)

	origin := proxytest.ServerOf(t, proxytest.Says("HTTP/1.1 200 OK\r\nConnection: keep-alive, x-secret\r\nTransfer-Encoding: chunked\r\n"+
		"Trailer: X-Sum, X-Secret\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: there\r\nX-Secret: a\r\nX-Late: too\r\nKeep-Alive: b\r\n\r\n"))
	w = oneProxy(t, origin)
	res = w.Ask(w.Dial(), http.MethodGet, "/", "TE: trailers\r\n", "")
	require.Equal(t, "hello", res.Body)
	require.Equal(t, "there", res.Trailer.Get("X-Sum"))
	require.Equal(t, "too", res.Trailer.Get("X-Late"))
	for _, name := range []string{"X-Secret", "Keep-Alive"} {
		require.NotContains(t, res.Trailer, name)
	}
}

// G6: a reload cuts no tunnel.
func TestReloadKeepsTunnels(t *testing.T) {
	target := proxytest.NewPuppet(t, proxytest.Echo)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	c := w.Tunnel("alice-session-abc", target.Address)
	c.Send("before")
	c.Expect("before")
	require.NoError(t, w.Reload(proxytest.Alice+proxytest.OneExit+proxytest.Loopback+"ttl 20m"))
	c.Send("after")
	c.Expect("after")
	require.Equal(t, http.StatusOK, w.Connect("alice-session-abc", target.Address).Status)
}

// I2: what does not fit into RFC 1929 cannot be sent; the longest that fits is
// answered as in HTTP.
func TestSocksUserOfTheGreatestLength(t *testing.T) {
	w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	target := proxytest.ServerOf(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "here") })
	const prefix = "alice-session-"
	user := prefix + proxytest.RandomText(255-len(prefix))
	conn, err := w.SocksDialer(user, proxy.Direct).Dial("tcp", target)
	require.NoError(t, err)
	defer conn.Close()
	text, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "here", string(text))
	_, err = w.SocksDialer(user+"x", proxy.Direct).Dial("tcp", target)
	require.Error(t, err)
}

// I3: a name is the exit's matter.
func TestSocksNameIsResolvedAtTheExit(t *testing.T) {
	hosts := make(chan string, 1)
	exit := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{To: proxytest.ServerOf(t, proxytest.Echo)}, func(r *http.Request) { hosts <- r.Host })).Address
	w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.Loopback, "exit http://"+exit)
	conn, err := w.SocksDialer("alice", proxy.Direct).Dial("tcp", "nowhere.invalid:443")
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, "nowhere.invalid:443", <-hosts)
}

// B7: an extended CONNECT is the origin's, and so is the next handler's.
func TestExtendedConnectIsTheNextHandlers(t *testing.T) {
	option, config := proxytest.Certificate(t)
	w := proxytest.NewWorldWith(t, "", proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback, Server: option})
	client := streams["HTTP/3"](t, config)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://"+w.Proxy+"/chat", http.NoBody)
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
