// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"crypto/tls"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

func TestIssuedCookieComesBack(t *testing.T) {
	src := ready(t, &source.Cookie{Name: "sid"})
	cookie := src.Cookie(request(nil), "s1.value")
	require.NoError(t, cookie.Valid())
	r := request(nil)
	r.AddCookie(&http.Cookie{Name: "theme", Value: "dark"})
	r.AddCookie(cookie)
	r.AddCookie(src.Cookie(request(nil), "s1.other"))
	before := r.Header.Clone()
	require.Equal(t, []string{"s1.value", "s1.other"}, slices.Collect(src.Values(r)))
	require.Empty(t, src.SessionID(r), "only who has the keys can tell")
	require.Equal(t, []string{"theme=dark"}, src.Strip(r.Header)["Cookie"])
	require.Equal(t, before, r.Header, "the request itself is left alone")
}

func TestIssuedCookieIsSecureWhereTheClientIs(t *testing.T) {
	src := ready(t, &source.Cookie{Name: "sid"})
	for _, test := range []struct {
		name    string
		tls     bool
		proto   string
		trusted bool
		want    bool
	}{
		{"plain", false, "", false, false},
		{"tls", true, "", false, true},
		{"a trusted proxy says https", false, "https", true, true},
		{"a trusted proxy says HTTPS", false, "HTTPS", true, true},
		{"a trusted proxy says http", false, "http", true, false},
		{"anybody says https", false, "https", false, false},
		{"anybody says http over tls", true, "http", false, true},
	} {
		r := request(map[string]any{caddyhttp.TrustedProxyVarKey: test.trusted})
		if test.tls {
			r.TLS = new(tls.ConnectionState)
		}
		if test.proto != "" {
			r.Header.Set("X-Forwarded-Proto", test.proto)
		}
		cookie := src.Cookie(r, "s1.value")
		require.Equal(t, test.want, cookie.Secure, test.name)
		require.True(t, cookie.HttpOnly)
		require.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
		require.Equal(t, "/", cookie.Path)
		require.Zero(t, cookie.MaxAge, "it lives as long as the browser keeps it")
	}
}

func TestCookieIsNamedAfterThePolicy(t *testing.T) {
	src := new(source.Cookie)
	src.SetDefaultName("shop")
	require.Equal(t, "sticky_shop", src.Name)
	src.SetDefaultName("other")
	require.Equal(t, "sticky_shop", src.Name)
}

func TestCookieNameIsAToken(t *testing.T) {
	for _, bad := range []string{"a b", "a=b", "a;b", "ü", "a\""} {
		require.Error(t, set(&source.Cookie{Name: bad}), bad)
	}
	for _, good := range []string{"sid", "sticky_shop-1.2", "!#$%&'*+-.^_`|~", "__Host-sid", "__secure-sid"} {
		require.NoError(t, set(&source.Cookie{Name: good}), good)
	}
}

// ours says which pairs the load balancer may have set, in other words than the
// source does.
var ours = regexp.MustCompile(`(?s)^sid=(s1\..*)$`)

// pairs splits a line.
func pairs(line string) []string {
	var all []string
	for pair := range strings.SplitSeq(line, ";") {
		all = append(all, strings.TrimSpace(pair))
	}
	return all
}

// What Strip leaves has no value of ours and all values of others, and says so
// without a change of the header that it got.
func FuzzStrip(f *testing.F) {
	const value = "sid=s1.JfBpZUYrbMGkDUzTMq3l3g"
	for _, seed := range [][2]string{
		{"", ""},
		{value, ""},
		{"a=1; " + value + "; b=2", value},
		{"sid=app; " + value, "sid=s1.short; other=s1.JfBpZUYrbMGkDUzTMq3l3g"},
		{value + ";" + value + ";;", " ;" + value + " ; c"},
		{"a=\"x;" + value + "\"", "SID=s1.JfBpZUYrbMGkDUzTMq3l3g"},
		{value + "A", value[:len(value)-1] + "h"},
		{value + "=", "=" + value},
		{"sid=sid=s1.JfBpZUYrbMGkDUzTMq3l3g", "sid =s1.JfBpZUYrbMGkDUzTMq3l3g"},
	} {
		f.Add(seed[0], seed[1])
	}
	src := &source.Cookie{Name: "sid"}
	f.Fuzz(func(t *testing.T, one, two string) {
		if !httpguts.ValidHeaderFieldValue(one) || !httpguts.ValidHeaderFieldValue(two) {
			t.Skip("no header has this")
		}
		header := http.Header{"Cookie": {one, two}, "X-Cookie": {one}, "Accept": {"a", "b"}}
		before := header.Clone()
		stripped := src.Strip(header)
		require.Equal(t, before, header, "the header itself is left alone")

		var values, want []string
		for _, line := range before["Cookie"] {
			var others []string
			has := false
			for _, pair := range pairs(line) {
				if m := ours.FindStringSubmatch(pair); m != nil {
					has = true
					values = append(values, m[1])
					continue
				}
				others = append(others, pair)
			}
			switch {
			case !has && line != "":
				want = append(want, line) // to the byte
			case has && strings.Join(others, "; ") != "":
				want = append(want, strings.Join(others, "; "))
			}
		}
		require.Equal(t, values, slices.Collect(src.Values(&http.Request{Header: header})))
		if values == nil {
			require.Equal(t, reflect.ValueOf(header).Pointer(), reflect.ValueOf(stripped).Pointer(), "nothing to take off, nothing to copy")
			return
		}
		require.Equal(t, want, stripped["Cookie"])
		require.Empty(t, slices.Collect(src.Values(&http.Request{Header: stripped})))
		for _, line := range stripped["Cookie"] {
			for _, pair := range pairs(line) {
				require.NotRegexp(t, ours, pair)
			}
		}
		delete(before, "Cookie")
		rest := stripped.Clone()
		delete(rest, "Cookie")
		require.Equal(t, before, rest, "other fields are left alone")
	})
}

func BenchmarkStripOfNothing(b *testing.B) {
	src := &source.Cookie{Name: "sticky_shop"}
	header := http.Header{"Cookie": {"theme=dark; JSESSIONID=2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"}}
	b.ReportAllocs()
	for b.Loop() {
		_ = src.Strip(header)
	}
}

func BenchmarkStrip(b *testing.B) {
	src := &source.Cookie{Name: "sticky_shop"}
	header := http.Header{"Cookie": {"theme=dark; sticky_shop=s1.JfBpZUYrbMGkDUzTMq3l3g; lang=en"}}
	b.ReportAllocs()
	for b.Loop() {
		_ = src.Strip(header)
	}
}
