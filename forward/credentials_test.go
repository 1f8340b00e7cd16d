// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"

	"github.com/caddy-sticky/caddy-sticky/forward/accounts"
	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// E8: a session is of its account, and of the tags that are its identity.
func TestKeyOfASession(t *testing.T) {
	grammar, err := credential.Config{
		Template: "<account>[-s-<session>][-country-<country>][-asn-<asn>][-isp-<isp>]", Identity: []string{"asn"},
	}.Compile()
	require.NoError(t, err)
	h := &Handler{grammar: grammar, terms: selection.Terms{Scope: "proxy/default"}}
	keyOf := func(username string) sessionstore.Key {
		said, err := grammar.Read(username, "", "")
		require.NoError(t, err)
		return h.keyOf(said.Account, &said)
	}
	key := keyOf("alice-s-x-country-de-asn-1")
	for _, same := range []string{"alice-asn-1-country-de-s-x", "alice-s-x-country-DE-asn-1", "alice-s-x-country-de-asn-1-isp-telco"} {
		require.Equal(t, key, keyOf(same), same)
	}
	seen := map[sessionstore.Key]string{key: "itself"}
	for _, other := range []string{
		"bob-s-x-country-de-asn-1", "alice-s-y-country-de-asn-1", "alice-s-x-country-fr-asn-1", "alice-s-x-country-de-asn-2",
		"alice-s-x-country-de", "alice-s-x-asn-1", "alice-s-x", "alice-s-X", "alice-s-xcountryde",
	} {
		require.NotContains(t, seen, keyOf(other), other)
		seen[keyOf(other)] = other
	}
}

// BenchmarkCachedCredentials is what a client costs whose password is known.
func BenchmarkCachedCredentials(b *testing.B) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: b.Context()})
	defer cancel()
	grammar, err := credential.Config{}.Compile()
	require.NoError(b, err)
	limits, err := accounts.TakeLimits(b.Name())
	require.NoError(b, err)
	defer limits.Release()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(b, err)
	accounts, err := accounts.New(ctx, accounts.Config{
		Accounts: []accounts.Account{{Name: "alice", Password: string(hash)}}, Grammar: grammar, Limits: limits, Logger: zap.NewNop(),
	})
	require.NoError(b, err)
	defer accounts.Close()
	h := &Handler{grammar: grammar, accounts: accounts, limits: limits}
	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://example.com/", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header.Set("Proxy-Authorization", "Basic YWxpY2Utc2Vzc2lvbi1hYmMtc2Vzc2lvbnR0bC0zMDpzZWNyZXQ=")
	b.Run("read and verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			said, _ := h.grammar.Read("alice-session-abc-sessionttl-30", "secret", "")
			if acct, _ := h.verify(r, &said); acct == nil {
				b.Fatal("refused")
			}
		}
	})
	measure := func(b *testing.B) {
		b.Helper()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.client(r); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("quiet", measure)
	_, err = accounts.Verify(r, "bob", "wrong")
	require.NoError(b, err)
	b.Run("failures", measure)
}
