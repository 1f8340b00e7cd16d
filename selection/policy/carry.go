// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/token"
)

const (
	// maxValues bounds how many cookies of one name are checked: a client may
	// send thousands.
	maxValues = 32

	// renewalParts says when a cookie is set anew that must show how long ago
	// its session was used: after that part of the limit.
	renewalParts = 4
)

// carry is a session that the client carries in a cookie, or is to carry.
type carry struct {
	issuer   source.Issuer // nil: the session has nothing to do with cookies
	token    token.Token
	returned bool // the client brought the token
	twins    bool // and another one of the policy, and one of both is over
	store    sessionstore.Carried
	before   former
}

// open reads the cookies of an issuer. The newest valid one counts; if there is
// none, one whose session is over still says who the client was.
func (v *visit) open(r *http.Request, issuer source.Issuer) bool {
	p, now := v.policy, time.Now()
	var newest, over token.Token
	n, live, ended := 0, 0, 0
	for value := range issuer.Values(r) {
		if n++; n > maxValues {
			break
		}
		t, rejection := p.keys.Open(r.Context(), p.terms.Scope, value, now)
		if rejection == "" {
			live++
			if t.Created.After(newest.Created) || t.Created.Equal(newest.Created) && t.Seen.After(newest.Seen) {
				newest = t
			}
			continue
		}
		p.scope.Tally.Rejected(rejection)
		if rejection != token.RejectExpired {
			v.rejected = selection.Invalid
			continue
		}
		ended++
		if t.Expires.After(over.Expires) {
			over = t
		}
	}
	v.twins = ended > 0 && live+ended > 1
	if newest.Created.IsZero() {
		newest = over
	}
	if newest.Created.IsZero() {
		return false
	}
	v.rejected = ""
	v.name(issuer, newest)
	v.returned = true
	return true
}

// issue names the session of a client that has none, and is to carry it.
func (v *visit) issue(issuer source.Issuer) {
	var t token.Token
	_, _ = rand.Read(t.ID[:]) // never fails
	v.name(issuer, t)
}

func (v *visit) name(issuer source.Issuer, t token.Token) {
	v.issuer, v.token = issuer, t
	v.key = v.policy.keyOf(issuer, hex.EncodeToString(t.ID[:]))
}

// provisional reports whether the client has no cookie yet. Until an upstream
// has answered, there is nothing that it could come back with.
func (v *visit) provisional() bool { return v.issuer != nil && !v.returned }

// unproven reports whether the key is made of an address that the request does not
// prove.
func (v *visit) unproven() bool { return v.early && v.addressed }

// terms are the policy's for this request.
func (v *visit) terms() *selection.Terms {
	switch {
	case v.provisional():
		provisional := v.policy.terms
		provisional.Provisional = true
		return &provisional
	case v.addressed && v.policy.fallback == nil && source.AfterEarlyData(v.request):
		byHash := v.policy.terms
		byHash.ByHash = true
		return &byHash
	}
	return &v.policy.terms
}

// sessions is the policy's store as this client sees it.
func (v *visit) sessions(pool *upstreams) sessionstore.Store {
	p := v.policy
	if v.unproven() {
		return selection.Unproven(p.store)
	}
	store := p.store
	if p.newSessions.N > 0 {
		store = &paced{p.store, v}
	}
	if !v.returned {
		return store
	}
	v.store = sessionstore.Carried{Store: store, Session: sessionstore.Session{
		Key: v.key, Scope: p.terms.Scope, Target: pool.named(p.keys, v.token),
		Created: v.token.Created, Expires: v.token.Expires,
		LastUsed: v.token.Seen, MaxIdle: p.terms.MaxIdle, MaxErrors: p.terms.MaxErrors,
		Errors: p.scope.Unstored.Errors(v.key, v.token.Created), Carried: true,
	}}
	return &v.store
}

// cookie returns the cookie to set now that an upstream has answered: none if
// what the client brought says all there is to say.
func (v *visit) cookie(target string) *http.Cookie {
	s, now := v.decision.Session, time.Now()
	if v.issuer == nil || s.Target != target || !v.stale(s, now) {
		return nil
	}
	p := v.policy
	value, err := p.keys.Seal(v.context(), p.terms.Scope, token.Token{
		ID: v.token.ID, Created: s.Created, Expires: s.Expires, Seen: now,
	}, target)
	if err != nil {
		p.logger.Error("cookie not sealed", zap.Error(err))
		return nil
	}
	if !v.returned || v.store.Unstored && !v.token.Created.Equal(s.Created) {
		p.store.Issue(s) // one that is only renewed was counted before
	}
	return v.issuer.Cookie(v.request, value)
}

// stale reports whether the client does not know its session as it is now.
func (v *visit) stale(s sessionstore.Session, now time.Time) bool {
	if !v.returned || !v.token.Created.Equal(s.Created) {
		return true
	}
	idle := v.policy.terms.MaxIdle
	return idle > 0 && now.Sub(v.token.Seen) >= idle/renewalParts
}
