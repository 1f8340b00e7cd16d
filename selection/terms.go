// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"fmt"
	"time"
)

// Mode is what a failing target does to a session.
type Mode string

const (
	// Strict moves the session at the first error.
	Strict Mode = "strict"
	// Flex bears up to Terms.MaxErrors consecutive errors.
	Flex Mode = "flex"
	// NoRotate never moves the session: requests fail while its target is down.
	NoRotate Mode = "norotate"
)

// Validate refuses a mode that does not exist.
func (m Mode) Validate() error {
	switch m {
	case Strict, Flex, NoRotate:
		return nil
	}
	return fmt.Errorf("mode %q is unknown (have strict, flex, norotate)", string(m))
}

// OnFull is what becomes of a request whose session's target is full.
type OnFull string

const (
	// FullSpill serves it elsewhere and keeps the binding.
	FullSpill OnFull = "spill"
	// FullWait offers no target: whoever retries waits.
	FullWait OnFull = "wait"
	// FullMove moves the session.
	FullMove OnFull = "move"
)

// Validate refuses a choice that does not exist.
func (f OnFull) Validate() error {
	switch f {
	case FullSpill, FullWait, FullMove:
		return nil
	}
	return fmt.Errorf("on_full %q is unknown (have spill, wait, move)", string(f))
}

// Defaults of all doors.
const (
	DefaultTTL       = 15 * time.Minute
	DefaultMaxErrors = 15
)

// Terms are the rules of one decision.
type Terms struct {
	// Scope is where sessions are counted: a door and a name, "lb/shop".
	Scope string

	// TTL is the lifetime of a session that begins. Positive.
	TTL time.Duration

	// MaxIdle ends a session earlier that nobody uses; zero for no limit.
	MaxIdle time.Duration

	Mode Mode

	// MaxErrors is how many consecutive errors a session bears that begins
	// now, where its mode is Flex. Positive.
	MaxErrors int

	OnFull OnFull

	// Provisional assigns a target to a new session without claiming it. The
	// caller claims it itself once it knows that the target answers.
	Provisional bool

	// ByHash puts a session that begins where the hash of its key says, because
	// an earlier request of its client may have been put there (Unproven).
	ByHash bool
}

// Outcome is what was decided. A closed set: it labels metrics.
type Outcome string

// The outcomes; Outcomes says what they mean.
const (
	New     Outcome = "new"
	Kept    Outcome = "kept"
	Moved   Outcome = "moved"
	Spilled Outcome = "spilled"
	Refused Outcome = "refused"
	None    Outcome = "none"
)

// Reason is why a session was not simply kept. A closed set: it labels
// metrics.
type Reason string

// The reasons; Reasons says what they mean. The empty one is "nothing happened".
const (
	Expired     Reason = "expired"
	Idle        Reason = "idle"
	Down        Reason = "down"
	Full        Reason = "full"
	Draining    Reason = "draining"
	Gone        Reason = "gone"
	Errors      Reason = "errors"
	Rate        Reason = "rate"
	Invalid     Reason = "invalid"
	Unavailable Reason = "unavailable"
)
