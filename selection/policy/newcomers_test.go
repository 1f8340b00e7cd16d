// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFloodOfNewClientsIsNotRemembered(t *testing.T) {
	needAddresses(t, "127.1.0.1", "127.1.0.2")
	apps := newApps(t, "a", "b", "c")
	storage := t.TempDir()
	directives := "reverse_proxy " + upstreams(apps...) + " {\nlb_policy sticky flooded {\nnew_sessions 3/1h\n}\n}"
	s := run(t, "", directives, storage)
	known := make(map[*visitor]string)
	for range 3 {
		v := s.visitorFrom("127.1.0.1")
		known[v] = v.reach()
		require.NotEmpty(t, v.cookie("sticky_flooded"))
	}
	seen := make(map[string]bool)
	for range 20 {
		got := s.visitorFrom("127.1.0.1").get()
		require.Equal(t, "none rate", got.outcome())
		require.Empty(t, got.cookies())
		seen[got.body] = true
	}
	require.Len(t, seen, 1, "a hash of the address")
	for v, name := range known {
		v.stays(name)
	}
	require.Len(t, s.visitorFrom("127.1.0.2").get().cookies(), 1, "others are not held responsible")

	s = run(t, "", directives+"\nheader X-Reloaded yes", storage)
	require.Equal(t, "none rate", s.visitorFrom("127.1.0.1").get().outcome(), "a reload does not forgive")
}

func TestFloodOfNewIDsIsNotRemembered(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky flooded-ids {\nheader X-Session\nnew_sessions 3/1h\n}")
	before := stored(t)
	names := make(map[string]string)
	for i := range 3 {
		line := fmt.Sprint("X-Session: good-", i)
		names[line] = s.visitor().reach(line)
	}
	for i := range 20 {
		line := fmt.Sprint("X-Session: flood-", i)
		first := s.visitor().get(line)
		require.Equal(t, "none rate", first.outcome())
		require.Equal(t, first.body, s.visitor().reach(line), "a hash of the id")
	}
	require.Equal(t, before+3, stored(t))
	for line, name := range names {
		got := s.visitor().get(line)
		require.Equal(t, "kept ", got.outcome())
		require.Equal(t, name, got.body)
	}
}
