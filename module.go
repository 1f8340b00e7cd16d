// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package sticky keeps each client's session on one target, however many TCP
// connections it opens and closes: a plugin for Caddy.
//
// It has three doors onto that idea. As a load balancer it is a selection policy
// of reverse_proxy (package selection/policy), and targets are upstreams. As a forward
// proxy it is a handler (package forward), and targets are exits. As a network
// proxy (package forward/networkproxy) it lets the requests of a reverse_proxy leave
// through exits. All doors call one decision function and remember sessions in the
// stores (package sessionstore) that the App in this package holds.
//
// Importing this package registers all modules.
package sticky

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/token"

	// Modules that register themselves.
	_ "github.com/caddy-sticky/caddy-sticky/forward"
	_ "github.com/caddy-sticky/caddy-sticky/forward/networkproxy"
	_ "github.com/caddy-sticky/caddy-sticky/idle/listener"
	_ "github.com/caddy-sticky/caddy-sticky/idle/websocket"
	_ "github.com/caddy-sticky/caddy-sticky/selection/policy"
	_ "github.com/caddy-sticky/caddy-sticky/selection/source"
	_ "github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
	_ "github.com/caddy-sticky/caddy-sticky/sessionstore/redis"
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

	// The keys that sign the load balancer's cookies, instead of generated ones:
	// secrets of at least 16 bytes, the same on all machines that serve the same
	// clients. The first one signs, all of them are accepted: to change it, put
	// the new one first and leave the old one in for the longest ttl.
	// Placeholders of files and the environment are replaced. Default: keys
	// are generated and kept in Caddy's storage.
	CookieKeysRaw []string `json:"cookie_keys,omitempty"`

	// How long a generated key signs before the next one does. It is accepted
	// for as long as a cookie that it has signed may live. Default: 720h.
	KeyRotation caddy.Duration `json:"key_rotation,omitempty"`

	keys    *token.Keys
	ctx     caddy.Context
	started bool
	pools   map[string]selection.PoolUse // by scope

	// mu is held to change what is below, and to read it for metrics, which are
	// collected in other goroutines. Provisioning and starting are in one.
	mu     sync.Mutex
	stores map[string]store
	scopes map[string]*selection.Scope
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
	a.scopes = make(map[string]*selection.Scope)
	if err := a.provisionKeys(); err != nil {
		return err
	}
	if err := ctx.GetMetricsRegistry().Register(collector{a}); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
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

func (a *App) provisionKeys() error {
	repl := caddy.NewReplacer()
	given := make([]string, 0, len(a.CookieKeysRaw))
	for i, key := range a.CookieKeysRaw {
		key, err := repl.ReplaceOrErr(key, true, true)
		if err != nil {
			return fmt.Errorf("cookie_keys: key %d: %w", i+1, err)
		}
		given = append(given, key)
	}
	var err error
	a.keys, err = token.NewKeys(token.KeysConfig{
		Given: given, Rotation: time.Duration(a.KeyRotation), Storage: a.ctx.Storage(), Logger: a.ctx.Logger(),
	})
	return err
}

// CookieKeys returns the keys that sign the load balancer's cookies. They may be
// used at once: their calls wait for Start.
func (a *App) CookieKeys() *token.Keys { return a.keys }

func (a *App) add(mod any) error {
	s, ok := mod.(store)
	if !ok {
		return fmt.Errorf("%T is not a session store", mod)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
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

// Scope returns what a policy or proxy keeps across configurations.
func (a *App) Scope(name string) *selection.Scope {
	a.mu.Lock()
	defer a.mu.Unlock()
	scope, ok := a.scopes[name]
	if !ok {
		scope = selection.OpenScope(name)
		a.scopes[name] = scope
	}
	return scope
}

// Tally returns what counts the decisions of a scope.
func (a *App) Tally(scope string) *selection.Tally { return &a.Scope(scope).Tally }

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

// Start readies the keys and starts the stores. A store whose kind is another
// than in the configuration before takes its sessions over.
func (a *App) Start() error {
	if err := a.keys.Start(); err != nil {
		return err
	}
	return a.startStores()
}

func (a *App) startStores() error {
	begun := time.Now() // no request reaches a store before
	for _, name := range slices.Sorted(maps.Keys(a.stores)) {
		if err := a.stores[name].Start(); err != nil {
			return err
		}
	}
	a.started = true
	if before := a.other(); before != nil {
		before.carryTo(a, begun)
	}
	a.enlist()
	return nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
