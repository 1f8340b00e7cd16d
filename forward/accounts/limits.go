// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

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

// Limits are what is counted per account and per client address. They belong to
// the proxy's name and not to a configuration, so that a reload forgives
// nothing.
type Limits struct {
	key      string // in limitsPool
	attempts *attempts
	begun    *pace.Table[pace.Pace, *pace.Pace]
	books    books
}

// Destruct implements caddy.Destructor; there is nothing to release.
func (*Limits) Destruct() error { return nil }

// limitsPool keeps limits across reloads, by the proxy's scope and store.
var limitsPool = caddy.NewUsagePool()

// TakeLimits returns the limits of a proxy, by its scope and store. The caller ends
// with Release.
func TakeLimits(key string) (*Limits, error) {
	value, _, err := limitsPool.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &Limits{key: key, attempts: newAttempts(), begun: pace.New[pace.Pace]()}, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*Limits), nil
}

// Release gives the limits back, once. Nil ones were not taken.
func (l *Limits) Release() {
	if l != nil {
		_, _ = limitsPool.Delete(l.key)
	}
}

// Bounds are those of one client.
type Bounds struct {
	Account     string
	MaxSessions int        // live ones of the account; 0: no limit
	Addr        netip.Addr // where new sessions are counted; invalid: nowhere
	NewSessions pace.Rate  // how many may begin there; zero: no limit
}

// Store is a session store as a client has it: with its bounds, if it has any.
func (l *Limits) Store(all sessionstore.Store, b Bounds) sessionstore.Store {
	if b.MaxSessions == 0 && b.NewSessions.N == 0 {
		return all
	}
	return &limitedStore{Store: all, limits: l, Bounds: b}
}

// limitedStore counts what begins before it begins. Decide claims a session for
// nothing but to begin it.
type limitedStore struct {
	sessionstore.Store
	limits *Limits
	Bounds
}

// Claim implements sessionstore.Store. Its own errors are refusals.
func (s *limitedStore) Claim(ctx context.Context, session sessionstore.Session) (sessionstore.Session, bool, error) {
	now := time.Now()
	if s.MaxSessions > 0 {
		if !s.limits.books.reserve(ctx, s.Store, s.Account, session.Key, s.MaxSessions, now) {
			return sessionstore.Session{}, false, &proxystatus.Refusal{
				Kind: "connection_limit_reached", Private: true,
				Reason: fmt.Sprintf("account %s has as many sessions as it may, %d: wait until one is over", s.Account, s.MaxSessions),
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
	if s.NewSessions.N == 0 || !s.Addr.IsValid() {
		return nil
	}
	var wait time.Duration
	s.limits.begun.At(s.Addr, now, func(p *pace.Pace) { wait = p.Allow(s.NewSessions, now) })
	if wait <= 0 {
		return nil
	}
	return &proxystatus.Refusal{
		Kind: "http_request_denied", Status: http.StatusTooManyRequests, RetryAfter: wait,
		Reason: fmt.Sprintf("too many sessions begin at this address (at most %d in %s): try again later", s.NewSessions.N, s.NewSessions.Per),
	}
}

// Replace implements sessionstore.Store: a move begins the session's time anew.
func (s *limitedStore) Replace(ctx context.Context, old, next sessionstore.Session) (sessionstore.Session, bool, error) {
	holder, swapped, err := s.Store.Replace(ctx, old, next)
	if err == nil && swapped && s.MaxSessions > 0 {
		s.limits.books.extend(s.Account, old.Key, holder.Expires)
	}
	return holder, swapped, err
}

func (s *limitedStore) settle(key sessionstore.Key, holder sessionstore.Session) {
	if s.MaxSessions > 0 {
		s.limits.books.settle(s.Account, key, holder.Expires)
	}
}
