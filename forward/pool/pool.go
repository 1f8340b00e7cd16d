// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package pool is the exits of a forward proxy at run time: those of the
// configuration and of a file, what each of them holds, checks, rests, and which of
// them a session gets.
package pool

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/selection"
)

// Pool implements selection.Pool: the exits of a proxy.
type Pool struct {
	set     *Set
	outlets []*Outlet
	list    []*Target // of all outlets
	index   map[string]*Target
	even    bool // all have the same weight
}

func (s *Set) newPool(outlets []*Outlet) (*Pool, error) {
	p := &Pool{set: s, outlets: outlets, index: make(map[string]*Target, len(outlets)), even: true}
	for _, o := range outlets {
		for _, t := range o.targets {
			if _, taken := p.index[t.identity]; taken {
				return nil, fmt.Errorf("exit %s is given twice", t.identity)
			}
			p.index[t.identity] = t
			p.list = append(p.list, t)
			p.even = p.even && max(t.Weight(), 1) == max(p.list[0].Weight(), 1)
		}
	}
	return p, nil
}

// Lookup implements selection.Pool.
func (p *Pool) Lookup(identity string) (*Target, bool) {
	t, ok := p.index[identity]
	return t, ok
}

// Targets implements selection.Pool.
func (p *Pool) Targets() []*Target { return p.list }

// Even reports whether all exits have the same weight, so that a placement at
// random needs no list of them.
func (p *Pool) Even() bool { return p.even }

// Len returns how many targets the pool has.
func (p *Pool) Len() int { return len(p.list) }

// At returns the target at a place in the pool.
func (p *Pool) At(place int) *Target { return p.list[place] }

// Spent implements the limit of slots that a request tries at one gateway.
func (*Pool) Spent(t *Target, tried []selection.Attempt[*Target]) bool { return t.Spent(tried) }

// Unspent returns the exits that a request may still try, and those it tried.
func (p *Pool) Unspent(tried []selection.Attempt[*Target]) []*Target {
	return unspent(p.outlets, tried)
}

// holds reports whether a target is in the pool. After the exits file was read
// again it may not be.
func (p *Pool) holds(t *Target) bool { return p.index[t.identity] == t }

// Bars keeps new sessions off an exit that has as many as it may.
func (p *Pool) Bars(ctx context.Context, t *Target) selection.Reason {
	if t.opts.MaxSessions == 0 {
		return ""
	}
	n, err := p.set.store.Count(ctx, p.set.Scope, t.identity)
	if err == nil && n >= t.opts.MaxSessions {
		return selection.Full
	}
	return ""
}

// String lists the exits, in the same order for the same exits.
func (p *Pool) String() string { return strings.Join(slices.Sorted(maps.Keys(p.index)), " ") }

// admitting is the pool for a client that asks for tags. A live session keeps
// its exit, whatever the tags are now.
type admitting struct {
	*Pool
	wish    *exits.Wish
	outlets []*Outlet // that the client may use
	ends    []int     // how many targets they have, up to and including each of them
}

func (p *Pool) admitting(wish *exits.Wish) *admitting {
	a := &admitting{Pool: p, wish: wish}
	n := 0
	for _, o := range p.outlets {
		if wish.Admits(o.opts.Has) {
			n += len(o.targets)
			a.outlets, a.ends = append(a.outlets, o), append(a.ends, n)
		}
	}
	return a
}

// Targets implements selection.Pool. It makes a list of all slots; Len and At make
// none.
func (p *admitting) Targets() []*Target { return unspent(p.outlets, nil) }

// Len returns how many targets the client may use.
func (p *admitting) Len() int {
	if len(p.ends) == 0 {
		return 0
	}
	return p.ends[len(p.ends)-1]
}

// At returns the target at a place among those that the client may use.
func (p *admitting) At(place int) *Target {
	i := sort.SearchInts(p.ends, place+1)
	o := p.outlets[i]
	return o.targets[place-p.ends[i]+len(o.targets)]
}

// Unspent returns the exits that a request may still try, and those it tried.
func (p *admitting) Unspent(tried []selection.Attempt[*Target]) []*Target {
	return unspent(p.outlets, tried)
}

func (p *admitting) holds(t *Target) bool { return p.Pool.holds(t) && p.wish.Admits(t.opts.Has) }

// Choice is the exits that a request may use.
type Choice interface {
	selection.Pool[*Target]
	Len() int
	holds(t *Target) bool
}

// ChoiceFor returns the exits that a request with this wish may use. Before is what
// it returned for the same request, nil at first.
func (p *Pool) ChoiceFor(w *exits.Wish, before Choice) Choice {
	if w.IsEmpty() {
		return p
	}
	if a, ok := before.(*admitting); ok && a.Pool == p {
		return a
	}
	return p.admitting(w)
}
