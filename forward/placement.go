// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"time"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// placement chooses the exits of new sessions, and those of requests without one.
type placement struct {
	fallback string // as configured
	store    sessionstore.Store
	scope    string
	round    selection.Round
}

func newPlacement(fallback string, store sessionstore.Store, scope string) *placement {
	return &placement{fallback: fallback, store: store, scope: scope}
}

// checkFallback refuses a placement that does not exist.
func checkFallback(name string) error {
	switch name {
	case "", "random", "round_robin", "least_sessions", "hash":
		return nil
	}
	return fmt.Errorf("fallback %q is unknown (have random, round_robin, least_sessions, hash)", name)
}

// assign returns the placement of one request's session, whose key is zero if
// there is none.
func (p *placement) assign(key sessionstore.Key, ttl time.Duration) selection.Placer[*target] {
	switch p.fallback {
	case "random":
		return selection.Random[*target]()
	case "round_robin":
		return selection.RoundRobin[*target](&p.round)
	case "least_sessions":
		return selection.LeastSessions[*target](p.store, p.scope)
	case "hash":
		return selection.Hash[*target](key, ttl)
	}
	if key.IsZero() {
		// Without a session, each request wants another exit than the last one.
		return selection.RoundRobin[*target](&p.round)
	}
	return selection.TwoChoices[*target](p.store, p.scope)
}
