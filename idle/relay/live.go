// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"sync"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

// live is all tunnels of the process. Tunnels outlive configurations, so no
// configuration can know them all.
var live tunnels

// ender is a tunnel that can be ended.
type ender interface {
	finish(reason idle.Reason)
	belongsTo() any
}

type tunnels struct {
	mu      sync.Mutex
	all     map[ender]struct{}
	waiting []chan struct{} // closed when there is none left
}

func (l *tunnels) add(t ender) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make(map[ender]struct{})
	}
	l.all[t] = struct{}{}
}

func (l *tunnels) remove(t ender) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, t)
	if len(l.all) > 0 {
		return
	}
	l.all = nil // a map never shrinks
	for _, done := range l.waiting {
		close(done)
	}
	l.waiting = nil
}

// emptied returns a channel that is closed as soon as there is no tunnel.
func (l *tunnels) emptied() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := make(chan struct{})
	if len(l.all) == 0 {
		close(done)
		return done
	}
	l.waiting = append(l.waiting, done)
	return done
}

func (l *tunnels) list() []ender {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]ender, 0, len(l.all))
	for t := range l.all {
		list = append(list, t)
	}
	return list
}

// Owners returns the owners of the tunnels that are open.
func Owners() []any {
	list := live.list()
	owners := make([]any, 0, len(list))
	for _, t := range list {
		if owner := t.belongsTo(); owner != nil {
			owners = append(owners, owner)
		}
	}
	return owners
}

// EndOf ends the tunnels whose owners are gone. Those without an owner stay.
func EndOf(gone func(owner any) bool) {
	for _, t := range live.list() {
		if owner := t.belongsTo(); owner != nil && gone(owner) {
			t.finish(idle.Gone)
		}
	}
}

// Drain waits until all tunnels of the process have ended, and ends those that
// are left when ctx does. It is for a process that ends itself; what begins
// meanwhile is waited for as well.
func Drain(ctx context.Context) {
	done := live.emptied()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	for _, t := range live.list() {
		t.finish(idle.Drained)
	}
	<-done
}
