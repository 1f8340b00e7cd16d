// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"github.com/caddy-sticky/caddy-sticky/selection"
)

// maxGatewaySlots bounds how many slots of one gateway one request tries. A failure
// of the gateway itself is the same in each slot; a second slot helps if the failure
// was of the first slot's session at the gateway.
const maxGatewaySlots = 2

// HasUntried reports whether the pool has a target that the request may still
// try. It counts targets and looks at those that were tried, so its cost does not
// depend on the size of the pool.
func HasUntried(exits Choice, tried []selection.Attempt[*Target]) bool {
	n := exits.Len()
	for i, a := range tried {
		switch {
		case !exits.holds(a.Target):
		case !a.Target.Spent(tried):
			n--
		case a.Target.FirstOf(tried[:i]):
			n -= len(a.Target.targets)
		}
	}
	return n > 0
}

// FirstOf reports whether none of the earlier attempts was made at the same exit.
func (o *Outlet) FirstOf(earlier []selection.Attempt[*Target]) bool {
	for _, a := range earlier {
		if a.Target.Outlet == o {
			return false
		}
	}
	return true
}

// Spent reports whether a request that made these attempts tries the exit no
// further, with no slot of it.
func (o *Outlet) Spent(tried []selection.Attempt[*Target]) bool {
	slots := 0
	for _, a := range tried {
		if a.Target.Outlet != o {
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
func unspent(outlets []*Outlet, tried []selection.Attempt[*Target]) []*Target {
	var list []*Target
	for _, o := range outlets {
		if !o.Spent(tried) {
			list = append(list, o.targets...)
			continue
		}
		for i, a := range tried {
			if a.Target.Outlet == o && !selection.Tried(tried[:i], a.Target) {
				list = append(list, a.Target)
			}
		}
	}
	return list
}
