// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package sessionstore remembers which session is bound to which target.
//
// A session is a binding of a key to a target with a lifetime of its own. A
// Store answers three questions about it: who holds this key now (Get), may I
// have it (Claim, Replace), and how many sessions has a target (Count). The
// stores are in packages below this one; here is what they have in common.
//
// The package knows nothing of HTTP, upstreams or exits: a target is a stable
// string.
package sessionstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// RemainsLimit is how long at most a store remembers an expired session's
// target, so that the next session can be put elsewhere.
const RemainsLimit = time.Hour

// Errors that a Store answers with. They are compared with errors.Is. None of
// them leaves anything half done, but for ErrUnavailable after a write whose
// answer was lost: that write may have happened.
var (
	// ErrFull means that the store holds as many live sessions as it may
	// (max_sessions). Nothing was changed.
	ErrFull = errors.New("session store is full")

	// ErrUnavailable means that the store's server did not answer in time, or
	// with an error.
	ErrUnavailable = errors.New("session store is unavailable")

	// ErrClosed means that the store was closed; nothing was changed.
	ErrClosed = errors.New("session store is closed")

	// ErrNotReady means that the store was not started in time.
	ErrNotReady = errors.New("session store is not ready")
)

// Key names a session: a digest of a scope and of all parts that identify the
// session in it. Two keys are equal only if all of their parts are.
type Key [16]byte

// IsZero reports whether k names no session.
func (k Key) IsZero() bool { return k == Key{} }

// KeyOf digests the parts of a key. Each part is preceded by its length, so
// that no two different lists of parts have the same digest input. It
// allocates nothing while the parts fit into 512 bytes.
func KeyOf(parts ...string) Key {
	var stack [512]byte
	buf := stack[:0]
	for _, part := range parts {
		buf = binary.AppendUvarint(buf, uint64(len(part)))
		buf = append(buf, part...)
	}
	digest := sha256.Sum256(buf)
	return Key(digest[:16])
}

// CheckName refuses a name that a store, a policy or a proxy cannot have: names
// are letters, digits, hyphens, underscores and dots, so that they can stand in
// scopes, cookies and labels as they are.
func CheckName(name string) error {
	invalid := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	}
	if name == "" || strings.ContainsFunc(name, invalid) {
		return fmt.Errorf("%q is not a name: use letters, digits, hyphens, underscores and dots", name)
	}
	return nil
}

// Session is a binding of a key to a target.
type Session struct {
	// Key names the session.
	Key Key

	// Scope is where the target is counted: the door and the name of a policy
	// or proxy, such as "lb/shop". Targets of different scopes are different.
	Scope string

	// Target is the identity of what the session is bound to. Empty where that
	// is not known any more: a client may carry the name of one that is gone.
	Target string

	// Created and Expires bound the session's life: it is live while the clock
	// is before Expires. Requests do not move either of them. Resolution:
	// nanoseconds, wall clock.
	Created, Expires time.Time

	// LastUsed is when a request last used the session, to the second.
	LastUsed time.Time

	// MaxIdle is how long the session lives without being used, zero for as
	// long as it likes. It is settled when the session is created, to the
	// millisecond.
	MaxIdle time.Duration

	// MaxErrors is how many consecutive errors the session bears before it
	// moves, when its mode is to bear any. It is settled when the session is
	// created.
	MaxErrors int

	// Errors counts consecutive errors of the session's target.
	Errors int

	// Ended is when the session was ended before its time; zero if it was not.
	// What is left of an ended session is a tombstone, with no target: until
	// Expires no session that was created before Ended gets its key again.
	Ended time.Time

	// Carried says that the binding comes from the client (a signed cookie)
	// and was not in the store before, but in its counts, see Store.Issue.
	Carried bool
}

// Live reports whether the session has begun and is not over at now.
func (s Session) Live(now time.Time) bool {
	return s.Target != "" && now.Before(s.Expires) && !s.Idle(now)
}

// Idle reports whether the session is over at now because nobody used it.
func (s Session) Idle(now time.Time) bool {
	return s.MaxIdle > 0 && !now.Before(s.LastUsed.Add(s.MaxIdle))
}

// Same reports whether s and o are the same binding: one key, one target, one
// moment of creation. LastUsed and Errors may differ.
func (s Session) Same(o Session) bool {
	return s.Key == o.Key && s.Target == o.Target && s.Created.Equal(o.Created)
}

