// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sticky

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/token"
)

// collectLimit bounds how long a store may take to say how many sessions it has.
const collectLimit = time.Second

var (
	decisionsTotal = prometheus.NewDesc("caddy_sticky_decisions_total",
		"Decisions about where a request goes, by what became of its session and why.",
		[]string{"door", "name", "outcome", "reason"}, nil)
	cookiesRejected = prometheus.NewDesc("caddy_sticky_cookies_rejected_total",
		"Cookies of the load balancer's that counted as absent, by why.",
		[]string{"name", "reason"}, nil)
	sessionsOf = prometheus.NewDesc("caddy_sticky_sessions",
		"Live sessions in a store.",
		[]string{"store"}, nil)
)

// collector reports on the stores and scopes of one configuration: Caddy makes a
// new metrics registry for each. The numbers outlive it.
type collector struct{ app *App }

// Describe implements prometheus.Collector.
func (collector) Describe(to chan<- *prometheus.Desc) {
	to <- decisionsTotal
	to <- cookiesRejected
	to <- sessionsOf
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectLimit)
	defer cancel()
	stores, scopes := c.app.observed()
	for _, name := range slices.Sorted(maps.Keys(stores)) {
		if n, err := stores[name].Len(ctx); err == nil {
			to <- prometheus.MustNewConstMetric(sessionsOf, prometheus.GaugeValue, float64(n), name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(scopes)) {
		collectTally(to, name, &scopes[name].Tally)
	}
}

// collectTally reports what happened at all, and nothing that never did.
func collectTally(to chan<- prometheus.Metric, scope string, tally *selection.Tally) {
	door, name, _ := strings.Cut(scope, "/")
	for _, outcome := range selection.Outcomes {
		for _, reason := range selection.Reasons {
			if n := tally.Decisions(outcome.Name, reason.Name); n > 0 {
				to <- prometheus.MustNewConstMetric(decisionsTotal, prometheus.CounterValue, float64(n),
					door, name, string(outcome.Name), string(reason.Name))
			}
		}
	}
	for _, reason := range token.Rejections {
		if n := tally.Rejections(reason.Name); n > 0 {
			to <- prometheus.MustNewConstMetric(cookiesRejected, prometheus.CounterValue, float64(n), name, string(reason.Name))
		}
	}
}

// observed returns what there is to report on. Policies and proxies add to it
// while they are provisioned, and a scrape of an earlier configuration's registry
// may come at any time.
func (a *App) observed() (map[string]store, map[string]*selection.Scope) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.stores), maps.Clone(a.scopes)
}
