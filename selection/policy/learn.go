// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// learnRounds bounds how often a binding is tried again that others change
	// in that moment.
	learnRounds = 4

	// relearnParts says when an id that is given out again is written again:
	// when its end has moved by that part of its lifetime.
	relearnParts = 16
)

// learn binds the ids that an upstream's response gives out to that upstream,
// and ends those that it takes back.
func (v *visit) learn(target string, res *http.Response) {
	p := v.policy
	for _, learner := range p.learners {
		now := time.Now()
		lesson, ok := learner.Learn(res, now)
		if !ok {
			continue
		}
		var err error
		if lesson.ID == "" {
			if id := learner.SessionID(v.request); id != "" {
				err = v.endLearned(p.keyOf(learner, id), now)
			}
		} else {
			err = v.bindLearned(p.keyOf(learner, lesson.ID), target, lesson.Lifetime, now)
		}
		if err != nil {
			p.storeFailed("application's session not learned", err, zap.String("source", learner.Label()))
		}
	}
}

// bindLearned makes key a session of target, wherever it was.
func (v *visit) bindLearned(key sessionstore.Key, target string, lifetime time.Duration, now time.Time) error {
	p := v.policy
	next := p.terms.Bind(key, target, now, sessionstore.Session{})
	if lifetime > 0 {
		next.Expires = now.Add(lifetime)
	}
	for range learnRounds {
		holder, won, err := p.store.Claim(v.context(), next)
		if err != nil || won {
			return err
		}
		moved := next.Expires.Sub(holder.Expires).Abs()
		if holder.Target == target && (lifetime == 0 || moved < next.Expires.Sub(now)/relearnParts) {
			return nil // it is known
		}
		if holder.Target == "" { // ended by an operator in this moment
			return nil
		}
		if _, swapped, err := p.store.Replace(v.context(), holder, next); err != nil || swapped {
			return err
		}
	}
	return selection.ErrContended
}

// endLearned lets the session of key be over. That leaves no tombstone: the
// client carries nothing that could bring it back, and anybody may log out of
// sessions that never were.
func (v *visit) endLearned(key sessionstore.Key, now time.Time) error {
	p := v.policy
	holder, err := p.store.Get(v.context(), key)
	if err != nil || !holder.Live(now) {
		return err
	}
	over := holder
	over.Expires = now
	_, _, err = p.store.Replace(v.context(), holder, over)
	return err
}

// keyOf is the key of an id that a source has found.
func (p *Policy) keyOf(src source.Source, id string) sessionstore.Key {
	return sessionstore.KeyOf(p.terms.Scope, src.Label(), id)
}
