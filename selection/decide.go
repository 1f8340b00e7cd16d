// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package selection decides who goes where.
//
// Decide is the one function that settles affinity; all doors call it. A
// request names a session by a key; the store says which target the session
// is bound to; the pool says in what state that target is; the terms say what
// follows.
//
// It opens no connection and knows nothing of HTTP, exits or credentials.
package selection

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// Target is what a session can be bound to.
type Target interface {
	comparable

	// String is the target's identity: stable across reloads and restarts,
	// and free of secrets.
	String() string

	// Healthy is false while the target is known to be down.
	Healthy() bool

	// Full is true while the target takes no more requests.
	Full() bool
}

// rester is a Target that may want a rest: it failed a moment ago, and is not
// known to be down. Strict and new sessions stay away from it.
type rester interface{ Resting() bool }

// gate is a Pool that keeps new sessions off some of its targets.
type gate[T Target] interface {
	// Bars returns why a target takes no new session: Draining, Full (it has as
	// many as it may) or Rate. Empty if it takes one.
	Bars(ctx context.Context, t T) Reason
}

// absentees is a Pool that may miss a target for a moment.
type absentees interface {
	// Absent reports whether a target that is not in the pool counts as down and
	// not as gone.
	Absent(identity string) bool
}

// limited is a Target that takes only so many requests in a time. Strict sessions
// leave it to others for a while, as they leave one that is full.
type limited interface{ Limited() bool }

// Pool is the targets of one decision.
type Pool[T Target] interface {
	// Lookup finds a target by its identity, at a cost that does not depend on
	// the size of a static pool.
	Lookup(identity string) (T, bool)

	// Targets returns all targets. The slice must not be changed.
	Targets() []T
}

// Decision is what Decide settled.
type Decision[T Target] struct {
	// Target serves the request; the zero value where Outcome is Refused.
	Target T

	// Session is the session of the request after the decision: zero if it has
	// none, and without a claim where Terms.Provisional asked for that.
	Session sessionstore.Session

	Outcome Outcome
	Reason  Reason
}

const (
	// maxRounds bounds how often a decision starts anew because another
	// request changed the session in that moment. Each round somebody else's
	// change went through.
	maxRounds = 16

	// touchInterval is how exactly LastUsed follows a session's use; a session
	// in use writes no more often.
	touchInterval = time.Second

	// idleParts is how exactly the limit of a session's idleness is kept: to
	// that part of it.
	idleParts = 64
)

// Decide settles which target serves a request, and binds its session to it.
//
// Key names the session; a zero key means that the request names none: it is
// assigned a target and nothing is remembered. Tried are the attempts that failed
// in this request; their targets are not offered again while another target may
// be. A target that the pool reports as spent is not offered at all.
//
// A decision is made even where it is to serve nobody: Outcome is Refused then.
// Where the store is full or away, what it says is done (sessionstore.Fallback).
// An error means that the store failed otherwise; it changed nothing.
func Decide[T Target](ctx context.Context, store sessionstore.Store, key sessionstore.Key, terms *Terms, pool Pool[T], tried []Attempt[T], placer Placer[T]) (Decision[T], error) {
	if key.IsZero() {
		return place(placing[T]{ctx: ctx, pool: pool, tried: tried}, placer), nil
	}
	for range maxRounds {
		session, err := store.Get(ctx, key)
		now := time.Now()
		switch {
		case Unremembered(err):
			return fallBack(ctx, store, err, key, terms, pool, tried, now), nil
		case err != nil:
			return Decision[T]{}, err
		}
		if !session.Live(now) {
			decision, settled, err := begin(ctx, store, key, session, terms, pool, tried, placer, now)
			if settled || err != nil {
				return decision, err
			}
			continue
		}

		target, verdict, reason := judge(session, terms, pool, tried)
		switch verdict {
		case keep:
			if now.Sub(session.LastUsed) >= touchEvery(session) {
				// That the store cannot note it is no reason to serve nobody.
				_, _ = store.Touch(ctx, session, now, sessionstore.Looked)
			}
			return Decision[T]{Target: target, Session: session, Outcome: Kept}, nil
		case refuse:
			return Decision[T]{Session: session, Outcome: Refused, Reason: reason}, nil
		case spill:
			decision := place(placing[T]{ctx: ctx, pool: pool, tried: tried, avoid: session.Target}, placer)
			decision.Session, decision.Reason = session, reason
			switch {
			case decision.Target == target: // there is no other one
				decision.Outcome, decision.Reason = Kept, ""
			case decision.Outcome != Refused:
				decision.Outcome = Spilled
			}
			return decision, nil
		case moveOn:
			decision, settled, err := move(ctx, store, session, target, terms, pool, tried, placer, reason, now)
			if settled || err != nil {
				return decision, err
			}
		}
	}
	return Decision[T]{}, ErrContended
}

