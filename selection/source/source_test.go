// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// request returns a request as Caddy's server hands it on, with its variables.
func request(vars map[string]any) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://shop.example.com/cart?user=alice&empty=", nil)
	repl := caddy.NewReplacer()
	if vars == nil {
		vars = make(map[string]any)
	}
	ctx := context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars)
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, repl)
	r = r.WithContext(ctx)
	repl.Map(func(name string) (any, bool) {
		if name == "http.request.uri.query.user" {
			return r.URL.Query().Get("user"), true
		}
		return nil, false
	})
	return r
}

// ready provisions and validates a source as Caddy does.
func ready[S source.Source](t *testing.T, src S) S {
	t.Helper()
	require.NoError(t, set(src))
	return src
}

func set(src source.Source) error {
	if p, ok := src.(caddy.Provisioner); ok {
		if err := p.Provision(caddy.Context{}); err != nil {
			return err
		}
	}
	if v, ok := src.(caddy.Validator); ok {
		return v.Validate()
	}
	return nil
}

func TestClientIsAnAddressPrefix(t *testing.T) {
	for _, test := range []struct {
		name     string
		v4, v6   int
		one, two string
		same     bool
	}{
		{"one IPv4 address", 0, 0, "192.0.2.1", "192.0.2.1", true},
		{"two IPv4 addresses", 0, 0, "192.0.2.1", "192.0.2.2", false},
		{"IPv4 in one /24", 24, 0, "192.0.2.1", "192.0.2.254", true},
		{"IPv4 in two /24", 24, 0, "192.0.2.1", "192.0.3.1", false},
		{"IPv4 in one /1", 1, 0, "1.2.3.4", "127.255.255.255", true},
		{"IPv4 in two /1", 1, 0, "1.2.3.4", "128.0.0.0", false},
		{"IPv6 in one /64", 0, 0, "2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true},
		{"IPv6 in two /64", 0, 0, "2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"IPv6 in one /56", 0, 56, "2001:db8:0:1::1", "2001:db8:0:ff::1", true},
		{"two IPv6 addresses", 0, 128, "2001:db8::1", "2001:db8::2", false},
		{"IPv4 in IPv6", 0, 0, "192.0.2.1", "::ffff:192.0.2.1", true},
		{"IPv4 in IPv6 is no IPv6", 0, 1, "::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"zones", 0, 0, "fe80::1%eth0", "fe80::1%eth1", true},
		{"with and without a port", 0, 0, "192.0.2.1:1234", "192.0.2.1", true},
		{"IPv6 with and without a port", 0, 0, "[2001:db8::1]:1234", "2001:db8::1", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := ready(t, &source.ClientIP{V4Prefix: test.v4, V6Prefix: test.v6})
			id := func(address string) string {
				got := src.SessionID(request(map[string]any{caddyhttp.ClientIPVarKey: address}))
				require.NotEmpty(t, got)
				bare := request(nil)
				bare.RemoteAddr = address
				require.Equal(t, got, src.SessionID(bare), "without Caddy's variable, the peer is the client")
				return got
			}
			require.Equal(t, test.same, id(test.one) == id(test.two), "%s and %s", id(test.one), id(test.two))
		})
	}
}

func TestClientIsWhoTheTrustedProxyTells(t *testing.T) {
	src := ready(t, new(source.ClientIP))
	r := request(map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.1"})
	r.RemoteAddr = "10.0.0.1:1234"
	require.Equal(t, "192.0.2.1/32", src.SessionID(r))
}

func TestClientOnAUnixSocketHasNoAddress(t *testing.T) {
	src := ready(t, new(source.ClientIP))
	for _, address := range []string{"@", "", "/run/caddy.sock", "localhost:80"} {
		r := request(map[string]any{caddyhttp.ClientIPVarKey: address})
		r.RemoteAddr = "@"
		require.Empty(t, src.SessionID(r), address)
	}
}

func TestClientPrefixIsWithinAnAddress(t *testing.T) {
	for _, bad := range []*source.ClientIP{{V4Prefix: 33}, {V4Prefix: -1}, {V6Prefix: 129}, {V6Prefix: -1}} {
		require.ErrorContains(t, set(bad), "is not within 1 to")
	}
	for _, good := range []*source.ClientIP{{}, {V4Prefix: 1, V6Prefix: 1}, {V4Prefix: 32, V6Prefix: 128}} {
		require.NoError(t, set(good))
	}
}

func TestHeaderFieldNamesTheSession(t *testing.T) {
	src := ready(t, &source.Header{Name: "x-session-ID"})
	r := request(nil)
	require.Empty(t, src.SessionID(r))
	r.Header.Add("X-Session-Id", "first")
	r.Header.Add("X-Session-Id", "second")
	require.Equal(t, "first", src.SessionID(r))
	require.Equal(t, "header X-Session-Id", src.Label())
	require.Equal(t, "shop.example.com", ready(t, &source.Header{Name: "host"}).SessionID(r))
	for _, bad := range []string{"", "a b", "X-Session:"} {
		require.Error(t, set(&source.Header{Name: bad}), bad)
	}
}

func TestPlaceholdersNameTheSession(t *testing.T) {
	r := request(nil)
	for key, want := range map[string]string{
		"{http.request.uri.query.user}":        "alice",
		"user-{http.request.uri.query.user}":   "user-alice",
		"{http.request.uri.query.nobody}":      "",
		"{http.unknown}":                       "",
		"{http.request.uri.query.user}{http.}": "alice",
	} {
		require.Equal(t, want, ready(t, &source.Key{Key: key}).SessionID(r), key)
	}
	require.Empty(t, ready(t, &source.Key{Key: "{http.request.host}"}).SessionID(httptest.NewRequest(http.MethodGet, "/", nil)))
	for _, bad := range []string{"", "constant", "}{", "{"} {
		require.Error(t, set(&source.Key{Key: bad}), "all clients would share a session")
	}
}

func TestSourcesReadTheirLines(t *testing.T) {
	for _, test := range []struct {
		line string
		into interface {
			source.Source
			caddyfile.Unmarshaler
		}
		want source.Source // nil: refused
	}{
		{"cookie", new(source.Cookie), &source.Cookie{}},
		{"cookie sid", new(source.Cookie), &source.Cookie{Name: "sid"}},
		{"cookie sid extra", new(source.Cookie), nil},
		{"cookie {\n same_site none\n secure\n http_only\n partitioned\n}", new(source.Cookie), &source.Cookie{SameSite: "none", Secure: "on", HTTPOnly: "on", Partitioned: true}},
		{"cookie {\n secure auto\n http_only off\n domain example.com\n path /shop\n}", new(source.Cookie), &source.Cookie{Secure: "auto", HTTPOnly: "off", Domain: "example.com", Path: "/shop"}},
		{"cookie {\n max_age 1h\n}", new(source.Cookie), &source.Cookie{MaxAge: caddy.Duration(time.Hour)}},
		{"cookie {\n max_age 0\n}", new(source.Cookie), nil},
		{"cookie {\n secure on off\n}", new(source.Cookie), nil},
		{"cookie {\n secure \"\"\n}", new(source.Cookie), nil},
		{"cookie {\n partitioned on\n}", new(source.Cookie), nil},
		{"cookie {\n from_cookie_policy lb\n}", new(source.Cookie), &source.Cookie{FromCookiePolicy: &source.CookiePolicy{Name: "lb"}}},
		{"cookie {\n from_cookie_policy lb secret\n}", new(source.Cookie), &source.Cookie{FromCookiePolicy: &source.CookiePolicy{Name: "lb", Secret: "secret"}}},
		{"cookie {\n from_cookie_policy\n}", new(source.Cookie), nil},
		{"cookie {\n from_cookie_policy lb secret more\n}", new(source.Cookie), nil},
		{"query user", new(source.Query), &source.Query{Name: "user"}},
		{"query", new(source.Query), nil},
		{"query user id", new(source.Query), nil},
		{"jwt sub", new(source.JWT), &source.JWT{Claim: "sub"}},
		{"jwt sub header X-Token", new(source.JWT), &source.JWT{Claim: "sub", Header: "X-Token"}},
		{"jwt sub cookie token", new(source.JWT), &source.JWT{Claim: "sub", Cookie: "token"}},
		{"jwt", new(source.JWT), nil},
		{"jwt \"\"", new(source.JWT), nil},
		{"jwt sub header", new(source.JWT), nil},
		{"jwt sub token", new(source.JWT), nil},
		{"jwt sub query token", new(source.JWT), nil},
		{"jwt sub header X-Token cookie token", new(source.JWT), nil},
		{"jwt sub {\n cookie token\n}", new(source.JWT), nil},
		{"header X-Session", new(source.Header), &source.Header{Name: "X-Session"}},
		{"header", new(source.Header), nil},
		{"header X-Session extra", new(source.Header), nil},
		{"client_ip", new(source.ClientIP), &source.ClientIP{}},
		{"client_ip 24", new(source.ClientIP), &source.ClientIP{V4Prefix: 24}},
		{"client_ip 24 56", new(source.ClientIP), &source.ClientIP{V4Prefix: 24, V6Prefix: 56}},
		{"client_ip 24 56 8", new(source.ClientIP), nil},
		{"client_ip 0", new(source.ClientIP), nil},
		{"client_ip 24 0", new(source.ClientIP), nil},
		{"client_ip -1", new(source.ClientIP), nil},
		{"client_ip /24", new(source.ClientIP), nil},
		{"key {http.request.host}", new(source.Key), &source.Key{Key: "{http.request.host}"}},
		{"key", new(source.Key), nil},
		{"key a b", new(source.Key), nil},
	} {
		err := test.into.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.line))
		if test.want == nil {
			require.Error(t, err, test.line)
			continue
		}
		require.NoError(t, err, test.line)
		require.Equal(t, test.want, test.into, test.line)
	}
}

func TestLabelsTellSourcesApart(t *testing.T) {
	seen := make(map[string]bool)
	for _, src := range []source.Source{
		&source.Cookie{Name: "X"}, &source.Cookie{Name: "Y"}, &source.Header{Name: "X"}, &source.Header{Name: "Y"},
		&source.Query{Name: "X"}, &source.Query{Name: "Y"},
		&source.JWT{Claim: "X", Header: "X"}, &source.JWT{Claim: "X", Header: "Y"},
		&source.JWT{Claim: "X", Cookie: "X"}, &source.JWT{Claim: "Y", Header: "X"},
		&source.Key{Key: "X"}, &source.Key{Key: "Y"}, new(source.ClientIP),
	} {
		require.False(t, seen[src.Label()], src.Label())
		seen[src.Label()] = true
	}
}
