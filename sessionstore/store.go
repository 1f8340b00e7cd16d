// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package sessionstore remembers which session is bound to which target.
//
// A session is a binding of a key to a target with a lifetime of its own. A
// Store answers three questions about it: who holds this key now (Get), may I
// have it (Claim, Replace), and how many sessions has a target (Count). The
// memory store keeps them in this process; they outlive a configuration
// reload, because the table belongs to the process and not to the
// configuration that asked for it.
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

// Errors that a Store answers with. They are compared with errors.Is.
var (
	// ErrFull means that the store holds as many live sessions as it may
	// (max_sessions). Nothing was changed.
	ErrFull = errors.New("session store is full")

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

	// Target is the identity of what the session is bound to.
	Target string

	// Created and Expires bound the session's life: it is live while the clock
	// is before Expires. Requests do not move either of them. Resolution:
	// nanoseconds, wall clock.
	Created, Expires time.Time

	// LastUsed is when a request last used the session, to the second.
	LastUsed time.Time

	// MaxErrors is how many consecutive errors the session bears before it
	// moves, when its mode is to bear any. It is settled when the session is
	// created.
	MaxErrors int

	// Errors counts consecutive errors of the session's target.
	Errors int
}

// Live reports whether the session has begun and is not over at now.
func (s Session) Live(now time.Time) bool {
	return s.Target != "" && now.Before(s.Expires)
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

// Store remembers sessions. All methods may be called concurrently, before the
// store is started (they wait, but no longer than a few seconds and no longer
// than ctx: ErrNotReady or the context's error) and after it was closed
// (ErrClosed).
//
// What a call answers is true at some moment between its beginning and its
// end. An answered Claim or Replace is visible to every later Get, of any
// goroutine. A live session is never forgotten.
//
// Time is the wall clock of the process that runs the store.
type Store interface {
	// Get returns the session that key names. It may be one that is over, see
	// Session.Live: a store remembers for a while (one more lifetime, an hour
	// at most) where an expired session was, so that the next one can be put
	// elsewhere. The zero Session means that nothing is known. Get of a live
	// session takes no lock that all requests share and allocates nothing.
	Get(ctx context.Context, key Key) (Session, error)

	// Claim binds s.Key to s.Target unless the key has a live session. It
	// returns the session that holds the key now and whether it is s. Of
	// concurrent claims of one key exactly one wins, and all return the
	// winner's session. ErrFull if there is no room for another session.
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

	// End ends the session of key, if there is one: Get then knows nothing of it.
	End(ctx context.Context, key Key) error

	// All yields every live session, each once, in no order. Sessions that
	// begin or end meanwhile may be missing.
	All(ctx context.Context) iter.Seq2[Session, error]

	// Count returns how many live sessions a target of a scope has. An
	// expired session may be counted for up to a second.
	Count(ctx context.Context, scope, target string) (int, error)

	// Len returns how many live sessions there are. As with Count, an expired
	// one may be counted for up to a second.
	Len(ctx context.Context) (int, error)

	// OnFull says what becomes of a request whose session the store has no
	// room for.
	OnFull() OnFull
}

// OnFull is what becomes of a request whose session the store has no room for.
type OnFull string

const (
	// FullRefuse answers it with 503.
	FullRefuse OnFull = "refuse"
	// FullHash places it by rendezvous hash, unremembered.
	FullHash OnFull = "hash"
)
