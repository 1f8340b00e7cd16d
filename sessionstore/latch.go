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

// latch holds callers back until what they need was started: Caddy starts apps
// in no order, and a request may come before. It opens once, or fails once.
type latch struct {
	once sync.Once
	done chan struct{}
	err  error
}

func newLatch() *latch { return &latch{done: make(chan struct{})} }

// open lets callers through; with an error, it sends them away for good. Only
// the first call counts.
func (l *latch) open(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
	})
}

// wait returns when the latch is open, or ctx is done, or nothing has happened
// for readyLimit.
func (l *latch) wait(ctx context.Context) error {
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
