// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"errors"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/internal/pace"
)

// Scope is what a policy or proxy of one name keeps beside its sessions and
// across configurations: a reload neither forgets nor forgives.
type Scope struct {
	Tally  Tally
	Drains Drains

	Unstored unstored

	// Begun is when addresses began their latest sessions.
	Begun *pace.Table[pace.Pace, *pace.Pace]
}

// scopes maps a scope's name to its *Scope. Written when configurations come
// and go.
var scopes = caddy.NewUsagePool()

// OpenScope returns the scope of that name, such as "lb/shop". It must be given
// back with CloseScope.
func OpenScope(name string) *Scope {
	value, _, _ := scopes.LoadOrNew(name, func() (caddy.Destructor, error) {
		return &Scope{Begun: pace.New[pace.Pace]()}, nil
	})
	return value.(*Scope)
}

// CloseScope gives back what OpenScope took. With its last user, a scope is
// forgotten.
func CloseScope(name string) error {
	_, err := scopes.Delete(name)
	return err
}

// Destruct implements caddy.Destructor; there is nothing to do.
func (*Scope) Destruct() error { return nil }

// PoolUse is one use of a scope in a configuration.
type PoolUse struct {
	// Scope is a door and the name of a policy or proxy, "lb/shop".
	Scope string

	// Pool describes the targets, whatever their order.
	Pool string

	// CookiesOnly says that sessions of this use cannot be mixed up with
	// others', because their ids are random and nobody gave it its name.
	CookiesOnly bool
}

var (
	// ErrPoolDiffers means that two policies or proxies of one name have
	// different targets.
	ErrPoolDiffers = errors.New("is used with different targets")

	// ErrCookiesMayMeet means the same of two that have only their cookie's
	// name in common, which matters if one host has both.
	ErrCookiesMayMeet = errors.New("have different targets")
)
