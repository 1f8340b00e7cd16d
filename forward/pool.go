// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-sticky/caddy-sticky/selection"
)

// pool implements selection.Pool: the exits of a proxy.
type pool struct {
	set     *exitSet
	outlets []*outlet
	list    []*target // of all outlets
	index   map[string]*target
}

func (s *exitSet) newPool(outlets []*outlet) (*pool, error) {
	p := &pool{set: s, outlets: outlets, index: make(map[string]*target, len(outlets))}
	for _, o := range outlets {
		for _, t := range o.targets {
			if _, taken := p.index[t.identity]; taken {
				return nil, fmt.Errorf("exit %s is given twice", t.identity)
			}
			p.index[t.identity] = t
			p.list = append(p.list, t)
		}
	}
	return p, nil
}

// Lookup implements selection.Pool.
func (p *pool) Lookup(identity string) (*target, bool) {
	t, ok := p.index[identity]
	return t, ok
}

// Targets implements selection.Pool.
func (p *pool) Targets() []*target { return p.list }

// Bars keeps new sessions off an exit that has as many as it may.
func (p *pool) Bars(ctx context.Context, t *target) selection.Reason {
	if t.opts.MaxSessions == 0 {
		return ""
	}
	n, err := p.set.store.Count(ctx, p.set.scope, t.identity)
	if err == nil && n >= t.opts.MaxSessions {
		return selection.Full
	}
	return ""
}

// String lists the exits, in the same order for the same exits.
func (p *pool) String() string { return strings.Join(slices.Sorted(maps.Keys(p.index)), " ") }

// admitting is the pool for a client that asks for tags. A live session keeps
// its exit, whatever the tags are now.
type admitting struct {
	*pool
	wish *wish
}

// Targets implements selection.Pool.
func (p *admitting) Targets() []*target {
	var list []*target
	for _, t := range p.list {
		if p.wish.admits(t.opts.has) {
			list = append(list, t)
		}
	}
	return list
}

// exits is the pool as this client sees it.
func (c *client) exits() selection.Pool[*target] {
	p := c.handler.exits.pool.Load()
	if len(c.wish.tags) == 0 && len(c.wish.allowed) == 0 {
		return p
	}
	return &admitting{p, &c.wish}
}
