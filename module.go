// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package sticky keeps each client's session on one target, however many TCP
// connections it opens and closes: a plugin for Caddy.
//
// It has two doors onto that idea. As a load balancer it is a selection policy
// of reverse_proxy (package selection), and targets are upstreams. As a forward
// proxy it is a handler (package forward), and targets are exits. Both ask one
// decision function, and both remember sessions in the stores (package
// sessionstore) that the App in this package holds.
//
// Importing this package registers all modules.
package sticky

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"

	// Modules that register themselves.
	_ "github.com/caddy-sticky/caddy-sticky/forward"
	_ "github.com/caddy-sticky/caddy-sticky/idle"
	_ "github.com/caddy-sticky/caddy-sticky/selection/source"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App holds what the sticky policies and proxies of a configuration share: the
// session stores. It need not be configured: the default store exists as soon
// as somebody asks for it.
type App struct {
	// Where sessions are remembered. Each store has a name of its own, which
	// policies and proxies choose it by. Default: one memory store named
	// default.
	StoresRaw []json.RawMessage `json:"stores,omitempty" caddy:"namespace=sticky.stores inline_key=store"`

	ctx    caddy.Context
	stores map[string]store
	pools  map[string]selection.PoolUse // by scope
}

// store is a module in the namespace sticky.stores. It reads when it is
// provisioned and takes what it needs when it is started; its Cleanup gives
// that back.
type store interface {
	sessionstore.Store
	StoreName() string
	Start() error
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sticky",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision loads the configured stores.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.stores = make(map[string]store)
	a.pools = make(map[string]selection.PoolUse)
	if a.StoresRaw == nil {
		return nil
	}
	mods, err := ctx.LoadModule(a, "StoresRaw")
	if err != nil {
		return fmt.Errorf("loading session stores: %w", err)
	}
	for _, mod := range mods.([]any) {
		if err := a.add(mod); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) add(mod any) error {
	s, ok := mod.(store)
	if !ok {
		return fmt.Errorf("%T is not a session store", mod)
	}
	if _, taken := a.stores[s.StoreName()]; taken {
		return fmt.Errorf("two session stores are named %q: give each a name of its own", s.StoreName())
	}
	a.stores[s.StoreName()] = s
	return nil
}

// Store returns the session store of that name. It may be used at once: its
// calls wait for Start.
func (a *App) Store(name string) (sessionstore.Store, error) {
	if s, ok := a.stores[name]; ok {
		return s, nil
	}
	if name != "default" {
		have := slices.Collect(maps.Keys(a.stores))
		if _, ok := a.stores["default"]; !ok {
			have = append(have, "default")
		}
		slices.Sort(have)
		return nil, fmt.Errorf("no session store is named %q (have %s)", name, strings.Join(have, ", "))
	}
	mod, err := a.ctx.LoadModuleByID("sticky.stores.memory", nil)
	if err != nil {
		return nil, fmt.Errorf("loading the default session store: %w", err)
	}
	if err := a.add(mod); err != nil {
		return nil, err
	}
	return a.stores[name], nil
}

// SharePool notes which targets a scope has in this configuration. Policies of
// one scope share their sessions, so they must have the same targets; if not,
// it returns selection.ErrPoolDiffers, or selection.ErrCookiesMayMeet where that
// does no harm by itself. In which order they come makes no difference.
func (a *App) SharePool(use selection.PoolUse) error {
	known, ok := a.pools[use.Scope]
	if !ok {
		a.pools[use.Scope] = use
		return nil
	}
	if known.Pool == use.Pool {
		known.CookiesOnly = known.CookiesOnly && use.CookiesOnly
		a.pools[use.Scope] = known
		return nil
	}
	kind := selection.ErrPoolDiffers
	if known.CookiesOnly && use.CookiesOnly {
		kind = selection.ErrCookiesMayMeet
	}
	return fmt.Errorf("%w (%s; %s)", kind, strings.TrimSpace(known.Pool), strings.TrimSpace(use.Pool))
}

// Start starts the stores.
func (a *App) Start() error {
	for _, name := range slices.Sorted(maps.Keys(a.stores)) {
		if err := a.stores[name].Start(); err != nil {
			return err
		}
	}
	return nil
}

// Stop does nothing: requests of this configuration may be under way still.
// The stores are given back in their Cleanup.
func (a *App) Stop() error { return nil }

// Interface guards
var (
	_ caddy.App         = (*App)(nil)
	_ caddy.Provisioner = (*App)(nil)
)
