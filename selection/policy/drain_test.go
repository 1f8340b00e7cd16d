// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection"
)

// operatorDrains lets an application drain as an operator does.
func operatorDrains(t *testing.T, policy string, a *app) (undo func()) {
	t.Helper()
	scope := selection.OpenScope("lb/" + policy)
	t.Cleanup(func() { require.NoError(t, selection.CloseScope("lb/"+policy)) })
	scope.Drains.Set("unix/" + a.socket)
	return func() { scope.Drains.Unset("unix/" + a.socket) }
}

func TestDrainingUpstreamKeepsItsSessionsAndGetsNoNewOnes(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	storage := t.TempDir()
	load := func(options string) *site {
		return run(t, "", fmt.Sprintf("reverse_proxy %s {\nlb_policy sticky shop {\nfallback round_robin\n%s\n}\n}", upstreams(apps...), options), storage)
	}
	s := load("")
	visitors := make(map[*visitor]string)
	for range 9 {
		v := s.visitor()
		visitors[v] = v.reach()
	}
	cookies := make(map[string]string)
	for v, name := range visitors {
		cookies["Cookie: sticky_shop="+v.cookie("sticky_shop")] = name
	}
	s = load("drain unix/" + apps[0].socket)
	for line, name := range cookies {
		got := s.visitor().get(line)
		require.Equal(t, name, got.body, "a session that lives stays")
		require.Equal(t, "kept ", got.outcome())
	}
	for range 12 {
		require.NotEqual(t, "a", s.visitor().reach())
	}

	undo := operatorDrains(t, "shop", apps[1])
	for range 6 {
		require.Equal(t, "c", s.visitor().reach())
	}
	for line, name := range cookies {
		require.Equal(t, name, s.visitor().reach(line))
	}
	s = load("drain unix/" + apps[2].socket) // the operator's wish outlives the configuration
	for range 6 {
		require.Equal(t, "a", s.visitor().reach())
	}
	undo()
	seen := make(map[string]int)
	for range 12 {
		seen[s.visitor().reach()]++
	}
	require.Len(t, seen, 2)
}

func TestNewSessionsAreServedWhenAllUpstreamsDrain(t *testing.T) {
	apps := newApps(t, "a", "b")
	s := balance(t, apps, "lb_policy sticky shop {\ndrain"+upstreams(apps...)+"\n}\nlb_retries 2")
	v := s.visitor()
	first := v.reach()
	v.stays(first)
	s.apps[first].stop()
	moved := v.get()
	require.Equal(t, http.StatusOK, moved.status)
	require.NotEqual(t, first, moved.body)
	s.apps[first].start()
}

func TestFailedUpstreamsAreWorseThanDrainingOnes(t *testing.T) {
	apps := newApps(t, "a", "b")
	s := balance(t, apps, "lb_policy sticky shop {\ndrain unix/"+apps[1].socket+"\n}\nlb_retries 2")
	apps[0].stop()
	require.Equal(t, "b", s.visitor().reach())
}

func TestUpstreamTakesOnlySoManySessions(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky limited {\nmax_sessions 2\n}\nlb_retries 2")
	visitors := make(map[*visitor]string)
	seen := make(map[string]int)
	for range 6 {
		v := s.visitor()
		visitors[v] = v.reach()
		seen[visitors[v]]++
	}
	require.Equal(t, map[string]int{"a": 2, "b": 2, "c": 2}, seen)
	late := s.visitor().get()
	require.Equal(t, http.StatusServiceUnavailable, late.status)
	require.Empty(t, late.cookies())
	for v, name := range visitors {
		v.stays(name)
	}
	require.Equal(t, http.StatusServiceUnavailable, s.visitor().get().status)
	endAll(t)
	require.Equal(t, http.StatusOK, s.visitor().get().status)
}

func TestOnlyUpstreamsThatAreThereCanDrain(t *testing.T) {
	apps := newApps(t, "a")
	require.ErrorContains(t, load(t, "reverse_proxy "+upstreams(apps...)+" {\nlb_policy sticky shop {\ndrain app9:8080\n}\n}"),
		`policy "shop": drain: app9:8080 is not among the upstreams (have unix/`)
	require.NoError(t, load(t, "reverse_proxy http://app1:8001-8003 http://app2 {\nlb_policy sticky shop {\ndrain http://app1:8002-8003\ndrain http://app2\n}\n}"))
	require.NoError(t, caddy.Stop())
}
