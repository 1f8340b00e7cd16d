// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// What was closed, and why: the labels of caddy_sticky_closed_total.
const (
	WebSockets  = "websocket" // what
	Connections = "connection"
	Tunnels     = "tunnel"

	IdleTooLong = "idle" // no byte moved
	NoPong      = "pong" // a peer did not answer
)

// Reason is why a tunnel or a connection ended. A closed set: it labels metrics.
type Reason string

const (
	// Finished means that both sides had said all, or that one of them had and
	// the other's half could not be closed alone.
	Finished Reason = "finished"
	// Idle means that no byte moved for the idle timeout.
	Idle Reason = "idle"
	// Lifetime means that the connection had existed for as long as it may.
	Lifetime Reason = "lifetime"
	// Requests means that the connection had carried as many as it may.
	Requests Reason = "requests"
	// Drained means that the process ends and waited for the tunnel in vain.
	Drained Reason = "drain"
	// Gone means that what the tunnel belonged to is no longer there.
	Gone Reason = "gone"
	// Canceled means that the context ended.
	Canceled Reason = "canceled"
	// ClientFailed means that reading from the client or writing to it failed.
	ClientFailed Reason = "client"
	// TargetFailed means that reading from the target or writing to it failed.
	TargetFailed Reason = "target"
)

// closed counts since the program began, whatever configurations come and go.
// The set is closed: nothing adds to the map.
var closed = map[[2]string]*atomic.Uint64{
	{WebSockets, IdleTooLong}: new(atomic.Uint64),
	{WebSockets, NoPong}:      new(atomic.Uint64),

	{Connections, string(Idle)}:     new(atomic.Uint64),
	{Connections, string(Lifetime)}: new(atomic.Uint64),
	{Connections, string(Requests)}: new(atomic.Uint64),

	{Tunnels, string(Finished)}:     new(atomic.Uint64),
	{Tunnels, string(Idle)}:         new(atomic.Uint64),
	{Tunnels, string(Lifetime)}:     new(atomic.Uint64),
	{Tunnels, string(Drained)}:      new(atomic.Uint64),
	{Tunnels, string(Canceled)}:     new(atomic.Uint64),
	{Tunnels, string(ClientFailed)}: new(atomic.Uint64),
	{Tunnels, string(TargetFailed)}: new(atomic.Uint64),
}

// Closed counts a connection that was closed. Pairs that are not in the set are
// not counted.
func Closed(what, reason string) {
	if counter := closed[[2]string{what, reason}]; counter != nil {
		counter.Add(1)
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
	for labels, counter := range closed {
		ch <- prometheus.MustNewConstMetric(closedDesc, prometheus.CounterValue, float64(counter.Load()), labels[0], labels[1])
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