// Use is how a request that used a session ended.
type Use uint8

const (
	// Succeeded sets the count of consecutive errors back to zero.
	Succeeded Use = iota
	// Failed adds one to the count of consecutive errors.
	Failed
	// Looked changes no error count.
	Looked
)

// Store remembers sessions.
//
// What is atomic: each call for itself. What a call answers is true at some
// moment between its beginning and its end, and what Claim, Replace and End
// change is seen by every later Get, of any goroutine and any process that has
// the same store. A live session is never forgotten by a store that is up.
//
// What blocks: calls before the store is started wait for that, but no longer
// than a few seconds (ErrNotReady). A store on another machine waits for it no
// longer than its timeout (ErrUnavailable). All calls return when ctx is done,
// with its cause, and a call that was cancelled has changed nothing or all it
// was to change. Calls after the store was closed fail with ErrClosed. All
// methods may be called concurrently.
//
// Clocks: Created, Expires, LastUsed and Ended are of the wall clock of the
// process that wrote them, so machines that share a store share the time.
type Store interface {
	// Get returns the session that key names. It may be one that is over, see
	// Session.Live: a store may remember for a while (one more lifetime, an
	// hour at most) where an expired session was, so that the next one can be
	// put elsewhere. It may be a tombstone, see Session.Ended. The zero Session
	// means that nothing is known. Get of a live session takes no lock that all
	// requests share, allocates nothing, and asks no other machine.
	Get(ctx context.Context, key Key) (Session, error)

	// Claim binds s.Key to s.Target unless the key has a live session, or a
	// tombstone that is not older than s.Created. It returns the session that
	// holds the key now and whether it is s. Of concurrent claims of one key
	// exactly one wins, and all return the winner's session. ErrFull if there
	// is no room for another session.
	Claim(ctx context.Context, s Session) (holder Session, won bool, err error)

	// Replace binds old.Key to next.Target if the key's session is still old,
	// see Session.Same, whether live or over. It returns the session that
	// holds the key now (the zero Session if none does) and whether it is
	// next. It needs no room in the store unless old is over.
	Replace(ctx context.Context, old, next Session) (holder Session, swapped bool, err error)

	// Touch notes that a request used s at now, and how that ended. It
	// returns the session's count of consecutive errors after that. If the
	// key's session is no longer s, nothing is noted and the answer is s.Errors.
	Touch(ctx context.Context, s Session, now time.Time, use Use) (errors int, err error)

	// End ends the session of key and leaves a tombstone in its place until
	// the session would be over, or until that time if it is later: then even
	// a client that carries the session cannot bring it back. Ending a key
	// that has no session leaves a tombstone as well, if until is to come.
	// Tombstones need no room and are not counted.
	End(ctx context.Context, key Key, until time.Time) error

	// Issue notes that a client was given s to carry, and that s is not in the
	// store. Count counts it until s expires or is claimed as Carried.
	Issue(s Session)

	// All yields every live session and every tombstone, each once, in no
	// order. Sessions that begin or end meanwhile may be missing.
	All(ctx context.Context) iter.Seq2[Session, error]

	// Count returns how many live sessions a target of a scope has, those that
	// clients carry (Issue) included. A session that is over may be counted for
	// up to a second, a carried one for up to a thirtieth of its lifetime.
	Count(ctx context.Context, scope, target string) (int, error)

	// Len returns how many live sessions the store holds. As with Count, an
	// expired one may be counted for up to a second.
	Len(ctx context.Context) (int, error)

	// Fallback says what becomes of a request whose session the store could
	// not look up or remember because of err, which is one of its own.
	Fallback(err error) Fallback

	// Missed is when the store last could not look up or remember a session,
	// so that requests were placed by hash; zero if that never happened. For a
	// lifetime after it, a session that begins is put where the hash says, so
	// that none moves when the store is itself again.
	Missed() time.Time
}

// Fallback is what becomes of a request whose session the store cannot look up
// or remember.
type Fallback string

const (
	// FallbackRefuse answers it with 503.
	FallbackRefuse Fallback = "refuse"
	// FallbackHash places it by rendezvous hash, unremembered.
	FallbackHash Fallback = "hash"
)
