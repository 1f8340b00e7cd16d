// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever the configuration does with the response, the client gets one cookie
// with the first one and none afterwards.
func TestOneCookieWhateverBecomesOfTheResponse(t *testing.T) {
	for _, test := range []struct {
		name, directives, options string
		status                    int
		body                      string // empty: the application's
	}{
		{name: "handle_response", options: `@any status 2xx
			handle_response @any {
				respond "r" 203
			}`, status: 203, body: "r"},
		{name: "copy_response", options: `@any status 2xx
			handle_response @any {
				copy_response 203
			}`, status: 203},
		{name: "copy_response_headers", options: `@any status 2xx
			handle_response @any {
				copy_response_headers
				respond "r" 203
			}`, status: 203, body: "r"},
		{name: "replace_status", options: "replace_status 203", status: 203},
		{name: "intercept", directives: `intercept {
				@any status 2xx
				handle_response @any {
					respond "i" 203
				}
			}`, status: 203, body: "i"},
		{name: "header_down", options: `header_down -Server
			header_down X-App up
			header_down +Set-Cookie theme=dark`, status: 200},
		{name: "lb_retry_match that matches not", options: "lb_retries 2\nlb_retry_match {\nexpression `{rp.status_code} == 503`\n}", status: 200},
		{name: "encode", directives: "encode", status: 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			apps := newApps(t, "a", "b", "c")
			s := run(t, "", fmt.Sprintf("%s\nreverse_proxy%s {\nlb_policy sticky shop\n%s\n}", test.directives, upstreams(apps...), test.options))
			v := s.visitor()
			for i := range 4 {
				got := v.get()
				require.Equal(t, test.status, got.status)
				if test.body != "" {
					require.Equal(t, test.body, got.body)
				}
				require.Equal(t, map[bool]int{true: 1}[i == 0], ours(got), got.cookies())
			}
			asked := 0
			for _, a := range apps {
				if n := len(a.requests()); n > 0 {
					require.Equal(t, 4, n)
					asked++
				}
			}
			require.Equal(t, 1, asked, "all of them were one application's")
		})
	}
}

// ours counts the cookies of sticky policies.
func ours(a answer) (n int) {
	for _, line := range a.cookies() {
		if strings.HasPrefix(line, "sticky_") {
			n++
		}
	}
	return n
}

func TestProxyInAnotherOnesHandleResponse(t *testing.T) {
	const outer, inner = 0, 1
	for name, policies := range map[string][2]string{
		"both":  {"lb_policy sticky front", "lb_policy sticky shop"},
		"inner": {"lb_policy round_robin", "lb_policy sticky shop"},
		"outer": {"lb_policy sticky front", "lb_policy round_robin"},
	} {
		t.Run(name, func(t *testing.T) {
			front, apps := newApps(t, "front1", "front2", "front3"), newApps(t, "a", "b", "c")
			for _, a := range front {
				a.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
			}
			s := run(t, "", fmt.Sprintf(`reverse_proxy %s {
				%s
				@accepted status 202
				handle_response @accepted {
					reverse_proxy %s {
						%s
					}
				}
			}`, upstreams(front...), policies[outer], upstreams(apps...), policies[inner]))
			v := s.visitor()
			const requests = 6
			for i := range requests {
				got := v.get("Cookie: theme=dark")
				require.Equal(t, http.StatusOK, got.status)
				want := 0
				if i == 0 {
					want = strings.Count(policies[outer]+policies[inner], "sticky")
				}
				require.Equal(t, want, ours(got), got.cookies())
			}
			for i, group := range [][]*app{front, apps} {
				most := 0
				for _, a := range group {
					for _, r := range a.requests() {
						// A cookie of the inner policy means nothing to the outer
						// proxy, which hands it on.
						require.NotContains(t, r.Header.Get("Cookie"), []string{"sticky_front", "sticky_shop"}[i])
						require.Contains(t, r.Header.Get("Cookie"), "theme=dark")
						if name == "both" && i == inner {
							require.Equal(t, []string{"theme=dark"}, r.Header["Cookie"])
						}
					}
					most = max(most, len(a.requests()))
				}
				sticks := strings.Contains(policies[i], "sticky")
				require.Equal(t, sticks, most == requests, "requests of one server: %d", most)
			}
		})
	}
}

func TestErrorRoutesProxyHasASessionOfItsOwn(t *testing.T) {
	apps, spare := newApps(t, "a", "b"), newApps(t, "spare1", "spare2", "spare3")
	s := run(t, "", fmt.Sprintf(`reverse_proxy %s {
		lb_policy sticky shop
	}
	handle_errors {
		reverse_proxy %s {
			lb_policy sticky spare
		}
	}`, upstreams(apps...), upstreams(spare...)))
	for _, a := range apps {
		a.stop()
	}
	v := s.visitor()
	first := v.get()
	require.Contains(t, first.body, "spare")
	require.Equal(t, 1, ours(first), "the failed one sets none: %v", first.cookies())
	for range 5 {
		got := v.get()
		require.Equal(t, first.body, got.body)
		require.Empty(t, got.cookies())
	}
}

func TestProbesAndClientsOfEveryKindAtOnce(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	for _, a := range apps {
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/health" && (r.Method != http.MethodHead || r.Header.Get("Cookie") != "") {
				w.WriteHeader(http.StatusTeapot)
			}
			_, _ = io.WriteString(w, a.name)
		})
	}
	s := balance(t, apps, `lb_policy sticky shop
		health_uri /health
		health_method HEAD
		health_interval 10ms`)
	probed := func() (n int) {
		for _, a := range apps {
			for _, r := range a.requests() {
				if r.URL.Path == "/health" {
					require.NotContains(t, r.Header.Get("Cookie"), "sticky")
					n++
				}
			}
		}
		return n
	}
	before := stored(t)
	v := s.visitor()
	name := v.reach()
	until(t, func() bool {
		require.Equal(t, name, v.reach())
		return probed() >= 30
	})
	require.Equal(t, before+1, stored(t), "a probe has no session")
}
