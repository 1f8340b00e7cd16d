// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
)

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
