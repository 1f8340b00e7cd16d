// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// compared are this policy and Caddy's, each as it keeps a client's session.
var compared = []struct{ name, policy string }{
	{"sticky_header", `{"policy": "sticky", "name": %q, "sources": [{"source": "header", "name": "X-Session"}]}`},
	{"sticky_client_ip", `{"policy": "sticky", "name": %q, "sources": [{"source": "client_ip"}]}`},
	{"sticky_cookie", `{"policy": "sticky", "name": %q}`},
	{"header", `{"policy": "header", "field": "X-Session"}`},
	{"ip_hash", `{"policy": "ip_hash"}`},
	{"cookie", `{"policy": "cookie", "secret": "secret"}`},
	{"random", `{"policy": "random"}`},
}

// inTurn runs a benchmark for each policy and number of upstreams, with the
// lines of a request whose session is known.
func inTurn(b *testing.B, bench func(b *testing.B, p *proxy, lines []string)) {
	b.Helper()
	emptyCaddy(b)
	for _, n := range []int{3, 10, 100, 1000} {
		for _, c := range compared {
			b.Run(fmt.Sprintf("upstreams=%d/policy=%s", n, c.name), func(b *testing.B) {
				policy := c.policy
				if c.policy[:19] == `{"policy": "sticky"` {
					policy = fmt.Sprintf(policy, fmt.Sprint(c.name, n))
				}
				p := newProxy(b, n, policy)
				lines := []string{"X-Session: alice"}
				if _, cookie := p.serve(lines...); cookie != "" {
					lines = append(lines, "Cookie: "+cookie)
				}
				for range 3 {
					p.serve(lines...)
				}
				bench(b, p, lines)
			})
		}
	}
}

// What a policy costs for a request: Select alone, with 3 to 1,000 upstreams.
func BenchmarkSelect(b *testing.B) {
	inTurn(b, func(b *testing.B, p *proxy, lines []string) {
		b.Helper()
		const batch = 1000
		requests, w := make([]*http.Request, batch), httptest.NewRecorder()
		pool, policy := p.Upstreams, p.LoadBalancing.SelectionPolicy
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if i%batch == 0 { // what a policy remembers of a request is part of its cost
				b.StopTimer()
				for j := range requests {
					requests[j] = request(w, lines...)
				}
				b.StartTimer()
			}
			if policy.Select(pool, requests[i%batch], w) == nil {
				b.Fatal("no upstream")
			}
		}
	})
}

// What a request costs in the proxy, the upstream aside.
func BenchmarkServe(b *testing.B) {
	inTurn(b, func(b *testing.B, p *proxy, lines []string) {
		b.Helper()
		w := &discarding{header: make(http.Header)}
		b.ReportAllocs()
		for b.Loop() {
			clear(w.header)
			require.NoError(b, p.ServeHTTP(w, request(w, lines...), nil))
		}
	})
}

type discarding struct{ header http.Header }

func (d *discarding) Header() http.Header       { return d.header }
func (*discarding) Write(b []byte) (int, error) { return len(b), nil }
func (*discarding) WriteHeader(int)             {}
