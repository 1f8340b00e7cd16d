// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"time"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/selection"
)

// A client chooses the destination, and an exit may fail because of it. So these
// bounds are also how many times one request of a client is multiplied.
const (
	// maxAttempts bounds how many targets one request tries.
	maxAttempts = 5

	// maxGatewaySlots bounds how many slots of one gateway one request tries. A
	// failure of the gateway itself is the same in each slot; a second slot helps
	// if the failure was of the first slot's session at the gateway.
	maxGatewaySlots = 2

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
		hasUntried(c.exits(), c.tried)
}

// hasUntried reports whether the pool has a target that the request may still
// try. It counts targets and looks at those that were tried, so its cost does not
// depend on the size of the pool.
func hasUntried(exits choice, tried []selection.Attempt[*target]) bool {
	n := exits.Len()
	for i, a := range tried {
		switch {
		case !exits.holds(a.Target):
		case !a.Target.spent(tried):
			n--
		case a.Target.firstOf(tried[:i]):
			n -= len(a.Target.targets)
		}
	}
	return n > 0
}

// firstOf reports whether none of the earlier attempts was made at the same exit.
func (o *outlet) firstOf(earlier []selection.Attempt[*target]) bool {
	for _, a := range earlier {
		if a.Target.outlet == o {
			return false
		}
	}
	return true
}

// spent reports whether a request that made these attempts tries the exit no
// further, with no slot of it.
func (o *outlet) spent(tried []selection.Attempt[*target]) bool {
	slots := 0
	for _, a := range tried {
		if a.Target.outlet != o {
			continue
		}
		if slots++; a.Whole || slots >= min(maxGatewaySlots, len(o.targets)) {
			return true
		}
	}
	return false
}

// unspent returns the targets of these exits without those that are spent. The
// tried targets are among them: if nothing else is left, Caddy's retries use them
// again.
func unspent(outlets []*outlet, tried []selection.Attempt[*target]) []*target {
	var list []*target
	for _, o := range outlets {
		if !o.spent(tried) {
			list = append(list, o.targets...)
			continue
		}
		for i, a := range tried {
			if a.Target.outlet == o && !selection.Tried(tried[:i], a.Target) {
				list = append(list, a.Target)
			}
		}
	}
	return list
}