// touchEvery is how often the use of a session is noted.
func touchEvery(s sessionstore.Session) time.Duration {
	if s.MaxIdle > 0 {
		return min(touchInterval, s.MaxIdle/idleParts)
	}
	return touchInterval
}

// ErrContended is as good as impossible: it takes one change of the session by
// others in each of maxRounds rounds.
var ErrContended = errors.New("the session changes faster than it can be read")

// verdict is what becomes of a live session.
type verdict uint8

const (
	keep verdict = iota
	moveOn
	spill
	refuse
)

// judge says what becomes of a live session, by its target's state and the
// mode. The target is zero if it is not in the pool.
func judge[T Target](session sessionstore.Session, terms *Terms, pool Pool[T], tried []Attempt[T]) (T, verdict, Reason) {
	target, ok := pool.Lookup(session.Target)
	switch {
	case !ok && len(pool.Targets()) == 0:
		// An empty pool says nothing about a target: a source that failed for a
		// moment answers with one.
		return target, refuse, Down
	case !ok && absent(pool, session.Target):
		if terms.Mode == NoRotate {
			return target, refuse, Down
		}
		return target, moveOn, Down
	case !ok:
		return target, moveOn, Gone
	case Tried(tried, target) || spent(pool, target, tried):
		switch {
		case terms.Mode == NoRotate:
			return target, keep, ""
		case terms.Mode == Flex && session.Errors < session.MaxErrors:
			return target, spill, Errors
		}
		return target, moveOn, Errors
	case !target.Healthy():
		if terms.Mode == NoRotate {
			return target, refuse, Down
		}
		return target, moveOn, Down
	case terms.Mode == Flex && session.Errors >= session.MaxErrors,
		terms.Mode == Strict && session.Errors > 0:
		// The error may be an earlier request's, which had no way to go on.
		return target, moveOn, Errors
	case terms.Mode == Strict && resting(target):
		return target, moveOn, Down
	case target.Full():
		verdict := terms.full()
		return target, verdict, Full
	case terms.Mode == Strict && overRate(target):
		verdict := terms.full()
		return target, verdict, Rate
	}
	return target, keep, ""
}

// full is what becomes of a session whose target is full.
func (t *Terms) full() verdict {
	switch {
	case t.Mode == NoRotate || t.OnFull == FullWait:
		return refuse
	case t.OnFull == FullMove:
		return moveOn
	}
	return spill
}

// begin starts a session for a key that has none, or one that is over. It is
// not settled if another request did so in the meantime.
func begin[T Target](ctx context.Context, store sessionstore.Store, key sessionstore.Key, over sessionstore.Session, terms *Terms, pool Pool[T], tried []Attempt[T], placer Placer[T], now time.Time) (Decision[T], bool, error) {
	avoid := over.Target
	if missed := store.Missed(); !terms.Provisional && (terms.ByHash || now.Sub(missed) < terms.TTL) {
		placer = Hash[T](key, terms.TTL)
		if terms.ByHash || missed.After(over.Expires) || over.Idle(missed) {
			avoid = "" // the hash may have put it there again meanwhile
		}
	}
	decision := place(placing[T]{ctx: ctx, pool: pool, tried: tried, avoid: avoid, begins: true}, placer)
	if decision.Outcome == Refused {
		return decision, true, nil
	}
	decision.Outcome = New
	switch {
	case over.Target == "" && over.Created.IsZero():
	case over.Target == "" && now.Before(over.Expires):
		if decision.Reason = Gone; terms.Mode != NoRotate {
			decision.Outcome = Moved
		}
	case now.Before(over.Expires):
		decision.Reason = Idle
	default:
		decision.Reason = Expired
	}
	decision.Session = terms.Bind(key, decision.Target.String(), now, over)
	if terms.Provisional {
		return decision, true, nil
	}
	holder, won, err := store.Claim(ctx, decision.Session)
	switch {
	case Unremembered(err):
		return fallBack(ctx, store, err, key, terms, pool, tried, now), true, nil
	case err != nil:
		return Decision[T]{}, false, err
	}
	decision.Session = holder
	return decision, won, nil
}

