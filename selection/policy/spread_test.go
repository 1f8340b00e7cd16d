// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"
)

// proxy is a reverse proxy without a server around it, whose upstreams answer
// in memory.
type proxy struct {
	*reverseproxy.Handler
	tb testing.TB
}

// newProxy makes a proxy of n upstreams with a policy, within the Caddy that
// runs.
func newProxy(tb testing.TB, n int, policy string) *proxy {
	tb.Helper()
	pool := make([]map[string]string, n)
	for i := range pool {
		pool[i] = map[string]string{"dial": fmt.Sprintf("10.0.%d.%d:8080", i/256, i%256)}
	}
	raw, err := json.Marshal(map[string]any{
		"upstreams":      pool,
		"transport":      map[string]string{"protocol": "test_foreign"},
		"load_balancing": map[string]any{"selection_policy": json.RawMessage(policy)},
	})
	require.NoError(tb, err)
	module, err := caddy.ActiveContext().LoadModuleByID("http.handlers.reverse_proxy", raw)
	require.NoError(tb, err)
	return &proxy{module.(*reverseproxy.Handler), tb}
}

// emptyCaddy runs a Caddy that serves nothing.
func emptyCaddy(tb testing.TB) {
	tb.Helper()
	require.NoError(tb, caddy.Load(fmt.Appendf(nil, `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"storage": {"module": "file_system", "root": %q},
		"apps": {"sticky": {"stores": [{"store": "memory", "persist": "off"}]}}
	}`, tb.TempDir()), true))
	tb.Cleanup(func() { require.NoError(tb, caddy.Stop()) })
}

var noServer caddyhttp.Server

// request is a client's request as Caddy's HTTP server hands it on.
func request(w http.ResponseWriter, lines ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &noServer)
}

// serve answers a request: the upstream that it went to, and the cookie that was set.
func (p *proxy) serve(lines ...string) (upstream, cookie string) {
	p.tb.Helper()
	w := httptest.NewRecorder()
	require.NoError(p.tb, p.ServeHTTP(w, request(w, lines...), nil))
	cookie, _, _ = strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return w.Body.String(), cookie
}

func TestTenThousandSessionsSpreadOverTenServers(t *testing.T) {
	const sessions, servers = 10_000, 10
	emptyCaddy(t)
	for name, source := range map[string]string{
		"cookie": `{"source": "cookie"}`,
		"header": `{"source": "header", "name": "X-Session"}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, servers, fmt.Sprintf(`{"policy": "sticky", "name": "ten-%s", "sources": [%s]}`, name, source))
			seen := make(map[string]int)
			for i := range sessions {
				upstream, cookie := p.serve(fmt.Sprint("X-Session: ", i))
				seen[upstream]++
				if name == "cookie" && i%3 == 0 { // some come back
					again, _ := p.serve("Cookie: " + cookie)
					require.Equal(t, upstream, again)
				}
			}
			require.Len(t, seen, servers)
			for server, n := range seen {
				require.LessOrEqual(t, n, sessions/servers*13/10, "sessions of %s", server)
			}
		})
	}
}

func TestStickyTrafficDoesNotSkewNewClients(t *testing.T) {
	emptyCaddy(t)
	const newcomers, servers = 900, 3
	for _, fallback := range []string{"", `, "fallback": {"policy": "round_robin"}`} {
		p := newProxy(t, servers, fmt.Sprintf(`{"policy": "sticky", "name": "skew%d"%s}`, len(fallback), fallback))
		busy, cookie := p.serve()
		seen := map[string]int{busy: 1}
		for i := range newcomers - 1 {
			for range i % 7 { // one client makes most of the requests
				again, _ := p.serve("Cookie: " + cookie)
				require.Equal(t, busy, again)
			}
			upstream, _ := p.serve()
			seen[upstream]++
		}
		require.Len(t, seen, servers)
		for server, n := range seen {
			limit := newcomers / servers
			if fallback == "" {
				limit = limit * 13 / 10
			}
			require.LessOrEqual(t, n, limit, "new clients of %s with %q", server, fallback)
		}
	}
}

// A server that comes late has no sessions and is the better of any two. Chosen
// at random, it is one of the two in two of five cases at most, and never takes
// all of them until it has caught up.
func TestLateServerGetsItsShareWithoutAStampede(t *testing.T) {
	for name, source := range map[string]string{
		"header":    "header X-Session",
		"client_ip": "client_ip",
		"cookie":    "cookie",
	} {
		t.Run(name, func(t *testing.T) {
			apps := newApps(t, "a", "b", "c", "d", "late")
			s := dynamic(t, without(apps, "late"), "lb_policy sticky shop {\n"+source+"\n}")
			n := 0
			newcomer := func() (*visitor, string) {
				n++
				address := "127.0.0.1"
				if name == "client_ip" {
					address = fmt.Sprintf("127.0.%d.%d", 10+n/200, 1+n%200)
					needAddresses(t, address)
				}
				return s.visitorFrom(address), fmt.Sprint("X-Session: ", name, n)
			}
			type client struct {
				*visitor
				line, server string
			}
			var clients []client
			come := func(count int) (late int) {
				for range count {
					v, line := newcomer()
					got := v.reach(line)
					clients = append(clients, client{v, line, got})
					if got == "late" {
						late++
					}
				}
				return late
			}
			require.Zero(t, come(120))
			write(apps, nil)
			late := come(100) // 40 expected
			require.Greater(t, late, 100/5, "it gets more than its share")
			require.Less(t, late, 75, "others get new clients as well")
			for _, c := range clients {
				require.Equal(t, c.server, c.reach(c.line), "a live session does not move")
			}
		})
	}
}
