// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"time"

	"github.com/caddy-sticky/caddy-sticky/forward/pool"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/selection"
)

// A client chooses the destination, and an exit may fail because of it. So these
// bounds are also how many times one request of a client is multiplied.
const (
	// maxAttempts bounds how many targets one request tries.
	maxAttempts = 5

	// attemptsWithin bounds, in units of dial_timeout, how long after the request
	// came another attempt may begin.
	attemptsWithin = 3
)

// movesOn reports whether the mode lets a request leave an exit that failed.
func (c *client) movesOn() bool { return c.terms.Mode == selection.Strict || c.key.IsZero() }

// mayRepeat reports whether the request may go on at another exit after this
// failure. If the exit may have got the request, only an idempotent request
// without a body is sent again, and only once (RFC 9110 §9.2.2).
func (c *client) mayRepeat(failure *proxystatus.ExitError) bool {
	switch {
	case c.body.WasRead():
		return false
	case !failure.Sent:
		return true
	case !c.repeatable || c.repeated:
		return false
	}
	c.repeated = true
	return true
}

// hasAttempts reports whether the bounds leave another attempt, and the pool a
// target for it.
func (c *client) hasAttempts() bool {
	return c.begun < maxAttempts &&
		time.Since(c.came) <= attemptsWithin*time.Duration(c.handler.DialTimeout) &&
		pool.HasUntried(c.exits(), c.tried)
}
