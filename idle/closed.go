// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-sticky/caddy-sticky/internal/closedset"
)

// What was closed, and why: the labels of caddy_sticky_closed_total.
const (
	WebSockets  = "websocket" // what
	Connections = "connection"
	Tunnels     = "tunnel"
)

// Reason is why a connection ended. A closed set: it labels metrics.
type Reason string

// The reasons; ends says what they mean.
const (
	Finished     Reason = "finished"
	Idle         Reason = "idle"
	NoPong       Reason = "pong"
	Lifetime     Reason = "lifetime"
	Requests     Reason = "requests"
	Drained      Reason = "drain"
	Gone         Reason = "gone"
	Canceled     Reason = "canceled"
	ClientFailed Reason = "client"
	TargetFailed Reason = "target"
)

// reasons are all reasons.
var reasons = [...]closedset.Member[Reason]{
	{Name: Finished, Meaning: "both sides have said all, or one has and half of the other's connection cannot be closed"},
	{Name: Idle, Meaning: "no byte moved for the idle timeout"},
	{Name: NoPong, Meaning: "an end of a WebSocket did not answer a Ping"},
	{Name: Lifetime, Meaning: "it was as old as `max_lifetime` allows"},
	{Name: Requests, Meaning: "it had carried `max_requests`"},
	{Name: Drained, Meaning: "the process ended, and had waited for its grace period"},
	{Name: Gone, Meaning: "its account or its exit is no longer configured"},
	{Name: Canceled, Meaning: "its request was canceled: the client reset the stream"},
	{Name: ClientFailed, Meaning: "the client's side failed"},
	{Name: TargetFailed, Meaning: "the target's side failed"},
}

// kinds are what is closed, with the reasons that it can have.
var kinds = [...]struct {
	what    string
	reasons []Reason
}{
	{WebSockets, []Reason{Idle, NoPong}},
	{Connections, []Reason{Idle, Lifetime, Requests}},
	{Tunnels, []Reason{Finished, Idle, Lifetime, Drained, Gone, Canceled, ClientFailed, TargetFailed}},
}

// closed counts since the program began, whatever configurations come and go.
var closed [len(kinds)][len(reasons)]atomic.Uint64

// Closed counts a connection that was closed. Pairs that are not in kinds are not
// counted.
func Closed(what string, reason Reason) {
	for i := range kinds {
		if kinds[i].what == what && slices.Contains(kinds[i].reasons, reason) {
			closed[i][closedset.Index(reasons[:], reason)].Add(1)
		}
	}
}

// ClosedCollector shows the counters to Prometheus. All of them are equal, so
// that each configuration can register one.
type ClosedCollector struct{}

var closedDesc = prometheus.NewDesc("caddy_sticky_closed_total",
	"Connections that were closed for a reason of their own.", []string{"what", "reason"}, nil)

// Describe implements prometheus.Collector.
func (ClosedCollector) Describe(ch chan<- *prometheus.Desc) { ch <- closedDesc }

// Collect implements prometheus.Collector.
func (ClosedCollector) Collect(ch chan<- prometheus.Metric) {
	for i, kind := range kinds {
		for _, reason := range kind.reasons {
			n := closed[i][closedset.Index(reasons[:], reason)].Load()
			ch <- prometheus.MustNewConstMetric(closedDesc, prometheus.CounterValue, float64(n), kind.what, string(reason))
		}
	}
}

// RegisterMetrics adds the counters to the metrics of the configuration that is
// being provisioned, once however often it is called.
func RegisterMetrics(ctx caddy.Context) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	err := registry.Register(ClosedCollector{})
	if _, already := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !already {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// Interface guards
var _ prometheus.Collector = ClosedCollector{}
