// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

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
		wish                        Wish
		germany, anywhere, untagged bool
	}{
		"nothing":           {Wish{}, true, true, true},
		"country":           {Wish{Tags: []credential.Tag{{Key: "country", Value: "DE"}}}, true, true, false},
		"both":              {Wish{Tags: []credential.Tag{{Key: "city", Value: "berlin"}, {Key: "country", Value: "de"}}}, true, false, false},
		"another":           {Wish{Tags: []credential.Tag{{Key: "country", Value: "fr"}}}, false, true, false},
		"account":           {Wish{Allowed: map[string][]string{"country": {"fr", "de"}}}, true, true, false},
		"account's other":   {Wish{Allowed: map[string][]string{"country": {"fr"}}}, false, true, false},
		"account and asked": {Wish{Tags: []credential.Tag{{Key: "country", Value: "fr"}}, Allowed: map[string][]string{"country": {"fr", "de"}}}, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, tt.wish.Check())
			require.Equal(t, tt.germany, tt.wish.Admits(germany))
			require.Equal(t, tt.anywhere, tt.wish.Admits(anywhere))
			require.Equal(t, tt.untagged, tt.wish.Admits(untagged))
		})
	}
	forbidden := Wish{Tags: []credential.Tag{{Key: "country", Value: "us"}}, Allowed: map[string][]string{"country": {"fr"}}}
	require.Equal(t, http.StatusForbidden, proxystatus.Answer(forbidden.Check()).Status)
}
