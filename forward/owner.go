// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sticky/caddy-sticky/idle/relay"
)

// A tunnel outlives the configuration that it began in. It belongs to a proxy, an
// account and an exit, by their names; when a configuration comes in which one of
// them is gone, it is ended after a grace.

// defaultGrace is how long such a tunnel goes on where no grace_period is
// configured.
const defaultGrace = 30 * time.Second

// owner is what a tunnel belongs to.
type owner struct{ scope, account, exit string }

// owner returns what the client's tunnel belongs to; it holds nothing of the
// request.
func (c *client) owner() *owner {
	return &owner{c.terms.Scope, strings.Clone(c.account), c.decision.Target.String()}
}

// proxies is those of all configurations that are there: of the one that runs,
// and for a moment of the one before and of the next one.
var proxies struct {
	mu  sync.Mutex
	all map[*Handler]struct{}
}

func (h *Handler) enter() {
	proxies.mu.Lock()
	defer proxies.mu.Unlock()
	if proxies.all == nil {
		proxies.all = make(map[*Handler]struct{})
	}
	proxies.all[h] = struct{}{}
}

// leave takes the proxy out and lets those tunnels end that nobody has any more
// when the grace is over.
func (h *Handler) leave() {
	proxies.mu.Lock()
	_, known := proxies.all[h]
	delete(proxies.all, h)
	proxies.mu.Unlock()
	h.left.Store(true)
	if known {
		h.endOrphans()
	}
}

// begun looks after a tunnel that began when what it belongs to was gone already:
// connecting takes its time.
func (h *Handler) begun(o *owner) {
	if h.left.Load() || !h.owns(o) {
		h.endOrphans()
	}
}

// endOrphans ends, after the grace, the tunnels that belong to nobody, now and
// then.
func (h *Handler) endOrphans() {
	orphans := make(map[*owner]struct{})
	for _, of := range relay.Owners() {
		if o, ours := of.(*owner); ours && orphaned(o) {
			orphans[o] = struct{}{}
		}
	}
	if len(orphans) == 0 {
		return
	}
	time.AfterFunc(h.grace, func() {
		relay.EndOf(func(of any) bool {
			o, ours := of.(*owner)
			if !ours {
				return false
			}
			_, noted := orphans[o]
			return noted && orphaned(o)
		})
	})
}

// orphaned reports whether no proxy has a tunnel's account and exit.
func orphaned(o *owner) bool {
	proxies.mu.Lock()
	defer proxies.mu.Unlock()
	for h := range proxies.all {
		if h.owns(o) {
			return false
		}
	}
	return true
}

func (h *Handler) owns(o *owner) bool {
	if h.terms.Scope != o.scope {
		return false
	}
	if _, ok := h.exits.Current().Lookup(o.exit); !ok {
		return false
	}
	return h.Open || h.accounts.Has(o.account)
}

// graceOf is how long a server of this configuration waits for its connections.
func graceOf(ctx caddy.Context) time.Duration {
	for _, mod := range ctx.Modules() {
		if app, ok := mod.(*caddyhttp.App); ok && app.GracePeriod > 0 {
			return time.Duration(app.GracePeriod)
		}
	}
	return defaultGrace
}
