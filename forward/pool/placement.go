// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"time"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// Placement chooses the exits of new sessions, and those of requests without one.
type Placement struct {
	fallback string // as configured
	store    sessionstore.Store
	scope    string
	round    selection.Round
}

// NewPlacement returns the placement of this name, for the sessions of a scope. The
// name is one that CheckFallback accepts.
func NewPlacement(fallback string, store sessionstore.Store, scope string) *Placement {
	return &Placement{fallback: fallback, store: store, scope: scope}
}

// CheckFallback refuses a placement that does not exist.
func CheckFallback(name string) error {
	switch name {
	case "", "random", "round_robin", "least_sessions", "hash":
		return nil
	}
	return fmt.Errorf("fallback %q is unknown (have random, round_robin, least_sessions, hash)", name)
}

// Assign returns the placement of one request's session, whose key is zero if
// there is none.
func (p *Placement) Assign(key sessionstore.Key, ttl time.Duration) selection.Placer[*Target] {
	switch p.fallback {
	case "random":
		return selection.Random[*Target]()
	case "round_robin":
		return selection.RoundRobin[*Target](&p.round)
	case "least_sessions":
		return selection.LeastSessions[*Target](p.store, p.scope)
	case "hash":
		return selection.Hash[*Target](key, ttl)
	}
	if key.IsZero() {
		// Without a session, each request wants another exit than the last one.
		return selection.RoundRobin[*Target](&p.round)
	}
	return selection.TwoChoices[*Target](p.store, p.scope)
}
