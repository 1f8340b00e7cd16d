// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// sessions is the default store of the Caddy that runs.
func sessions(t *testing.T) sessionstore.Store {
	t.Helper()
	module, err := caddy.ActiveContext().App("sticky")
	require.NoError(t, err)
	store, err := module.(interface {
		Store(name string) (sessionstore.Store, error)
	}).Store("default")
	require.NoError(t, err)
	return store
}

func stored(t *testing.T) int {
	t.Helper()
	n, err := sessions(t).Len(t.Context())
	require.NoError(t, err)
	return n
}

// endAll ends all sessions, as an operator does.
func endAll(t *testing.T) {
	t.Helper()
	for s, err := range sessions(t).All(t.Context()) {
		require.NoError(t, err)
		require.NoError(t, sessions(t).End(t.Context(), s.Key, time.Time{}))
	}
}

func TestFirstContactCostsNoTableEntry(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop")
	before := stored(t)
	var v *visitor
	for range 50 {
		v = s.visitor()
		v.reach()
	}
	require.Equal(t, before, stored(t))
	v.reach()
	require.Equal(t, before+1, stored(t), "it came back")
	v.reach()
	require.Equal(t, before+1, stored(t))
}

func TestNewcomersAreSpreadThoughTheTableIsEmpty(t *testing.T) {
	const apps, visitors = 10, 1000
	names := make([]string, apps)
	for i := range names {
		names[i] = fmt.Sprint("app", i)
	}
	s := balance(t, newApps(t, names...), "lb_policy sticky spread")
	seen := make(map[string]int)
	for range visitors {
		seen[s.visitor().reach()]++
	}
	for name, n := range seen {
		require.LessOrEqual(t, n, visitors/apps*13/10, name)
	}
}

func TestCookieThatIsNotValidCountsAsAbsent(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	s := run(t, "", fmt.Sprintf("reverse_proxy /other %[1]s {\nlb_policy sticky other\n}\nreverse_proxy %[1]s {\nlb_policy sticky shop\n}", upstreams(apps...)))
	v := s.visitor()
	v.reach()
	good := v.cookie("sticky_shop")
	stranger := s.visitor()
	_, err := stranger.send(http.MethodGet, "/other", nil)
	require.NoError(t, err)
	foreign := stranger.cookie("sticky_other")
	require.NotEmpty(t, foreign)
	forged := []byte(good)
	forged[20]++

	for name, value := range map[string]string{
		"garbage":          "s1.%%%",
		"truncated":        good[:50],
		"oversized":        "s1." + strings.Repeat("A", 8000),
		"forged":           string(forged),
		"another policy's": foreign,
		"without the rest": "s1.",
	} {
		t.Run(name, func(t *testing.T) {
			got := s.visitor().get("Cookie: theme=dark; sticky_shop=" + value)
			require.Equal(t, http.StatusOK, got.status)
			require.Equal(t, "new invalid", got.outcome())
			require.Len(t, got.cookies(), 1, "it is overwritten")
			for _, a := range apps {
				if a.name == got.body {
					require.Equal(t, []string{"theme=dark"}, a.last()["Cookie"])
				}
			}
			kept := s.visitor().get("Cookie: sticky_shop="+value, "Cookie: sticky_shop="+good)
			require.Equal(t, "kept ", kept.outcome(), "a valid one beside it counts")
		})
	}
}

func TestNewestOfSeveralCookiesWins(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop {\nfallback round_robin\n}")
	older, newer := s.visitor(), s.visitor()
	require.NotEqual(t, older.reach(), newer.reach())
	one, two := "sticky_shop="+older.cookie("sticky_shop"), "sticky_shop="+newer.cookie("sticky_shop")
	name := newer.reach()
	for _, lines := range [][]string{
		{"Cookie: " + one + "; " + two}, {"Cookie: " + two + "; " + one}, {"Cookie: " + one, "Cookie: " + two},
	} {
		got := s.visitor().get(lines...)
		require.Equal(t, name, got.body)
		require.Empty(t, got.cookies())
	}
}

func TestHundredCookiesAreNotAllChecked(t *testing.T) {
	s := balance(t, newApps(t, "a", "b"), "lb_policy sticky shop")
	v := s.visitor()
	v.reach()
	good := "sticky_shop=" + v.cookie("sticky_shop")
	flood := strings.Repeat(good[:len(good)-1]+"-; ", 100)
	got := s.visitor().get("Cookie: " + flood + good)
	require.Equal(t, http.StatusOK, got.status, got.body)
	require.Equal(t, "new invalid", got.outcome())
	require.Equal(t, "kept ", s.visitor().get("Cookie: "+good+"; "+flood).outcome())
}

func TestOldCookieBringsBackNeitherAMovedNorAnEndedSession(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	s := balance(t, apps, "lb_policy sticky shop\nlb_retries 2")
	v := s.visitor()
	first := v.reach()
	old := "Cookie: sticky_shop=" + v.cookie("sticky_shop")
	s.apps[first].stop()
	moved := v.get()
	require.Equal(t, "moved errors", moved.outcome())
	s.apps[first].start()
	replayed := s.visitor().get(old)
	require.Equal(t, moved.body, replayed.body)
	require.Len(t, replayed.cookies(), 1, "who has the old one gets the new one")

	endAll(t)
	current := "Cookie: sticky_shop=" + v.cookie("sticky_shop")
	again := v.get()
	require.Equal(t, "new ", again.outcome())
	require.Len(t, again.cookies(), 1)
	v.stays(again.body)
	for _, line := range []string{old, current} {
		replayed = s.visitor().get(line)
		require.Equal(t, "kept ", replayed.outcome())
		require.Equal(t, again.body, replayed.body)
	}
}