// move binds a live session to another target. It stays where it is if there
// is no other target and its own one can still be asked. It is not settled if
// another request changed the session in the meantime.
func move[T Target](ctx context.Context, store sessionstore.Store, session sessionstore.Session, current T, terms *Terms, pool Pool[T], tried []Attempt[T], placer Placer[T], reason Reason, now time.Time) (Decision[T], bool, error) {
	var none T
	decision := place(placing[T]{ctx: ctx, pool: pool, tried: tried, avoid: session.Target, begins: true}, placer)
	// Its own target may be barred to new sessions: this one is none.
	usable := current != none && current.Healthy() && !current.Full() && (Tried(tried, current) || !spent(pool, current, tried))
	if decision.Outcome == Refused && !usable {
		decision.Session = session
		return decision, true, nil
	}
	if decision.Outcome == Refused || decision.Target == current || reason == Down && usable && resting(decision.Target) {
		// There is nothing better.
		return Decision[T]{Target: current, Session: session, Outcome: Kept}, true, nil
	}
	decision.Outcome, decision.Reason = Moved, reason
	if terms.Mode == NoRotate {
		// Such a session never moves: what begins here is another one.
		decision.Outcome = New
	}
	next := terms.Bind(session.Key, decision.Target.String(), now, session)
	holder, swapped, err := store.Replace(ctx, session, next)
	switch {
	case errors.Is(err, sessionstore.ErrFull), Unremembered(err) && store.Fallback(err) == sessionstore.FallbackRefuse:
		return Decision[T]{Session: session, Outcome: Refused, Reason: missing(err)}, true, nil
	case Unremembered(err):
		// The move is made for this request and by the hash, so that the next
		// one comes to the same target.
		failed := slices.Clip(tried)
		if current != none {
			failed = append(failed, Attempt[T]{Target: current})
		}
		decision = place(placing[T]{ctx: ctx, pool: pool, tried: failed}, Hash[T](session.Key, terms.TTL))
		decision.Outcome, decision.Reason, decision.Session = Spilled, reason, session
		return decision, true, nil
	case err != nil:
		return Decision[T]{}, false, err
	}
	decision.Session = holder
	return decision, swapped, nil
}

// ErrPaced means that a client's address begins more sessions than it may.
var ErrPaced = errors.New("too many sessions begin at this address")

// Unremembered reports whether an error of the store means that it cannot look
// up or remember a session, so that there is a fallback.
func Unremembered(err error) bool {
	return errors.Is(err, sessionstore.ErrFull) || errors.Is(err, sessionstore.ErrUnavailable) ||
		errors.Is(err, ErrPaced) || errors.Is(err, ErrUnproven)
}

// missing is the reason that such an error gives.
func missing(err error) Reason {
	switch {
	case errors.Is(err, sessionstore.ErrFull):
		return Full
	case errors.Is(err, ErrPaced):
		return Rate
	case errors.Is(err, ErrUnproven):
		return "" // nothing happened: the request counts as one without a session
	}
	return Unavailable
}

// fallBack is what becomes of a session that the store cannot look up or has no
// room for.
func fallBack[T Target](ctx context.Context, store sessionstore.Store, err error, key sessionstore.Key, terms *Terms, pool Pool[T], tried []Attempt[T], now time.Time) Decision[T] {
	if store.Fallback(err) == sessionstore.FallbackRefuse {
		return Decision[T]{Outcome: Refused, Reason: missing(err)}
	}
	decision := place(placing[T]{ctx: ctx, pool: pool, tried: tried}, Assign[T](func(candidates []T) (T, bool) {
		return byHash(candidates, key, terms.TTL, now), true
	}))
	if decision.Outcome != Refused {
		decision.Reason = missing(err)
	}
	return decision
}

// Bind makes the session that follows one of the same key, which may be none. Of
// two bindings of a key the later one is the newer one, also where the clock is
// behind the one that timed the session before: what clients carry of that does
// not bring it back.
func (t *Terms) Bind(key sessionstore.Key, target string, now time.Time, before sessionstore.Session) sessionstore.Session {
	created, expires := now, now.Add(t.TTL)
	for _, earlier := range [...]time.Time{before.Created, before.Ended} {
		if !created.After(earlier) {
			created = earlier.Add(1)
		}
	}
	if !expires.After(created) {
		expires = created.Add(t.TTL)
	}
	return sessionstore.Session{
		Key: key, Scope: t.Scope, Target: target,
		Created: created, Expires: expires, LastUsed: now, MaxIdle: t.MaxIdle, MaxErrors: t.MaxErrors,
	}
}

func absent[T Target](pool Pool[T], identity string) bool {
	a, ok := pool.(absentees)
	return ok && a.Absent(identity)
}

func overRate[T Target](t T) bool {
	l, ok := any(t).(limited)
	return ok && l.Limited()
}

func resting[T Target](t T) bool {
	r, ok := any(t).(rester)
	return ok && r.Resting()
}
