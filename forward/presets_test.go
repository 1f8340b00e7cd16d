// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
)

// attempt is what a client sends.
type attempt struct{ user, password string }

// presets are what clients of each dialect say: three that have a session, and
// what is refused. The account's name is U but where the dialect has it otherwise.
var presets = map[string]struct {
	account  string
	accepted [3]attempt
	refused  []attempt
}{
	"massive": {
		accepted: [3]attempt{{"U-session-abc", ""}, {"U-sessionttl-30-session-a-b", ""}, {"U?session=xyz&sessionmode=flex", ""}},
		refused:  []attempt{{"U-session-abc-sessionttl-241", ""}, {"U-session-", ""}, {"U-session-abc-sessionmode-often", ""}},
	},
	"brightdata": {
		account:  "brd-customer-C-zone-Z",
		accepted: [3]attempt{{"brd-customer-C-zone-Z-session-x1", ""}, {"brd-customer-C-zone-Z-session-x2-const", ""}, {"brd-customer-C-zone-Z-const-session-x3", ""}},
		refused:  []attempt{{"brd-customer-C-zone-Z-session-x_1", ""}, {"brd-customer-C-zone-Z-session-x-const-1", ""}},
	},
	"oxylabs": {
		accepted: [3]attempt{{"customer-U-sessid-x-sesstime-10", ""}, {"customer-U-sessid_oneip-y", ""}, {"customer-U-sesstime-1440-sessid-z", ""}},
		refused:  []attempt{{"U-sessid-x", ""}, {"customer-U-sessid-x-sesstime-1441", ""}, {"customer-U-sessid-x-sessid_oneip-y", ""}},
	},
	"decodo": {
		accepted: [3]attempt{{"user-U-session-x-sessionduration-90", ""}, {"user-U-session-a.b", ""}, {"user-U-sessionduration-1-session-y", ""}},
		refused:  []attempt{{"U-session-x", ""}, {"user-U-session-x-sessionduration-0", ""}, {"user-U-session-x-sessionduration-1441", ""}},
	},
	"iproyal": {
		accepted: [3]attempt{{"U", "_session-sgn34f3e_lifetime-10m"}, {"U", "_lifetime-7d_session-abcd1234"}, {"U", "_session-abcd5678_killswitch-1"}},
		refused:  []attempt{{"U", "_session-sgn34f3"}, {"U", "_session-sgn34f3e_lifetime-8d"}, {"U", "_session-sgn34f3e_lifetime-1h30m"}},
	},
	"evomi": {
		accepted: [3]attempt{{"U", "_session-abc123_lifetime-60"}, {"U", "_hardsession-abc1234"}, {"U", "_session-abc1234567"}},
		refused:  []attempt{{"U", "_session-abc12"}, {"U", "_session-abc123_lifetime-121"}, {"U", "_session-abc123_hardsession-abc123"}},
	},
	"geonode": {
		accepted: [3]attempt{{"U-session-x-lifetime-30", ""}, {"U-session-a_1", ""}, {"U-lifetime-3-session-" + strings.Repeat("x", 25), ""}},
		refused:  []attempt{{"U-session-" + strings.Repeat("x", 26), ""}, {"U-session-a.b", ""}, {"U-session-x-lifetime-2", ""}},
	},
	"soax": {
		accepted: [3]attempt{{"package-U-sessionid-x-sessionlength-3600-bindttl-1200-idlettl-900", ""}, {"package-U-sessionid-y", ""}, {"package-U-sessionlength-10-sessionid-z", ""}},
		refused:  []attempt{{"U-sessionid-x", ""}, {"package-U-sessionid-x-sessionlength-9", ""}, {"package-U-sessionid-x-bindttl-0", ""}},
	},
	"dataimpulse": {
		accepted: [3]attempt{{"U__sessid.x;sessttl.60", ""}, {"U__sessid.a.b", ""}, {"U__sessttl.120;sessid.y", ""}},
		refused:  []attempt{{"U__sessid.x;mood.good", ""}, {"U__sessid.x;sessttl.121", ""}, {"U__sessid.x;", ""}},
	},
	"okeyproxy": {
		accepted: [3]attempt{{"customer-U-session-x-time-17", ""}, {"customer-U-session-y-time-10080", ""}, {"customer-U-session-z", ""}},
		refused:  []attempt{{"customer-U-session-x-time-10081", ""}, {"customer-U-session-x-time-17m", ""}, {"U-session-x", ""}},
	},
	"illusory": {
		accepted: [3]attempt{{"U-session-x-sesstime-30", ""}, {"U-session-y-sesstime-0", ""}, {"U-session-z-sesstime-9999999", ""}},
		refused:  []attempt{{"U-session-x-sesstime--5", ""}, {"U-session-x-sesstime-", ""}, {"U-session-x-session-y", ""}},
	},
	"scrapeops": {
		accepted: [3]attempt{{"U.sticky_session=7", ""}, {"U.sticky_session=0", ""}, {"U.sticky_session=10000", ""}},
		refused:  []attempt{{"U.sticky_session=10001", ""}, {"U.sticky_session=abc", ""}, {"U.sticky_session=07", ""}},
	},
	"apify": {
		accepted: [3]attempt{{"session-x", ""}, {"session-a.b_c~1", ""}, {"session-" + strings.Repeat("x", 50), ""}},
		refused:  []attempt{{"U", ""}, {"session-" + strings.Repeat("x", 51), ""}, {"session-a+b", ""}},
	},
	"thordata": {
		accepted: [3]attempt{{"td-customer-U-sessid-x-sesstime-10", ""}, {"td-customer-U-sesstime-90-sessid-Y1", ""}, {"td-customer-U-sessid-z", ""}},
		refused:  []attempt{{"td-customer-U-sessid-x-sesstime-91", ""}, {"td-customer-U-sessid-x y", ""}, {"customer-U-sessid-x", ""}},
	},
}

