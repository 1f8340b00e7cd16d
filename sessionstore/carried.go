// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore

import (
	"context"
	"errors"
	"time"
)

// Carried is a Store as one client sees it that carries its session along, in a
// signed cookie. What the store knows of the key counts more than what the
// client carries; where it knows nothing, the client's session is claimed when
// it comes back for the first time. Where the store has no room or is away, the
// session goes on, carried by the client alone.
type Carried struct {
	Store

	// Session is what the client carries. It may be over: then it says where
	// the client was. Its Target may be one that exists no more.
	Session Session

	// Unstored is set by a call that went on without the store: what it
	// answered is to be given to the client.
	Unstored bool
}

// Get returns what the store knows of the key; if that is nothing, or older than
// what the client carries, the client's session is put into the store.
func (c *Carried) Get(ctx context.Context, key Key) (Session, error) {
	known, err := c.Store.Get(ctx, key)
	switch {
	case withoutStore(err):
		c.Unstored = true
		return c.Session, nil
	case err != nil:
		return Session{}, err
	case !c.Session.Created.After(known.Created) || !c.Session.Created.After(known.Ended):
		return known, nil
	case !c.Session.Live(time.Now()):
		if known.Target != "" {
			return known, nil
		}
		return c.Session, nil
	}
	var holder Session
	if known.Target != "" {
		// A newer binding than the store's own: another machine's, whose table
		// is not this one.
		holder, _, err = c.Store.Replace(ctx, known, c.Session)
	}
	if err == nil && holder.Key.IsZero() { // it knows nothing, or no more
		holder, _, err = c.Store.Claim(ctx, c.Session)
	}
	if withoutStore(err) {
		c.Unstored = true
		return c.Session, nil
	}
	return holder, err
}

// Claim binds the key in the store, or if that has no room, in what the client
// is given.
func (c *Carried) Claim(ctx context.Context, s Session) (Session, bool, error) {
	holder, won, err := c.Store.Claim(ctx, s)
	if c.Unstored = withoutStore(err); c.Unstored {
		return s, true, nil
	}
	return holder, won, err
}

// Replace moves a session that may be in the store or carried by the client only.
func (c *Carried) Replace(ctx context.Context, old, next Session) (Session, bool, error) {
	holder, swapped, err := c.Store.Replace(ctx, old, next)
	c.Unstored = withoutStore(err)
	switch {
	case c.Unstored:
		return next, true, nil
	case err == nil && !swapped && holder.Key.IsZero() && old.Same(c.Session):
		return c.Claim(ctx, next)
	}
	return holder, swapped, err
}

// withoutStore reports whether a session can only go on carried by its client.
func withoutStore(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, ErrUnavailable)
}
