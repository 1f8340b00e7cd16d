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
	attempts *attempts
	begun    *pace.Table[pace.Pace, *pace.Pace]
	books    books
}

// Destruct implements caddy.Destructor; there is nothing to release.
func (*limits) Destruct() error { return nil }

// limitsPool keeps limits across reloads, by the proxy's scope and store.
var limitsPool = caddy.NewUsagePool()

func (h *Handler) takeLimits() error {
	key := h.terms.Scope + " " + h.StoreName
	value, _, err := limitsPool.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &limits{attempts: newAttempts(), begun: pace.New[pace.Pace]()}, nil
	})
	if err != nil {
		return err
	}
	h.limits, h.limitsKey = value.(*limits), key
	return nil
}

func (h *Handler) releaseLimits() {
	if h.limitsKey != "" {
		_, _ = limitsPool.Delete(h.limitsKey)
		h.limitsKey = ""
	}
}

// store is the session store as this client has it: with its limits, if it has
// any.
func (c *client) store() sessionstore.Store {
	if c.maxSessions == 0 && c.handler.newSessions.N == 0 {
		return c.handler.store
	}
	return &limitedStore{c.handler.store, c}
}

// limitedStore counts what begins before it begins. Decide claims a session for
// nothing but to begin it.
type limitedStore struct {
	sessionstore.Store
	c *client
}

// Claim implements sessionstore.Store. Its own errors are refusals.
func (s *limitedStore) Claim(ctx context.Context, session sessionstore.Session) (sessionstore.Session, bool, error) {
	h, now := s.c.handler, time.Now()
	if s.c.maxSessions > 0 {
		if !h.limits.books.reserve(ctx, s.Store, s.c.account, session.Key, s.c.maxSessions, now) {
			return sessionstore.Session{}, false, &proxystatus.Refusal{
				Kind: "connection_limit_reached", Private: true,
				Reason: fmt.Sprintf("account %s has as many sessions as it may, %d: wait until one is over", s.c.account, s.c.maxSessions),
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
	h := s.c.handler
	if h.newSessions.N == 0 || !s.c.addr.IsValid() {
		return nil
	}
	var wait time.Duration
	h.limits.begun.At(s.c.addr, now, func(p *pace.Pace) { wait = p.Allow(h.newSessions, now) })
	if wait <= 0 {
		return nil
	}
	return &proxystatus.Refusal{
		Kind: "http_request_denied", Status: http.StatusTooManyRequests, RetryAfter: wait,
		Reason: fmt.Sprintf("too many sessions begin at this address (at most %d in %s): try again later", h.newSessions.N, h.newSessions.Per),
	}
}

// Replace implements sessionstore.Store: a move begins the session's time anew.
func (s *limitedStore) Replace(ctx context.Context, old, next sessionstore.Session) (sessionstore.Session, bool, error) {
	holder, swapped, err := s.Store.Replace(ctx, old, next)
	if err == nil && swapped && s.c.maxSessions > 0 {
		s.c.handler.limits.books.extend(s.c.account, old.Key, holder.Expires)
	}
	return holder, swapped, err
}

func (s *limitedStore) settle(key sessionstore.Key, holder sessionstore.Session) {
	if s.c.maxSessions > 0 {
		s.c.handler.limits.books.settle(s.c.account, key, holder.Expires)
	}
}

// clientAddrOf is the address that new sessions are counted by, if they are.
func (h *Handler) clientAddrOf(r *http.Request) netip.Addr {
	if h.newSessions.N == 0 {
		return netip.Addr{}
	}
	return pace.ClientAddr(r)
}
