// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package conntest

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// Closed returns how many connections of a kind were closed for a reason, as the
// counters of package idle say.
func Closed(t testing.TB, counters prometheus.Collector, what, reason string) int {
	t.Helper()
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(counters))
	families, err := registry.Gather()
	require.NoError(t, err)
	want := map[string]string{"what": what, "reason": reason}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := make(map[string]string)
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			if maps.Equal(labels, want) {
				return int(metric.GetCounter().GetValue())
			}
		}
	}
	t.Fatalf("no metric counts %s that are closed for %s", what, reason)
	return 0
}
