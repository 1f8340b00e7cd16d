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
)

// C5: a CONNECT goes on to another proxy with the Via lines that it brought and
// with ours, and one that has ours came here before.
func TestConnectCarriesVia(t *testing.T) {
	seen := make(chan *http.Request, 1)
	exit := newPuppet(t, httpProxy(away{from: "127.0.0.21"}, func(r *http.Request) { seen <- r }))
	w := newWorld(t, alice, loopback, "exit http://"+exit.address)
	ask := func(via string) reply {
		c := w.dial()
		defer c.close()
		c.send(strings.Replace(connect("alice", w.origin), "\r\n\r\n", "\r\n"+via+"\r\n", 1))
		return c.answer(http.MethodConnect)
	}
	require.Equal(t, http.StatusOK, ask("Via: 1.0 one, 1.1 two (comment)\r\nVia: HTTP/1.1 three:80\r\n").status)
	via := (<-seen).Header["Via"]
	require.Len(t, via, 3)
	require.Equal(t, []string{"1.0 one, 1.1 two (comment)", "HTTP/1.1 three:80"}, via[:2])
	require.Regexp(t, `^1\.1 caddy-[0-9a-f]{8}$`, via[2])

	for _, lines := range []string{"Via: " + via[2] + "\r\n", "Via: 1.0 one\r\nVia: 1.1 two, " + via[2] + "\r\n"} {
		res := ask(lines)
		require.Equal(t, http.StatusBadGateway, res.status)
		require.Equal(t, "proxy_loop_detected", res.reason())
	}
	require.Empty(t, seen)

	require.NoError(t, w.reload(strings.Join([]string{alice, loopback, "via off", "exit http://" + exit.address}, "\n")))
	require.Equal(t, http.StatusOK, ask("Via: 1.0 one\r\n").status)
	require.NotContains(t, (<-seen).Header, "Via")
}

// Two proxies that are each other's exit opened connections until no descriptor
// was left.
func TestProxiesThatAreEachOthersExit(t *testing.T) {
	const exit = "exit http://alice:secret@127.0.0.1:"
	other := strconv.Itoa(peer.Port(t))
	w := newWorldWith(t, "", site{block: alice + loopback + oneExit})
	port := w.proxy[strings.LastIndexByte(w.proxy, ':')+1:]
	s := *w.config
	s.block = alice + loopback + exit + other
	s.sites = ":" + other + " {\n bind 127.0.0.1\n sticky_proxy other {\n" + alice + loopback + exit + port + "\n}\n}"
	require.NoError(t, w.load(s))
	require.Equal(t, http.StatusBadGateway, w.connect("alice", "198.51.100.7:443").status)
	require.Len(t, w.logs.lines("", fields{"outcome": "none"}), 2, "each proxy had the request once")
	res := w.ask(w.dial(), http.MethodGet, "", "", "")
	require.Equal(t, http.StatusBadRequest, res.status, "it names no host")
	c := w.dial()
	c.send("GET http://198.51.100.7/ HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n")
	res = c.answer(http.MethodGet)
	require.Equal(t, http.StatusBadGateway, res.status)
	require.Equal(t, "proxy_loop_detected", res.reason(), "the other proxy's answer is passed on")
}
