// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

func TestCookieHasItsAttributes(t *testing.T) {
	const day = caddy.Duration(24 * time.Hour)
	for _, test := range []struct {
		name       string
		src        source.Cookie
		plain, tls string // after name and value
	}{
		{"default", source.Cookie{}, "; Path=/; HttpOnly; SameSite=Lax", "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"domain", source.Cookie{Domain: "example.com"}, "; Path=/; Domain=example.com; HttpOnly; SameSite=Lax", "; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax"},
		{"domain with a dot", source.Cookie{Domain: ".example.com"}, "; Path=/; Domain=example.com; HttpOnly; SameSite=Lax", "; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax"},
		{"path", source.Cookie{Path: "/shop"}, "; Path=/shop; HttpOnly; SameSite=Lax", "; Path=/shop; HttpOnly; Secure; SameSite=Lax"},
		{"strict", source.Cookie{SameSite: "strict"}, "; Path=/; HttpOnly; SameSite=Strict", "; Path=/; HttpOnly; Secure; SameSite=Strict"},
		{"none", source.Cookie{SameSite: "none"}, "; Path=/; HttpOnly", "; Path=/; HttpOnly; Secure; SameSite=None"},
		{"none and on", source.Cookie{SameSite: "none", Secure: "on"}, "; Path=/; HttpOnly; Secure; SameSite=None", "; Path=/; HttpOnly; Secure; SameSite=None"},
		{"secure on", source.Cookie{Secure: "on"}, "; Path=/; HttpOnly; Secure; SameSite=Lax", "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"secure off", source.Cookie{Secure: "off"}, "; Path=/; HttpOnly; SameSite=Lax", "; Path=/; HttpOnly; SameSite=Lax"},
		{"http_only off", source.Cookie{HTTPOnly: "off"}, "; Path=/; SameSite=Lax", "; Path=/; Secure; SameSite=Lax"},
		{"partitioned", source.Cookie{Partitioned: true, SameSite: "none"}, "; Path=/; HttpOnly", "; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"},
		{"max_age", source.Cookie{MaxAge: day}, "; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax", "; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax"},
		{"max_age of a second and a half", source.Cookie{MaxAge: 1_500_000_000, Secure: "off"}, "; Path=/; Max-Age=1; HttpOnly; SameSite=Lax", "; Path=/; Max-Age=1; HttpOnly; SameSite=Lax"},
		{"__Host-", source.Cookie{Name: "__Host-sid"}, "; Path=/; HttpOnly; Secure; SameSite=Lax", "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"__secure-", source.Cookie{Name: "__secure-sid", Path: "/shop"}, "; Path=/shop; HttpOnly; Secure; SameSite=Lax", "; Path=/shop; HttpOnly; Secure; SameSite=Lax"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.src.Name == "" {
				test.src.Name = "sid"
			}
			src := ready(t, &test.src)
			plain, encrypted := request(nil), request(nil)
			encrypted.TLS = new(tls.ConnectionState)
			for r, want := range map[*http.Request]string{plain: test.plain, encrypted: test.tls} {
				cookie := src.Cookie(r, "s1.value")
				require.NoError(t, cookie.Valid())
				require.Equal(t, src.Name+"=s1.value"+want, cookie.String())
			}
		})
	}
}

func TestAttributesThatNoBrowserTakesAreRefused(t *testing.T) {
	for _, bad := range []source.Cookie{
		{SameSite: "Lax"}, {SameSite: "no"}, {Secure: "yes"}, {HTTPOnly: "true"}, {HTTPOnly: "auto"},
		{SameSite: "none", Secure: "off"}, {Partitioned: true, Secure: "off"},
		{MaxAge: -1}, {MaxAge: 1}, {MaxAge: caddy.Duration(-time.Hour)},
		{Path: "shop"}, {Path: "/a;b"}, {Path: "/a\n"}, {Path: "/ä"},
		{Domain: "192.0.2.1"}, {Domain: "2001:db8::1"}, {Domain: "[2001:db8::1]"}, {Domain: "example.com:443"},
		{Domain: "a b"}, {Domain: "https://example.com"}, {Domain: "-"}, {Domain: "größe.de"}, {Domain: "*.example.com"},
		{Name: "__Host-sid", Domain: "example.com"}, {Name: "__Host-sid", Path: "/shop"}, {Name: "__HOST-sid", Secure: "off"},
		{Name: "__Secure-sid", Secure: "off"}, {Name: "__Http-sid", HTTPOnly: "off"}, {Name: "__Http-sid", Secure: "off"},
		{Name: "__Host-Http-sid", HTTPOnly: "off"}, {Name: "__Host-Http-sid", Domain: "example.com"},
	} {
		require.ErrorContains(t, set(&bad), "source cookie: ", "%+v", bad)
	}
	for _, good := range []source.Cookie{
		{Name: "__Host-sid", HTTPOnly: "off"}, {Name: "__Secure-sid", Domain: "example.com", Path: "/shop"},
		{Name: "__Http-sid", Domain: "example.com"}, {Name: "__Host-Http-sid", Partitioned: true},
		{Domain: "localhost"}, {Domain: ".example.com"}, {Path: "/shop/%20"},
	} {
		require.NoError(t, set(&good), "%+v", good)
	}
}

func TestTwinsAreThoseOfThisHost(t *testing.T) {
	for _, test := range []struct {
		name string
		src  source.Cookie
		want []string
	}{
		{"default", source.Cookie{}, nil},
		{"max_age alone", source.Cookie{MaxAge: caddy.Duration(time.Hour), SameSite: "strict"}, nil},
		{"domain", source.Cookie{Domain: "example.com"}, []string{"; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"}},
		{"path", source.Cookie{Path: "/shop"}, []string{"; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"}},
		{"both", source.Cookie{Domain: "example.com", Path: "/shop"}, []string{"; Path=/shop; Max-Age=0; HttpOnly; SameSite=Lax", "; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"}},
		{"partitioned", source.Cookie{Partitioned: true, Secure: "on"}, []string{"; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.src.Name = "sid"
			src := ready(t, &test.src)
			r := request(nil)
			r.Header.Add("Cookie", "theme=dark; sid=s1.one; sid=s1.two")
			var got []string
			for _, twin := range src.Twins(r) {
				require.NoError(t, twin.Valid())
				require.NotEqual(t, src.Cookie(r, "").String(), twin.String())
				got = append(got, twin.String())
			}
			var want []string
			for _, attributes := range test.want {
				want = append(want, "sid="+attributes)
			}
			require.Equal(t, want, got)

			r.Header.Add("Cookie", "sid=application")
			require.Empty(t, src.Twins(r), "it may be the application's")
		})
	}
}
