// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

func TestSessionHeadersTellExitAndExpiry(t *testing.T) {
	origin := proxytest.OriginOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Exit", "forged")
		w.Header().Set("X-Session-Expires", "never")
	})
	exit := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{}, nil)).Address
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + "session_headers\nexit http://me:p4ss@" + exit})
	opened := w.Connect("alice-session-abc-sessionttl-5", origin)
	require.Equal(t, http.StatusOK, opened.Status)
	for _, header := range []http.Header{opened.Header, w.Forwarded("alice-session-abc-sessionttl-5").Header} {
		require.Equal(t, []string{"http://me@" + exit}, header["X-Exit"], "without the password")
		require.Len(t, header["X-Session-Expires"], 1)
		expires, err := time.Parse(time.RFC3339, header.Get("X-Session-Expires"))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(5*time.Minute), expires, proxytest.Guard)
	}
	for _, header := range []http.Header{w.Connect("alice", origin).Header, w.Forwarded("alice").Header} {
		require.Equal(t, []string{"http://me@" + exit}, header["X-Exit"])
		require.NotContains(t, header, "X-Session-Expires", "there is no session")
	}
}

func TestSessionHeadersAreOffByDefault(t *testing.T) {
	origin := proxytest.OriginOf(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Exit", "the origin's own") })
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + proxytest.OneExit})
	require.NotContains(t, w.Connect("alice-session-abc", origin).Header, "X-Exit")
	require.Equal(t, "the origin's own", w.Forwarded("alice-session-abc").Header.Get("X-Exit"))
}

func TestSessionHeadersOverStreams(t *testing.T) {
	overStreams(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback + "session_headers"}, func(w *proxytest.World, client http.RoundTripper) {
		header := openStream(w, client, "alice-session-abc", w.Origin).res.Header
		require.Equal(w.T, "direct://127.0.0.11", header.Get("X-Exit"))
		require.NotEmpty(w.T, header.Get("X-Session-Expires"))
	})
}

// What the proxy decides is counted as what the load balancer does.
func TestDecisionsAreCounted(t *testing.T) {
	decisions := func() map[string]float64 {
		ctx := caddy.ActiveContext()
		families, err := ctx.GetMetricsRegistry().Gather()
		require.NoError(t, err)
		found := make(map[string]float64)
		for _, family := range families {
			if family.GetName() != "caddy_sticky_decisions_total" {
				continue
			}
			for _, m := range family.GetMetric() {
				var labels []string
				for _, label := range m.GetLabel() {
					labels = append(labels, label.GetValue())
				}
				found[strings.Join(labels, " ")] = m.GetCounter().GetValue()
			}
		}
		return found
	}
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	before := decisions()
	for range 3 {
		w.Exit("alice-session-abc")
		w.Forwarded("alice")
	}
	got := decisions()
	for labels, want := range map[string]float64{
		"proxy default new ": 1, "proxy default kept ": 2, "proxy default none ": 3,
	} {
		require.InDelta(t, want, got[labels]-before[labels], 0, labels)
	}
}