func TestCookieSessionsGoOnWhenTheStoreIsFull(t *testing.T) {
	const options = "sticky {\nstore memory {\nname tiny\nmax_sessions 1\npersist off\n}\n}"
	apps := newApps(t, "a", "b", "c")
	s := run(t, options, fmt.Sprintf("reverse_proxy %s {\nlb_policy sticky shop {\nstore tiny\nfallback round_robin\n}\nlb_retries 2\n}", upstreams(apps...)))
	var visitors []*visitor
	var names []string
	for range 6 {
		v := s.visitor()
		visitors, names = append(visitors, v), append(names, v.reach())
	}
	for i, v := range visitors {
		v.stays(names[i])
	}
	apps[0].stop()
	for i, v := range visitors {
		got := v.get()
		require.Equal(t, http.StatusOK, got.status)
		if names[i] != "a" {
			require.Equal(t, names[i], got.body)
			continue
		}
		require.Equal(t, "moved errors", got.outcome())
		require.Len(t, got.cookies(), 1)
		v.stays(got.body)
	}
}

func TestRenewedCookieIsCountedOnceWhenTheStoreIsFull(t *testing.T) {
	const options = "sticky {\nstore memory {\nname packed\nmax_sessions 1\npersist off\n}\n}"
	a := newApps(t, "a")[0]
	s := run(t, options, fmt.Sprintf("reverse_proxy %s {\nlb_policy sticky shop {\nstore packed\nttl 1h\nmax_idle 400ms\nmax_sessions 10\n}\n}", upstreams(a)))
	occupant, v := s.visitor(), s.visitor()
	occupant.reach()
	occupant.reach()
	v.reach()
	renewed := 0
	for begun := time.Now(); time.Since(begun) < 3*time.Second && renewed < 12; {
		got := v.get()
		require.Equal(t, "kept ", got.outcome())
		renewed += len(got.cookies())
		require.Equal(t, "kept ", occupant.get().outcome())
	}
	require.Equal(t, 12, renewed)
	require.Equal(t, "new ", s.visitor().get().outcome(), "there are two sessions, not 14")
}

func TestSessionEndsWhenNobodyUsesIt(t *testing.T) {
	s := balance(t, newApps(t, "a", "b"), "lb_policy sticky shop {\nttl 1h\nmax_idle 2s\n}")
	v := s.visitor()
	begun := time.Now()
	first := v.reach()
	renewed := 0
	for time.Since(begun) < 3*time.Second {
		got := v.get()
		require.Equal(t, first, got.body, "it is used all the time")
		renewed += len(got.cookies())
	}
	require.GreaterOrEqual(t, renewed, 2, "the cookie says so now and then")
	require.LessOrEqual(t, renewed, 8)

	<-time.After(2100 * time.Millisecond)
	got := v.get()
	require.Equal(t, "new idle", got.outcome())
	require.NotEqual(t, first, got.body)
	require.Len(t, got.cookies(), 1)
}

func TestReloadKeepsCookiesReadable(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	storage := t.TempDir()
	config := func(options string) *site {
		return run(t, "", "reverse_proxy"+upstreams(apps...)+" {\nlb_policy sticky shop {\n"+options+"\n}\n}", storage)
	}
	s := config("ttl 30m")
	visitors := make(map[*visitor]string)
	for range 20 {
		v := s.visitor()
		visitors[v] = v.reach()
	}
	again := config("ttl 40m")
	for v, name := range visitors {
		cookie := "Cookie: sticky_shop=" + v.cookie("sticky_shop")
		require.Equal(t, name, again.visitor().reach(cookie))
	}
	// All of Caddy is stopped: what was in memory is gone, the cookies are not.
	require.NoError(t, caddy.Stop())
	again = config("ttl 30m")
	for v, name := range visitors {
		cookie := "Cookie: sticky_shop=" + v.cookie("sticky_shop")
		require.Equal(t, name, again.visitor().reach(cookie))
	}
}

func TestErrorsOfSessionsThatNoStoreHoldsAreCounted(t *testing.T) {
	const options = "sticky {\nstore memory {\nname crammed\nmax_sessions 1\npersist off\n}\n}"
	for mode, failing := range map[string]int{"strict": 1, "flex": 3} {
		t.Run(mode, func(t *testing.T) {
			apps := newApps(t, "a", "b", "c")
			s := run(t, options, fmt.Sprintf(
				"reverse_proxy %s {\nlb_policy sticky crammed_%s {\nstore crammed\nmode %[2]s\nmax_errors 3\nfallback round_robin\n}\n}", upstreams(apps...), mode))
			named := make(map[string]*app)
			for _, a := range apps {
				named[a.name] = a
			}
			fills := s.visitor()
			fills.reach()
			fills.reach() // only now is it in the table

			v, other := s.visitor(), s.visitor()
			name := v.reach()
			for other.reach() != name {
				other = s.visitor()
			}
			v.stays(name)
			fail := func(v *visitor, n int) {
				named[name].stop()
				for range n {
					got := v.get()
					require.Equal(t, http.StatusBadGateway, got.status)
					require.Empty(t, got.cookies())
				}
			}
			fail(v, failing)
			got := v.get()
			require.Equal(t, http.StatusOK, got.status)
			require.Equal(t, "moved errors", got.outcome())
			require.Len(t, got.cookies(), 1)
			v.stays(got.body)

			if mode == "flex" {
				for range 2 { // an answer sets the count back to none
					fail(other, 2)
					named[name].start()
					other.stays(name)
				}
			}
		})
	}
}
