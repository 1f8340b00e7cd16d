// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"sync/atomic"

	"github.com/caddy-sticky/caddy-sticky/internal/closedset"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/token"
)

// Outcomes are all outcomes.
var Outcomes = [...]closedset.Member[Outcome]{
	{Name: New, Meaning: "a session begins"},
	{Name: Kept, Meaning: "the request goes where its session is"},
	{Name: Moved, Meaning: "the session goes to another target"},
	{Name: Spilled, Meaning: "this request goes elsewhere, and the session stays where it is"},
	{Name: Refused, Meaning: "no target can serve the request now"},
	{Name: None, Meaning: "the request names no session"},
}

// Reasons are all reasons. The first one is none.
var Reasons = [...]closedset.Member[Reason]{
	{Name: "", Meaning: "nothing happened to the session"},
	{Name: Expired, Meaning: "the session was over"},
	{Name: Idle, Meaning: "the session was not used for `max_idle`"},
	{Name: Down, Meaning: "its target is down"},
	{Name: Full, Meaning: "its target, or the store, has as many as it may"},
	{Name: Draining, Meaning: "its target is drained: does not occur yet, such a target keeps its sessions"},
	{Name: Gone, Meaning: "its target is no longer configured"},
	{Name: Errors, Meaning: "its target failed"},
	{Name: Rate, Meaning: "its exit has had as many requests as its `rate` allows"},
	{Name: Invalid, Meaning: "its cookie was rejected"},
	{Name: Unavailable, Meaning: "the store did not answer"},
}

// Tally counts what was decided in a scope, and the cookies that were no good.
// The zero value is ready for use.
type Tally struct {
	decisions [len(Outcomes)][len(Reasons)]atomic.Uint64
	rejected  [len(token.Rejections)]atomic.Uint64
}

// Decided counts a decision. Nothing is counted on a nil Tally.
func (t *Tally) Decided(o Outcome, r Reason) {
	outcome, reason := closedset.Index(Outcomes[:], o), closedset.Index(Reasons[:], r)
	if t != nil && outcome >= 0 && reason >= 0 {
		t.decisions[outcome][reason].Add(1)
	}
}

// Rejected counts a cookie that counts as absent.
func (t *Tally) Rejected(r token.Rejection) {
	if i := closedset.Index(token.Rejections[:], r); t != nil && i >= 0 {
		t.rejected[i].Add(1)
	}
}

// Decisions returns how often an outcome had a reason.
func (t *Tally) Decisions(o Outcome, r Reason) uint64 {
	return t.decisions[closedset.Index(Outcomes[:], o)][closedset.Index(Reasons[:], r)].Load()
}

// Rejections returns how many cookies were rejected for a reason.
func (t *Tally) Rejections(r token.Rejection) uint64 {
	return t.rejected[closedset.Index(token.Rejections[:], r)].Load()
}
