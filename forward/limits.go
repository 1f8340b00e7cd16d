// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/internal/pace"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// limits are what is counted per account and per client address. They belong to
// the proxy's name and not to a configuration, so that a reload forgives
// nothing.
type limits struct {
	key      string // in limitsPool
	attempts *attempts
	begun    *pace.Table[pace.Pace, *pace.Pace]
	books    books
}

// Destruct implements caddy.Destructor; there is nothing to release.
func (*limits) Destruct() error { return nil }

// limitsPool keeps limits across reloads, by the proxy's scope and store.
var limitsPool = caddy.NewUsagePool()

// takeLimits returns the limits of a proxy, by its scope and store. The caller ends
// with release.
func takeLimits(key string) (*limits, error) {
	value, _, err := limitsPool.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &limits{key: key, attempts: newAttempts(), begun: pace.New[pace.Pace]()}, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*limits), nil
}

// release gives the limits back, once. Nil ones were not taken.
func (l *limits) release() {
	if l != nil {
		_, _ = limitsPool.Delete(l.key)
	}
}

// bounds are those of one client.
type bounds struct {
	account     string
	maxSessions int        // live ones of the account; 0: no limit
	addr        netip.Addr // where new sessions are counted; invalid: nowhere
	newSessions pace.Rate  // how many may begin there; zero: no limit
}

// store is a session store as a client has it: with its bounds, if it has any.
func (l *limits) store(all sessionstore.Store, b bounds) sessionstore.Store {
	if b.maxSessions == 0 && b.newSessions.N == 0 {
		return all
	}
	return &limitedStore{Store: all, limits: l, bounds: b}
}

// limitedStore counts what begins before it begins. Decide claims a session for
// nothing but to begin it.
type limitedStore struct {
	sessionstore.Store
	limits *limits
	bounds
}

// Claim implements sessionstore.Store. Its own errors are refusals.
func (s *limitedStore) Claim(ctx context.Context, session sessionstore.Session) (sessionstore.Session, bool, error) {
	now := time.Now()
	if s.maxSessions > 0 {
		if !s.limits.books.reserve(ctx, s.Store, s.account, session.Key, s.maxSessions, now) {
			return sessionstore.Session{}, false, &proxystatus.Refusal{
				Kind: "connection_limit_reached", Private: true,
				Reason: fmt.Sprintf("account %s has as many sessions as it may, %d: wait until one is over", s.account, s.maxSessions),
			}
		}
	}
	err := s.begin(now)
	if err != nil {
		s.settle(session.Key, sessionstore.Session{})
		return sessionstore.Session{}, false, err
	}
	holder, won, err := s.Store.Claim(ctx, session)
	if errors.Is(err, sessionstore.ErrUnavailable) {
		holder.Expires = session.Expires // it may have been made
	}
	s.settle(session.Key, holder)
	return holder, won, err
}

// begin takes one of the sessions that the client's address may begin.
func (s *limitedStore) begin(now time.Time) error {
	if s.newSessions.N == 0 || !s.addr.IsValid() {
		return nil
	}
	var wait time.Duration
	s.limits.begun.At(s.addr, now, func(p *pace.Pace) { wait = p.Allow(s.newSessions, now) })
	if wait <= 0 {
		return nil
	}
	return &proxystatus.Refusal{
		Kind: "http_request_denied", Status: http.StatusTooManyRequests, RetryAfter: wait,
		Reason: fmt.Sprintf("too many sessions begin at this address (at most %d in %s): try again later", s.newSessions.N, s.newSessions.Per),
	}
}

// Replace implements sessionstore.Store: a move begins the session's time anew.
func (s *limitedStore) Replace(ctx context.Context, old, next sessionstore.Session) (sessionstore.Session, bool, error) {
	holder, swapped, err := s.Store.Replace(ctx, old, next)
	if err == nil && swapped && s.maxSessions > 0 {
		s.limits.books.extend(s.account, old.Key, holder.Expires)
	}
	return holder, swapped, err
}

func (s *limitedStore) settle(key sessionstore.Key, holder sessionstore.Session) {
	if s.maxSessions > 0 {
		s.limits.books.settle(s.account, key, holder.Expires)
	}
}
