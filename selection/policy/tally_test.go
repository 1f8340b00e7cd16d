// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
)

// metrics are those of the Caddy that runs whose names begin with caddy_sticky_,
// each with its labels' values.
func metrics(t *testing.T) map[string]float64 {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	require.NoError(t, err)
	found := make(map[string]float64)
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), "caddy_sticky_")
		if !ours {
			continue
		}
		for _, m := range family.GetMetric() {
			key := name
			for _, label := range m.GetLabel() {
				key += " " + label.GetValue()
			}
			found[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return found
}

func TestDecisionsAreCountedAcrossReloads(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	storage := t.TempDir()
	directives := "reverse_proxy " + upstreams(apps...) + " {\nlb_policy sticky counted\nlb_retries 2\n}"
	s := run(t, "", directives, storage)
	v := s.visitor()
	first := v.reach()
	v.stays(first)
	s.visitor().get("Cookie: sticky_counted=s1.garbage")
	good := v.cookie("sticky_counted")
	s.visitor().get("Cookie: sticky_counted=" + good[:20] + "x" + good[21:])
	apps[0].stop()
	apps[1].stop()
	apps[2].stop()
	v.get()

	got := metrics(t)
	require.InDelta(t, 1, got["decisions_total lb counted new "], 0) // door, name, outcome, reason
	require.InDelta(t, 2, got["decisions_total lb counted new invalid"], 0)
	require.GreaterOrEqual(t, got["decisions_total lb counted kept "], 8.0)
	require.NotZero(t, got["decisions_total lb counted moved errors"])
	require.InDelta(t, 1, got["cookies_rejected_total counted truncated"], 0)
	require.InDelta(t, 1, got["cookies_rejected_total counted forged"], 0)
	require.NotZero(t, got["sessions default"])

	before := got
	s = run(t, "", directives+"\nheader X-Reloaded yes", storage)
	got = metrics(t)
	require.InDelta(t, before["decisions_total lb counted new "], got["decisions_total lb counted new "], 0, "a reload does not begin anew")
	require.InDelta(t, 1, got["cookies_rejected_total counted forged"], 0)
	apps[0].start()
	s.visitor().reach()
	require.Greater(t, metrics(t)["decisions_total lb counted new "], before["decisions_total lb counted new "], "each attempt is a decision")
}
