// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// unstoredLimit bounds how many sessions have their errors remembered here.
const unstoredLimit = 1 << 14

// unstored counts the errors of sessions that only their clients carry, because
// the store has no room or is away. Without it, such a session would stay with
// an upstream that is dead until its ttl is over. The zero value is ready for
// use.
type unstored struct {
	n      atomic.Int64
	counts sync.Map // sessionstore.Key to unstoredErrors
}

// unstoredErrors are the consecutive errors of one session of the key.
type unstoredErrors struct {
	created time.Time
	n       int
}

// Errors returns the consecutive errors of the session of key that began at
// created.
func (u *unstored) Errors(key sessionstore.Key, created time.Time) int {
	if u.n.Load() == 0 {
		return 0
	}
	value, _ := u.counts.Load(key)
	if noted, ok := value.(unstoredErrors); ok && noted.created.Equal(created) {
		return noted.n
	}
	return 0
}

// Note counts how a use of a session ended. Where there are too many to
// remember, all are forgotten: each client is one error further from its move.
func (u *unstored) Note(s sessionstore.Session, use sessionstore.Use) {
	if use == sessionstore.Succeeded {
		if _, ok := u.counts.LoadAndDelete(s.Key); ok {
			u.n.Add(-1)
		}
		return
	}
	if u.n.Load() >= unstoredLimit {
		u.n.Store(0)
		u.counts.Clear()
	}
	noted := unstoredErrors{s.Created, u.Errors(s.Key, s.Created) + 1}
	if _, known := u.counts.Swap(s.Key, noted); !known {
		u.n.Add(1)
	}
}
