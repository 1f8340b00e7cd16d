// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

// caddysCookie is the cookie that Caddy's own policy sets for an upstream.
func caddysCookie(t *testing.T, name, secret, upstream string) *http.Cookie {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	policy := &reverseproxy.CookieHashSelection{Name: name, Secret: secret}
	require.NoError(t, policy.Provision(ctx))
	w := httptest.NewRecorder()
	require.NotNil(t, policy.Select(reverseproxy.UpstreamPool{{Dial: upstream, Host: new(reverseproxy.Host)}}, request(nil), w))
	cookies := w.Result().Cookies()
	require.Len(t, cookies, 1)
	return cookies[0]
}

func TestCookieOfCaddysPolicyProposesItsUpstream(t *testing.T) {
	upstreams := []string{"app1:8080", "unix//run/app2.sock", "[2001:db8::1]:80", "{env.APP}:80"}
	for _, secret := range []string{"", "secret"} {
		src := ready(t, &source.Cookie{Name: "sid", FromCookiePolicy: &source.CookiePolicy{Name: "lb", Secret: secret}})
		for _, upstream := range upstreams {
			r := request(nil)
			require.Empty(t, src.Proposal(r, slices.Values(upstreams)))
			r.AddCookie(&http.Cookie{Name: "theme", Value: "dark"})
			r.AddCookie(caddysCookie(t, "lb", secret, upstream))
			require.Equal(t, upstream, src.Proposal(r, slices.Values(upstreams)))
			require.Empty(t, src.Proposal(r, slices.Values([]string{"another:8080"})), "it is gone")
			require.Empty(t, ready(t, &source.Cookie{Name: "sid"}).Proposal(r, slices.Values(upstreams)), "nobody asked for it")
		}
	}
}

func TestCookieThatCaddysPolicyDidNotSetProposesNothing(t *testing.T) {
	upstreams := []string{"app1:8080", "app2:8080"}
	src := ready(t, &source.Cookie{Name: "sid", FromCookiePolicy: &source.CookiePolicy{Name: "lb", Secret: "secret"}})
	good := caddysCookie(t, "lb", "secret", "app2:8080").Value
	for name, line := range map[string]string{
		"another secret": "lb=" + caddysCookie(t, "lb", "guess", "app2:8080").Value,
		"another name":   "LB=" + good,
		"cut off":        "lb=" + good[:63],
		"longer":         "lb=" + good + "0",
		"not hex":        "lb=" + strings.Repeat("x", 64),
		"ours":           "lb=s1." + good[3:],
		"empty":          "lb=",
	} {
		r := request(nil)
		r.Header.Set("Cookie", line)
		require.Empty(t, src.Proposal(r, slices.Values(upstreams)), name)
		r.Header.Add("Cookie", "lb="+good)
		require.Equal(t, "app2:8080", src.Proposal(r, slices.Values(upstreams)), "a valid one beside it counts")
	}

	asked := 0
	r := request(nil)
	r.Header.Set("Cookie", strings.Repeat("lb="+strings.Repeat("0", 64)+"; ", 1000))
	require.Empty(t, src.Proposal(r, func(yield func(string) bool) {
		asked++
		_ = yield("app1:8080")
	}))
	require.LessOrEqual(t, asked, 4, "a flood of them is not all checked")
}

func TestCookiePolicyHasACookie(t *testing.T) {
	require.ErrorContains(t, set(&source.Cookie{FromCookiePolicy: new(source.CookiePolicy)}), "from_cookie_policy")
	require.ErrorContains(t, set(&source.Cookie{FromCookiePolicy: &source.CookiePolicy{Name: "a;b"}}), "from_cookie_policy")
}

func BenchmarkProposal(b *testing.B) {
	src := &source.Cookie{FromCookiePolicy: &source.CookiePolicy{Name: "lb", Secret: "secret"}}
	for _, n := range []int{0, 3, 100, 1000} {
		name, line := fmt.Sprint(n, " upstreams"), "theme=dark; lb="+strings.Repeat("0", 64)
		if n == 0 {
			name, line = "no such cookie", "theme=dark"
		}
		b.Run(name, func(b *testing.B) {
			upstreams := make([]string, n)
			for i := range upstreams {
				upstreams[i] = fmt.Sprintf("10.0.%d.%d:8080", i/256, i%256)
			}
			r := request(nil)
			r.Header.Set("Cookie", line)
			b.ReportAllocs()
			for b.Loop() {
				_ = src.Proposal(r, slices.Values(upstreams))
			}
		})
	}
}
