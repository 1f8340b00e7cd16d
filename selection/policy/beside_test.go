// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// beside runs a Caddy that proxies to the same applications twice: /theirs with
// Caddy's own cookie policy, /ours with this one. Neither has health checks.
func beside(t *testing.T, apps []*app) *site {
	t.Helper()
	s := run(t, "", fmt.Sprintf(`handle /theirs {
		reverse_proxy %[1]s {
			lb_policy cookie lb secret {
				fallback round_robin
			}
			lb_retries 2
		}
	}
	handle /ours {
		reverse_proxy %[1]s {
			lb_policy sticky shop {
				fallback round_robin
			}
			lb_retries 2
		}
	}`, upstreams(apps...)))
	s.apps = make(map[string]*app)
	for _, a := range apps {
		s.apps[a.name] = a
	}
	return s
}

// at is a get of a path.
func (v *visitor) at(path string) answer {
	v.t.Helper()
	got, err := v.send(http.MethodGet, path, nil)
	require.NoError(v.t, err)
	return got
}

func TestBesideCaddysCookiePolicyPinnedUpstreamIsDead(t *testing.T) {
	s := beside(t, newApps(t, "a", "b", "c"))
	theirs, ours := s.visitor(), s.visitor()
	pinned, own := theirs.at("/theirs").body, ours.at("/ours").body
	s.apps[pinned].stop()
	s.apps[own].stop()

	// Caddy's retries find the cookie again, and with it the dead upstream.
	require.Equal(t, http.StatusBadGateway, theirs.at("/theirs").status)
	require.Equal(t, http.StatusBadGateway, theirs.at("/theirs").status)

	moved := ours.at("/ours")
	require.Equal(t, http.StatusOK, moved.status)
	require.NotEqual(t, own, moved.body)
	require.Len(t, moved.cookies(), 1)
	require.Equal(t, "moved errors", moved.outcome())
	for _, revived := range []bool{false, true} {
		if revived {
			s.apps[own].start()
		}
		for range 8 {
			got := ours.at("/ours")
			require.Equal(t, http.StatusOK, got.status)
			require.Equal(t, moved.body, got.body)
			require.Empty(t, got.cookies())
		}
	}
}

func TestBesideCaddysCookiePolicyNewClientsMeetADeadUpstream(t *testing.T) {
	s := beside(t, newApps(t, "a", "b", "c"))
	s.apps["a"].stop()
	most := 0 // cookies on one of Caddy's answers
	for range 6 {
		got := s.visitor().at("/theirs")
		require.Equal(t, http.StatusOK, got.status)
		most = max(most, len(got.cookies()))

		v := s.visitor()
		got = v.at("/ours")
		require.Equal(t, http.StatusOK, got.status)
		require.Len(t, got.cookies(), 1)
		require.Equal(t, got.body, v.at("/ours").body)
	}
	require.Equal(t, 2, most, "one of the attempt that failed and one of the other")
}

func TestBesideCaddysCookiePolicyAllUpstreamsAreDead(t *testing.T) {
	s := beside(t, newApps(t, "a", "b", "c"))
	for _, a := range s.apps {
		a.stop()
	}
	theirs := s.visitor().at("/theirs")
	require.Equal(t, http.StatusBadGateway, theirs.status)
	require.Len(t, theirs.cookies(), 3, "the client is pinned to a server that failed")
	ours := s.visitor().at("/ours")
	require.Equal(t, http.StatusBadGateway, ours.status)
	require.Empty(t, ours.cookies())
}
