// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
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

func TestWishAdmitsExitsThatHaveItsTags(t *testing.T) {
	exit := func(tags map[string]string) func(key, value string) bool {
		return func(key, value string) bool { return tags[key] == value || tags[key] == "*" }
	}
	germany, anywhere, untagged := exit(map[string]string{"country": "de", "city": "berlin"}), exit(map[string]string{"country": "*"}), exit(nil)
	for name, tt := range map[string]struct {
		wish                        wish
		germany, anywhere, untagged bool
	}{
		"nothing":           {wish{}, true, true, true},
		"country":           {wish{tags: []credential.Tag{{Key: "country", Value: "DE"}}}, true, true, false},
		"both":              {wish{tags: []credential.Tag{{Key: "city", Value: "berlin"}, {Key: "country", Value: "de"}}}, true, false, false},
		"another":           {wish{tags: []credential.Tag{{Key: "country", Value: "fr"}}}, false, true, false},
		"account":           {wish{allowed: map[string][]string{"country": {"fr", "de"}}}, true, true, false},
		"account's other":   {wish{allowed: map[string][]string{"country": {"fr"}}}, false, true, false},
		"account and asked": {wish{tags: []credential.Tag{{Key: "country", Value: "fr"}}, allowed: map[string][]string{"country": {"fr", "de"}}}, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, tt.wish.check())
			require.Equal(t, tt.germany, tt.wish.admits(germany))
			require.Equal(t, tt.anywhere, tt.wish.admits(anywhere))
			require.Equal(t, tt.untagged, tt.wish.admits(untagged))
		})
	}
	forbidden := wish{tags: []credential.Tag{{Key: "country", Value: "us"}}, allowed: map[string][]string{"country": {"fr"}}}
	require.Equal(t, http.StatusForbidden, proxystatus.Answer(forbidden.check()).Status)
}
