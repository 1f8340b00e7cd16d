// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// counts are how many sessions each target has at the server, as far as is
// known here: scripts answer with what they changed, all else is asked for
// regularly.
type counts struct {
	places sync.Map // field to *remotePlace
	total  atomic.Int64

	// tags are the parts of which a count is the sum.
	tags [redisTags]struct {
		mu      sync.Mutex
		version int64 // the newest that was heard of
		known   map[string]tagCount
	}
}

// tagCount is the number of sessions of a target in a tag, at a version of it.
type tagCount struct {
	n, version int64
}

// remotePlace is where sessions are counted: a target of a scope.
type remotePlace struct {
	count  atomic.Int64
	issued sessionstore.Outstanding
}

func newCounts() *counts {
	c := new(counts)
	for i := range c.tags {
		c.tags[i].known = make(map[string]tagCount)
	}
	return c
}

func (c *counts) at(scope, target string) *remotePlace { return c.place(field(scope, target)) }

func (c *counts) place(name string) *remotePlace {
	if p, ok := c.places.Load(name); ok {
		return p.(*remotePlace)
	}
	p, _ := c.places.LoadOrStore(strings.Clone(name), new(remotePlace))
	return p.(*remotePlace)
}

func (c *counts) of(scope, target string, now time.Time) int {
	p, ok := c.places.Load(field(scope, target))
	if !ok {
		return 0
	}
	place := p.(*remotePlace)
	return int(place.count.Load()) + place.issued.Sum(now)
}

// heard notes what a script answered about one target.
func (c *counts) heard(tag int, name string, n, version int64) {
	t := &c.tags[tag]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version = max(t.version, version)
	if version >= t.known[name].version {
		c.setLocked(tag, name, tagCount{n, version})
	}
}

// version is the newest that was heard of a tag.
func (c *counts) version(tag int) int64 {
	t := &c.tags[tag]
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.version
}

// list notes all targets of a tag. Since is what version answered before they
// were asked for: a list that is older comes from a server that began anew.
func (c *counts) list(tag int, all map[string]int64, version, since int64) {
	t := &c.tags[tag]
	t.mu.Lock()
	defer t.mu.Unlock()
	anew := version < since
	t.version = max(t.version, version)
	if anew {
		t.version = version
	}
	for name, known := range t.known {
		if _, listed := all[name]; !listed && (anew || known.version <= version) {
			c.setLocked(tag, name, tagCount{0, version})
			delete(t.known, name)
		}
	}
	for name, n := range all {
		if anew || version >= t.known[name].version {
			c.setLocked(tag, name, tagCount{n, version})
		}
	}
}

func (c *counts) setLocked(tag int, name string, to tagCount) {
	t := &c.tags[tag]
	change := to.n - t.known[name].n
	t.known[strings.Clone(name)] = to
	c.place(name).count.Add(change)
	c.total.Add(change)
}
