// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore

import (
	"sync"
	"time"
)

const (
	// outstandingParts is how finely the end of carried sessions is known: to
	// that part of a lifetime.
	outstandingParts = 30

	// outstandingSlots has room for a lifetime, the part that is beginning and
	// the one that is ending.
	outstandingSlots = outstandingParts + 2
)

// Outstanding counts the sessions of one target that clients carry and that the
// store has not seen yet, by when they end. It is as large for a thousand as for
// a million of them. The zero value is ready for use.
type Outstanding struct {
	mu    sync.Mutex
	width int64 // of a slot, nanoseconds; zero: nothing was ever counted
	slots [outstandingSlots]outstandingSlot
}

// outstandingSlot counts what ends in one part of time.
type outstandingSlot struct {
	part int64 // the end of the part is part*width
	n    int
}

// Add counts a session.
func (o *Outstanding) Add(s Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if width := max(int64(s.Expires.Sub(s.Created))/outstandingParts, 1); width != o.width {
		o.resizeLocked(width)
	}
	o.slotLocked(s.Expires.UnixNano()).n++
}

// Redeem counts a session no longer: the store has it now. What was counted by
// another process, or by this one before a restart, is not missed.
func (o *Outstanding) Redeem(s Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.width == 0 {
		return
	}
	if slot := o.slotLocked(s.Expires.UnixNano()); slot.n > 0 {
		slot.n--
	}
}

// Sum returns how many sessions are not over at now.
func (o *Outstanding) Sum(now time.Time) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.width == 0 {
		return 0
	}
	n := 0
	for _, slot := range o.slots {
		if slot.part*o.width > now.UnixNano() {
			n += slot.n
		}
	}
	return n
}

// slotLocked returns the slot of sessions that end then. One that was of an
// earlier time begins anew.
func (o *Outstanding) slotLocked(end int64) *outstandingSlot {
	part := (end + o.width - 1) / o.width
	slot := &o.slots[part%outstandingSlots]
	if slot.part < part {
		*slot = outstandingSlot{part: part}
	}
	return slot
}

// resizeLocked sorts what was counted into slots of another width: the lifetime
// of sessions was changed.
func (o *Outstanding) resizeLocked(width int64) {
	old, oldWidth := o.slots, o.width
	o.width, o.slots = width, [outstandingSlots]outstandingSlot{}
	for _, slot := range old {
		if slot.n > 0 {
			o.slotLocked(slot.part * oldWidth).n += slot.n
		}
	}
}
