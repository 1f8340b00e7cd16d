// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"slices"
	"sync/atomic"

	"github.com/caddy-sticky/caddy-sticky/sessionstore/token"
)

// Outcomes and Reasons are all there are: they label metrics. The first reason
// is none.
var (
	Outcomes = []Outcome{New, Kept, Moved, Spilled, Refused, None}
	Reasons  = []Reason{"", Expired, Idle, Down, Full, Draining, Gone, Errors, Rate, Invalid, Unavailable}
)

// Tally counts what was decided in a scope, and the cookies that were no good.
// The zero value is ready for use.
type Tally struct {
	decisions [6][11]atomic.Uint64
	rejected  [8]atomic.Uint64
}

// Decided counts a decision. Nothing is counted on a nil Tally.
func (t *Tally) Decided(o Outcome, r Reason) {
	outcome, reason := slices.Index(Outcomes, o), slices.Index(Reasons, r)
	if t != nil && outcome >= 0 && reason >= 0 {
		t.decisions[outcome][reason].Add(1)
	}
}

// Rejected counts a cookie that counts as absent.
func (t *Tally) Rejected(r token.Rejection) {
	if i := slices.Index(token.Rejections, r); t != nil && i >= 0 {
		t.rejected[i].Add(1)
	}
}

// Decisions returns how often an outcome had a reason.
func (t *Tally) Decisions(o Outcome, r Reason) uint64 {
	return t.decisions[slices.Index(Outcomes, o)][slices.Index(Reasons, r)].Load()
}

// Rejections returns how many cookies were rejected for a reason.
func (t *Tally) Rejections(r token.Rejection) uint64 {
	return t.rejected[slices.Index(token.Rejections, r)].Load()
}
