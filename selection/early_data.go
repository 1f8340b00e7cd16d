// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// ErrUnproven means that a session of the client's address would begin or move
// before the address is proved.
var ErrUnproven = errors.New("the client's address is not proved before the handshake is complete")

// unproven is the store of Unproven.
type unproven struct{ sessionstore.Store }

// Unproven returns the store for a session whose id is made of an address that the
// request does not prove, because it was sent in early data. A live session is
// found, and nothing is written: none begins, moves or is touched. A request that
// would begin one is placed by hash, as one whose session cannot be remembered.
func Unproven(store sessionstore.Store) sessionstore.Store { return unproven{store} }

// Get implements sessionstore.Store. Where no session lives, it returns an error, so
// that Decide does not choose a target that the hash then overrules: a fallback
// policy may count its choices or set a cookie.
func (s unproven) Get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	session, err := s.Store.Get(ctx, key)
	if err == nil && !session.Live(time.Now()) {
		return sessionstore.Session{}, ErrUnproven
	}
	return session, err
}

// Claim implements sessionstore.Store. It is called if the session expires right
// after Get.
func (unproven) Claim(context.Context, sessionstore.Session) (sessionstore.Session, bool, error) {
	return sessionstore.Session{}, false, ErrUnproven
}

// Replace implements sessionstore.Store.
func (unproven) Replace(context.Context, sessionstore.Session, sessionstore.Session) (sessionstore.Session, bool, error) {
	return sessionstore.Session{}, false, ErrUnproven
}

// Touch implements sessionstore.Store.
func (unproven) Touch(_ context.Context, session sessionstore.Session, _ time.Time, _ sessionstore.Use) (int, error) {
	return session.Errors, nil
}

// Fallback implements sessionstore.Store.
func (s unproven) Fallback(err error) sessionstore.Fallback {
	if errors.Is(err, ErrUnproven) {
		return sessionstore.FallbackHash
	}
	return s.Store.Fallback(err)
}
