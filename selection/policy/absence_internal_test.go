// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
)

// A session's first request does not look for its upstream, it is given it.
func TestUpstreamThatGetsASessionIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory.Store{Name: "absence", Persist: "off"}
		require.NoError(t, store.Provision(caddy.Context{}))
		require.NoError(t, store.Start())
		defer func() { require.NoError(t, store.Cleanup()) }()
		header := &source.Header{Name: "X-Session"}
		p := &Policy{
			terms:   selection.Terms{Scope: "lb/absence", TTL: 24 * time.Hour, Mode: selection.NoRotate, MaxErrors: 1, OnFull: selection.FullSpill},
			sources: []source.Source{header}, store: store, scope: new(selection.Scope), logger: zap.NewNop(),
			choices: selection.TwoChoices[*reverseproxy.Upstream](store, "lb/absence"),
		}
		there := func() reverseproxy.UpstreamPool {
			return reverseproxy.UpstreamPool{{Dial: "a:80", Host: new(reverseproxy.Host)}}
		}
		other := func() reverseproxy.UpstreamPool {
			return reverseproxy.UpstreamPool{{Dial: "b:80", Host: new(reverseproxy.Host)}}
		}
		request := func(session string, pool reverseproxy.UpstreamPool) string {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
			r.Header.Set("X-Session", session)
			if upstream := p.Select(pool, r, nil); upstream != nil {
				return upstream.Dial
			}
			return ""
		}
		require.Equal(t, "a:80", request("alice", there()))
		require.Empty(t, request("alice", other()), "down for a moment")
		require.Equal(t, "a:80", request("bob", there()), "back")
		time.Sleep(time.Hour)
		require.Empty(t, request("bob", other()), "down for a moment, and not gone for an hour")
		require.Equal(t, "a:80", request("bob", there()))
	})
}
