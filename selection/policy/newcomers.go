// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddy-sticky/caddy-sticky/internal/pace"
	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// paced is the store for a client whose address may begin only so many sessions
// in a time. One more is placed by hash, and not remembered.
type paced struct {
	sessionstore.Store
	visit *visit
}

// Get implements sessionstore.Store.
func (s *paced) Get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	if err := s.visit.refused; err != nil {
		return sessionstore.Session{}, err
	}
	return s.Store.Get(ctx, key)
}

// Claim implements sessionstore.Store. A session that a client carries has begun
// before.
func (s *paced) Claim(ctx context.Context, session sessionstore.Session) (sessionstore.Session, bool, error) {
	if !session.Carried {
		if err := s.visit.admits(); err != nil {
			return sessionstore.Session{}, false, err
		}
	}
	return s.Store.Claim(ctx, session)
}

// Fallback implements sessionstore.Store.
func (s *paced) Fallback(err error) sessionstore.Fallback {
	if errors.Is(err, selection.ErrPaced) || errors.Is(err, selection.ErrUnproven) {
		return sessionstore.FallbackHash
	}
	return s.Store.Fallback(err)
}

// admits takes one of the sessions that the request's address may begin, or
// returns why it may begin none. An address that is not proved begins none, so its
// owner loses none of them, and early data is no way around the limit.
func (v *visit) admits() error {
	p, addr := v.policy, pace.ClientAddr(v.request)
	if p.newSessions.N == 0 || !addr.IsValid() {
		return nil
	}
	if v.early {
		return selection.ErrUnproven
	}
	now := time.Now()
	var wait time.Duration
	p.scope.Begun.At(addr, now, func(begun *pace.Pace) { wait = begun.Allow(p.newSessions, now) })
	if wait > 0 {
		return selection.ErrPaced
	}
	return nil
}

// turnAway makes the session of a client that carries none, and may begin none,
// that of its address: the hash is the same for all its requests.
func (v *visit) turnAway() {
	v.key = v.policy.keyOf(addressSource{}, pace.ClientAddr(v.request).String())
}

// addressSource labels keys that are made of an address and name no session.
type addressSource struct{}

func (addressSource) SessionID(*http.Request) string { return "" }
func (addressSource) Label() string                  { return "address" }
