// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/caddy-sticky/caddy-sticky/internal/pace"
)

// passwords verifies them. A hash that is slow to verify is verified once: what
// is remembered of a right password is a digest under a key that nobody knows
// and that ends with the configuration.
type passwords struct {
	secret   [sha256.Size]byte
	seed     maphash.Seed
	inFlight singleflight.Group
	attempts *attempts
}

func newPasswords(a *attempts) *passwords {
	p := &passwords{attempts: a, seed: maphash.MakeSeed()}
	_, _ = rand.Read(p.secret[:]) // never fails
	return p
}

// verify returns the account of that name if password is its own, and nil if
// not. It takes as long for an account that does not exist. The error is a
// refusal where the client tried too often.
func (p *passwords) verify(r *http.Request, all *roster, name, password string) (*Entry, error) {
	now := time.Now()
	var addr netip.Addr
	quiet := p.attempts.quiet()
	if !quiet {
		addr = pace.ClientAddr(r)
		if err := p.attempts.blocked(addr, now); err != nil {
			return nil, err
		}
	}
	acct, exists := all.byName[name]
	digest := p.digest(name, password)
	if exists {
		if known := acct.verified.Load(); known != nil && subtle.ConstantTimeCompare(known[:], digest[:]) == 1 {
			if !quiet {
				p.attempts.succeeded(addr, name)
			}
			return acct, nil
		}
	}
	if quiet {
		addr = pace.ClientAddr(r)
	}
	if !exists {
		if acct = all.stranger(maphash.String(p.seed, name)); acct == nil {
			return nil, nil //nolint:nilnil // there are no accounts at all
		}
	}
	ok, err := p.compare(r.Context(), addr, acct, exists, name, password, digest)
	if !ok || err != nil {
		return nil, err
	}
	return acct, nil
}

// compare verifies a password against the hash. Requests that bring the same
// one at the same time wait for one verification, which is one attempt.
func (p *passwords) compare(ctx context.Context, addr netip.Addr, acct *Entry, exists bool, name, password string, digest [sha256.Size]byte) (bool, error) {
	result := p.inFlight.DoChan(string(digest[:]), func() (any, error) {
		leave, err := p.attempts.enter(addr)
		if err != nil {
			return false, err
		}
		defer leave()
		ok, err := acct.comparer.Compare(acct.hash, []byte(password))
		if err != nil {
			return false, fmt.Errorf("verifying the password of account %q: %w", name, err)
		}
		if ok = ok && exists; ok {
			acct.verified.Store(&digest)
			p.attempts.succeeded(addr, name)
		} else {
			p.attempts.failed(addr, name, time.Now())
		}
		return ok, nil
	})
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case r := <-result:
		return r.Err == nil && r.Val.(bool), r.Err
	}
}

// digest is what is remembered in place of a password. It never leaves this
// process, so that what a secret before a text allows (to append to it) is of
// no use.
func (p *passwords) digest(name, password string) [sha256.Size]byte {
	var stack [1024]byte
	b := append(stack[:0], p.secret[:]...)
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	b = append(b, password...)
	return sha256.Sum256(b)
}
