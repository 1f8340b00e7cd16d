// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/doctable"
)

func TestClosesAreCountedForEachRegistry(t *testing.T) {
	Closed(Connections, Idle)
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

func TestReasonsAreDocumented(t *testing.T) {
	var rows []string
	for _, m := range reasons {
		var whats []string
		for _, kind := range kinds {
			if slices.Contains(kind.reasons, m.Name) {
				whats = append(whats, "`"+kind.what+"`")
			}
		}
		require.NotEmpty(t, whats, m.Name)
		rows = append(rows, "`"+string(m.Name)+"` | "+strings.Join(whats, ", ")+" | "+m.Meaning)
	}
	doctable.Require(t, "../docs/caddyfile.md", "reason of an end", rows)
}
