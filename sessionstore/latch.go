// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore

import (
	"context"
	"sync"
	"time"
)

// readyLimit bounds how long a request waits for a store that is not started:
// Caddy starts apps in no order, and within this time or not at all.
const readyLimit = 5 * time.Second

// Latch holds callers back until what they need was started: Caddy starts apps
// in no order, and a request may come before. It opens once, or fails once.
type Latch struct {
	once sync.Once
	done chan struct{}
	err  error
}

// NewLatch returns a latch that is closed.
func NewLatch() *Latch { return &Latch{done: make(chan struct{})} }

// Open lets callers through; with an error, it sends them away for good. Only
// the first call counts.
func (l *Latch) Open(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
	})
}

// Wait returns when the latch is open or ctx is done. If neither happens within
// a few seconds, it returns ErrNotReady.
func (l *Latch) Wait(ctx context.Context) error {
	select {
	case <-l.done:
		return l.err
	default:
	}
	limit := time.NewTimer(readyLimit)
	defer limit.Stop()
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-limit.C:
		return ErrNotReady
	}
}
