// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// C5: a CONNECT goes on to another proxy with the Via lines that it brought and
// with ours, and one that has ours came here before.
func TestConnectCarriesVia(t *testing.T) {
	seen := make(chan *http.Request, 1)
	exit := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.21"}, func(r *http.Request) { seen <- r }))
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit http://"+exit.Address)
	ask := func(via string) proxytest.Reply {
		c := w.Dial()
		defer c.Close()
		c.Send(strings.Replace(proxytest.Connect("alice", w.Origin), "\r\n\r\n", "\r\n"+via+"\r\n", 1))
		return c.Answer(http.MethodConnect)
	}
	require.Equal(t, http.StatusOK, ask("Via: 1.0 one, 1.1 two (comment)\r\nVia: HTTP/1.1 three:80\r\n").Status)
	via := (<-seen).Header["Via"]
	require.Len(t, via, 3)
	require.Equal(t, []string{"1.0 one, 1.1 two (comment)", "HTTP/1.1 three:80"}, via[:2])
	require.Regexp(t, `^1\.1 caddy-[0-9a-f]{8}$`, via[2])

	for _, lines := range []string{"Via: " + via[2] + "\r\n", "Via: 1.0 one\r\nVia: 1.1 two, " + via[2] + "\r\n"} {
		res := ask(lines)
		require.Equal(t, http.StatusBadGateway, res.Status)
		require.Equal(t, "proxy_loop_detected", res.Reason())
	}
	require.Empty(t, seen)

	require.NoError(t, w.Reload(strings.Join([]string{proxytest.Alice, proxytest.Loopback, "via off", "exit http://" + exit.Address}, "\n")))
	require.Equal(t, http.StatusOK, ask("Via: 1.0 one\r\n").Status)
	require.NotContains(t, (<-seen).Header, "Via")
}

// Two proxies that are each other's exit opened connections until no descriptor
// was left.
func TestProxiesThatAreEachOthersExit(t *testing.T) {
	const exit = "exit http://alice:secret@127.0.0.1:"
	other := strconv.Itoa(peer.Port(t))
	w := proxytest.NewWorldWith(t, "", proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + proxytest.OneExit})
	port := w.Proxy[strings.LastIndexByte(w.Proxy, ':')+1:]
	s := *w.Config
	s.Block = proxytest.Alice + proxytest.Loopback + exit + other
	s.Sites = ":" + other + " {\n bind 127.0.0.1\n sticky_proxy other {\n" + proxytest.Alice + proxytest.Loopback + exit + port + "\n}\n}"
	require.NoError(t, w.Load(s))
	require.Equal(t, http.StatusBadGateway, w.Connect("alice", "198.51.100.7:443").Status)
	require.Len(t, w.Logs.Lines("decided", proxytest.Fields{"outcome": "none"}), 2, "each proxy had the request once")
	res := w.Ask(w.Dial(), http.MethodGet, "", "", "")
	require.Equal(t, http.StatusBadRequest, res.Status, "it names no host")
	c := w.Dial()
	c.Send("GET http://198.51.100.7/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
	res = c.Answer(http.MethodGet)
	require.Equal(t, http.StatusBadGateway, res.Status)
	require.Equal(t, "proxy_loop_detected", res.Reason(), "the other proxy's answer is passed on")
}
