// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddy-sticky/caddy-sticky/internal/pace"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// errPaced means that a client's address begins more sessions than it may.
var errPaced = errors.New("too many sessions begin at this address")

// paced is the store for a client whose address may begin only so many sessions
// in a time. One more is placed by hash, and not remembered.
type paced struct {
	sessionstore.Store
	policy  *Policy
	request *http.Request
	refused bool // what the request would begin is too much already
}

// Get implements sessionstore.Store.
func (s *paced) Get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	if s.refused {
		return sessionstore.Session{}, errPaced
	}
	return s.Store.Get(ctx, key)
}

// Claim implements sessionstore.Store. A session that a client carries has begun
// before.
func (s *paced) Claim(ctx context.Context, session sessionstore.Session) (sessionstore.Session, bool, error) {
	if !session.Carried && !s.policy.admits(s.request) {
		return sessionstore.Session{}, false, errPaced
	}
	return s.Store.Claim(ctx, session)
}

// Fallback implements sessionstore.Store.
func (s *paced) Fallback(err error) sessionstore.Fallback {
	if errors.Is(err, errPaced) {
		return sessionstore.FallbackHash
	}
	return s.Store.Fallback(err)
}

// admits takes one of the sessions that the request's address may begin.
func (p *Policy) admits(r *http.Request) bool {
	addr := pace.ClientAddr(r)
	if p.newSessions.N == 0 || !addr.IsValid() {
		return true
	}
	now := time.Now()
	var wait time.Duration
	p.scope.Begun.At(addr, now, func(begun *pace.Pace) { wait = begun.Allow(p.newSessions, now) })
	return wait <= 0
}

// turnAway makes the session of a client that carries none, and may begin none,
// that of its address: the hash is the same for all its requests.
func (v *visit) turnAway() {
	v.key = v.policy.keyOf(addressSource{}, pace.ClientAddr(v.request).String())
	v.refused = true
}

// addressSource labels keys that are made of an address and name no session.
type addressSource struct{}

func (addressSource) SessionID(*http.Request) string { return "" }
func (addressSource) Label() string                  { return "address" }
