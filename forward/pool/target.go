// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/forward/exits"
)

const (
	firstRest   = time.Second
	longestRest = 10 * time.Second
)

// exitState is what is known of an exit beyond one configuration.
type exitState struct {
	down  atomic.Bool  // by a check
	taken atomic.Int64 // when its rate lets the next request through, nanoseconds since 1970

	failures atomic.Int32 // in a row
	until    atomic.Int64 // the end of its rest, nanoseconds since 1970
}

// Destruct implements caddy.Destructor; there is nothing to release.
func (*exitState) Destruct() error { return nil }

// exitStates keeps the state of exits across reloads: an exit that is down
// does not become better by a new configuration. Keyed by scope and identity.
var exitStates = caddy.NewUsagePool()

// Outlet is an exit with what the proxy holds for it. Its slots have it in common:
// what it fails at, it fails at for all of them.
type Outlet struct {
	exits.Exit
	name  string // its identity
	raw   string // of a line of the exits file
	opts  *exits.Options
	state *exitState
	// transports send requests in absolute form.
	transports *transports
	// private are the transports of accounts with rules of their own, by
	// *destination.Rules: connections of others may lead to addresses that such an
	// account may not reach.
	private sync.Map
	gateway *exits.Credentials // nil: it is none
	targets []*Target
}

// IsGateway reports whether each session has credentials of its own at the exit.
func (o *Outlet) IsGateway() bool { return o.gateway != nil }

// Target is an exit as Decide sees it, or one of its slots.
type Target struct {
	*Outlet
	identity string
}

// String implements selection.Target.
func (t *Target) String() string { return t.identity }

// Healthy implements selection.Target: an exit that merely failed is not down.
func (t *Target) Healthy() bool { return t.opts.Check == nil || !t.state.down.Load() }

// Full implements selection.Target. An exit has no limit of requests at once.
func (t *Target) Full() bool { return false }

// Weight is how much of all sessions the exit gets.
func (t *Target) Weight() int { return t.opts.Weight }

// Limited reports whether the exit has had as many requests as its rate allows.
func (t *Target) Limited() bool {
	rate := t.opts.Pace()
	if rate.N == 0 {
		return false
	}
	each := int64(rate.Per) / int64(rate.N)
	now := time.Now().UnixNano()
	return max(t.state.taken.Load(), now)+each-now > int64(rate.Per)
}

// Take counts a request that goes to the exit. Requests that come in the same
// moment may be let through beyond the rate; those after them wait for it.
func (t *Target) Take() {
	rate := t.opts.Pace()
	if rate.N == 0 {
		return
	}
	each := int64(rate.Per) / int64(rate.N)
	for {
		last := t.state.taken.Load()
		if t.state.taken.CompareAndSwap(last, max(last, time.Now().UnixNano())+each) {
			return
		}
	}
}

// Resting reports whether the exit failed a moment ago.
func (t *Target) Resting() bool {
	until := t.state.until.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// Failed sends the exit into a rest, longer each time it fails in a row.
func (t *Target) Failed(now time.Time) {
	n := t.state.failures.Add(1)
	rest := longestRest
	if n < 5 {
		rest = min(firstRest<<(n-1), longestRest)
	}
	t.state.until.Store(now.Add(rest).UnixNano())
}

// Succeeded ends the rest of the exit, and forgets its failures.
func (t *Target) Succeeded() {
	if t.state.failures.Load() != 0 {
		t.state.failures.Store(0)
		t.state.until.Store(0)
	}
}

// within bounds the time of a dial.
func within(limit time.Duration, dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return dial(ctx, network, address)
	}
}
