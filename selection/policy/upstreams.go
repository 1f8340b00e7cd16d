// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/token"
)

// upstreams is the selection.Pool of a proxy's upstreams.
type upstreams struct {
	policy *Policy
	list   reverseproxy.UpstreamPool
	index  map[string]*reverseproxy.Upstream // nil: search
}

// Lookup implements selection.Pool.
func (u *upstreams) Lookup(identity string) (*reverseproxy.Upstream, bool) {
	if u.index != nil {
		upstream, ok := u.index[identity]
		return upstream, ok
	}
	for _, upstream := range u.list {
		if upstream.String() == identity {
			u.policy.absent.back(identity)
			return upstream, true
		}
	}
	return nil, false
}

// Targets implements selection.Pool.
func (u *upstreams) Targets() []*reverseproxy.Upstream { return u.list }

// Absent reports whether an upstream counts as down: what a dynamic source does
// not name for a moment has not left for good.
func (u *upstreams) Absent(identity string) bool {
	return u.index == nil && u.policy.absent.still(identity, time.Now())
}

// Bars keeps new sessions off an upstream that drains, or has as many as it may.
func (u *upstreams) Bars(ctx context.Context, upstream *reverseproxy.Upstream) selection.Reason {
	p := u.policy
	identity := upstream.String()
	if p.draining(identity) {
		return selection.Draining
	}
	if p.MaxSessions == 0 {
		return ""
	}
	n, err := p.store.Count(ctx, p.terms.Scope, identity)
	if err == nil && n >= p.MaxSessions {
		return selection.Full
	}
	return ""
}

// identities yields those of the upstreams.
func (u *upstreams) identities() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, upstream := range u.list {
			if !yield(upstream.String()) {
				return
			}
		}
	}
}

// named returns the identity of the target that a token names; empty if nobody
// knows it.
func (u *upstreams) named(keys *token.Keys, t token.Token) string {
	return keys.Target(t, u.identities())
}

// indexed returns the pool with an index, which is made once for a static pool.
// A dynamic source may answer each request with other upstreams.
func (p *Policy) indexed(pool reverseproxy.UpstreamPool) *upstreams {
	if !p.static || len(pool) == 0 {
		return &upstreams{policy: p, list: pool}
	}
	if known := p.pool.Load(); known != nil && len(known.list) == len(pool) && &known.list[0] == &pool[0] {
		return known
	}
	made := &upstreams{policy: p, list: pool, index: make(map[string]*reverseproxy.Upstream, len(pool))}
	for _, upstream := range slices.Backward(pool) { // the first of equal ones stays
		made.index[upstream.String()] = upstream
	}
	p.pool.Store(made)
	return made
}

const (
	// absenceGrace is how long an upstream that a dynamic source does not name
	// counts as down, and only then as gone.
	absenceGrace = time.Minute

	// absenceLimit bounds how many are remembered. Past it, those that are gone
	// anyway are forgotten.
	absenceLimit = 10_000
)

// absence knows since when upstreams of a dynamic source are missing. The zero
// value is ready for use.
type absence struct {
	any   atomic.Bool // whether there may be some
	mu    sync.Mutex
	since map[string]time.Time
}

// still reports whether an upstream that is missing may come back.
func (a *absence) still(identity string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	since, known := a.since[identity]
	if known {
		return now.Sub(since) < absenceGrace
	}
	if a.since == nil {
		a.since = make(map[string]time.Time)
	}
	if len(a.since) >= absenceLimit {
		for other, since := range a.since {
			if now.Sub(since) >= absenceGrace {
				delete(a.since, other)
			}
		}
	}
	if len(a.since) < absenceLimit {
		a.since[identity] = now
		a.any.Store(true)
	}
	return true
}

// back notes that an upstream is there.
func (a *absence) back(identity string) {
	if !a.any.Load() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.since, identity)
	a.any.Store(len(a.since) > 0)
}
