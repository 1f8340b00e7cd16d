// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestClosesAreCountedForEachRegistry(t *testing.T) {
	Closed(Connections, string(Idle))
	for range 2 { // a configuration each
		registry := prometheus.NewPedanticRegistry()
		require.NoError(t, registry.Register(ClosedCollector{}))
		families, err := registry.Gather()
		require.NoError(t, err)
		require.Len(t, families, 1)
		require.Equal(t, "caddy_sticky_closed_total", families[0].GetName())
		found := false
		for _, metric := range families[0].GetMetric() {
			labels := make([]string, 0, 2)
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			if strings.Join(labels, " ") == "reason=idle what=connection" {
				found = metric.GetCounter().GetValue() >= 1
			}
		}
		require.True(t, found)
	}
}