// Each preset through a proxy: three logins that keep their exit, each its own
// session; without a session or with a wrong password there is none; and what the
// dialect does not know is refused with the reason, before anything is dialled.
func TestPresetsThroughAProxy(t *testing.T) {
	require.Len(t, presets, len(credential.Presets()))
	for _, name := range credential.Presets() {
		t.Run(name, func(t *testing.T) {
			preset, ok := presets[name]
			require.True(t, ok, "no examples")
			if preset.account == "" {
				preset.account = "U"
			}
			exits := make(map[string]*proxytest.Puppet)
			block := strings.Replace(proxytest.Alice, "alice", preset.account, 1) + proxytest.Loopback + "session_headers\ncredentials " + name + "\n"
			for _, from := range []string{"127.0.0.21", "127.0.0.22", "127.0.0.23"} {
				exits[from] = proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: from}, nil))
				block += "exit http://" + exits[from].Address + "\n"
			}
			w := proxytest.NewWorld(t, block)
			ask := func(l attempt, password string) proxytest.Reply {
				c := w.Dial()
				defer c.Close()
				c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + proxytest.Basic(l.user, password+l.password) + "\r\n\r\n")
				return c.Answer(http.MethodGet)
			}
			for _, l := range preset.accepted {
				first := ask(l, proxytest.AlicePassword)
				require.Equal(t, http.StatusOK, first.Status, "%s: %s", l.user, first.Body)
				for range 3 {
					again := ask(l, proxytest.AlicePassword)
					require.Equal(t, first.Body, again.Body, l.user)
					require.Equal(t, first.Header["X-Session-Expires"], again.Header["X-Session-Expires"], "%s: one session", l.user)
				}
				require.Equal(t, http.StatusProxyAuthRequired, ask(l, "wrong").Status, l.user)
			}
			require.Len(t, w.Logs.Lines("", proxytest.Fields{"outcome": "new"}), 3, "three sessions")
			before := int64(0)
			for _, exit := range exits {
				before += exit.Dials.Load()
			}
			for _, l := range preset.refused {
				res := ask(l, proxytest.AlicePassword)
				require.Equal(t, http.StatusBadRequest, res.Status, "%s: %s", l.user, res.Body)
				require.Equal(t, "http_request_error", res.Reason())
				require.NotEmpty(t, strings.TrimSpace(res.Body))
			}
			for _, exit := range exits {
				before -= exit.Dials.Load()
			}
			require.Zero(t, before, "what is refused goes nowhere")
		})
	}
}
