// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection/credential"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

func TestCredentialsNameTheSession(t *testing.T) {
	for _, test := range []struct {
		name, username, want string
		config               credential.Config
	}{
		{name: "the account", username: "alice", want: "alice"},
		{name: "the account's session", username: "alice-session-abc", want: "alice\x00abc"},
		{name: "a lifetime changes nothing", username: "alice-session-abc-sessionttl-30", want: "alice\x00abc"},
		{name: "what the grammar does not take", username: "alice-session-abc-session-def"},
		{name: "nobody", username: ""},
		{name: "too long", username: strings.Repeat("a", source.MaxID+1)},
		{name: "a template", username: "alice-cart-7", want: "alice\x007", config: credential.Config{Template: "<account>[-cart-<session>]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := &source.Credentials{Config: test.config}
			ready(t, src)
			r := request(nil)
			r.SetBasicAuth(test.username, "secret")
			require.Equal(t, test.want, src.SessionID(r))
			require.Empty(t, src.SessionID(request(nil)), "no credentials, no session")
			r = request(nil)
			r.Header.Set("Authorization", "Bearer abc")
			require.Empty(t, src.SessionID(r))
		})
	}
	require.ErrorContains(t, set(&source.Credentials{Config: credential.Config{Preset: "nobody"}}), `preset "nobody" is unknown`)
}
