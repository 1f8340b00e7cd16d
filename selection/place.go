// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"context"
	"slices"
)

// placing is a search for a target.
type placing[T Target] struct {
	ctx  context.Context //nolint:containedctx // of one call
	pool Pool[T]

	tried []Attempt[T] // failed in this request
	avoid string       // where the session was before

	// begins says that a session begins on the target: not every target that
	// can serve a request takes one.
	begins bool

	// identities of the tried targets, if there are many of them; else nil
	identities map[string]struct{}
}

// How unwelcome a target is, from not at all to never.
const (
	spotless = iota
	avoided  // the session was there before
	rested   // it failed a moment ago
	drained  // it is to get no new sessions
	failed   // it failed in this very request
	unusable // it is down, full or spent
)

const (
	// maxDraws bounds how many targets a placement at random looks at before it
	// looks at all. If half of the targets are spotless, one of 28 searches for two
	// of them looks at all.
	maxDraws = 8

	// fewTried is how many tried targets are compared one by one. Only retries of
	// Caddy's reverse proxy make more attempts in a request.
	fewTried = 8

	// firstCandidates is how many candidates a list has room for at first. Most
	// pools have no more targets.
	firstCandidates = 64
)

// drawer is a Placer that can choose from a few targets as well as from all,
// if all targets have the same weight.
type drawer interface {
	// draws returns how many targets Place needs to choose one of them; 0 if it
	// needs all.
	draws() int

	// draw returns the place of the next target to look at, from 0 to n-1.
	draw(n int) int
}

// places is a Pool that knows the weights of its targets, and finds one by its
// place without a list of all.
type places[T Target] interface {
	// Even reports whether all targets have the same weight.
	Even() bool

	Len() int
	At(place int) T
}

// place finds a target for a request that has no session, or whose session
// cannot stay where it is. It offers the best targets there are: those without
// a blemish first. A target that is down, full or spent is never offered.
func place[T Target](search placing[T], placer Placer[T]) Decision[T] {
	if t, ok := search.draw(placer); ok {
		return Decision[T]{Target: t, Outcome: None}
	}
	if len(search.tried) > fewTried {
		search.identities = make(map[string]struct{}, len(search.tried))
		for _, a := range search.tried {
			search.identities[a.Target.String()] = struct{}{}
		}
	}
	targets, reason := unspent(search.pool, search.tried), Down
	candidates := make([]T, 0, min(len(targets), firstCandidates))
	for least := spotless; ; {
		best := unusable
		candidates = candidates[:0]
		for _, t := range targets {
			level, why := search.blemish(t)
			if why != "" && why != Down {
				reason = why
			}
			if level < least || level > best || level == unusable {
				continue
			}
			if level < best {
				best, candidates = level, candidates[:0]
			}
			if len(candidates) == cap(candidates) {
				candidates = slices.Grow(candidates, len(targets)-len(candidates))
			}
			candidates = append(candidates, t)
		}
		if best == unusable {
			return Decision[T]{Outcome: Refused, Reason: reason}
		}
		if t, ok := placer.Place(search.ctx, candidates); ok {
			return Decision[T]{Target: t, Outcome: None}
		}
		least = best + 1
	}
}

// draw looks at a few targets by their place in the pool, so that the cost does
// not depend on the size of the pool. It takes spotless ones only. It returns
// false if it found too few, or if the placer needs a list of all. Each spotless
// target has the same chance, so the result is as likely as with the list.
func (s *placing[T]) draw(placer Placer[T]) (T, bool) {
	var none T
	d, ok := placer.(drawer)
	if !ok {
		return none, false
	}
	want := d.draws()
	n, at := s.places()
	if want == 0 || n <= maxDraws {
		return none, false
	}
	found := make([]T, 0, 2)
	for range maxDraws {
		t := at(d.draw(n))
		if len(found) > 0 && t == found[0] {
			continue
		}
		if level, _ := s.blemish(t); level != spotless {
			continue
		}
		switch found = append(found, t); {
		case want == 1:
			return t, true
		case len(found) == want:
			return placer.Place(s.ctx, found)
		}
	}
	return none, false
}

// places returns how many targets have a place in the pool, and how to find them.
// It returns 0 if their weights may differ.
func (s *placing[T]) places() (int, func(place int) T) {
	if p, ok := s.pool.(places[T]); ok {
		if !p.Even() {
			return 0, nil
		}
		return p.Len(), p.At
	}
	var none T
	if _, ok := any(none).(weighty); ok {
		return 0, nil
	}
	targets := s.pool.Targets()
	return len(targets), func(place int) T { return targets[place] }
}

// blemish says how unwelcome a target is, and if it is unusable, why.
func (s *placing[T]) blemish(t T) (int, Reason) {
	tried := s.hasTried(t)
	if !tried && spent(s.pool, t, s.tried) {
		return unusable, Down
	}
	if !t.Healthy() {
		return unusable, Down
	}
	if t.Full() {
		return unusable, Full
	}
	if overRate(t) {
		return unusable, Rate
	}
	var bar Reason
	if g, ok := s.pool.(gate[T]); ok {
		bar = g.Bars(s.ctx, t)
	}
	switch {
	case bar != "" && bar != Draining && s.begins:
		return unusable, bar
	case tried:
		return failed, ""
	case bar == Draining:
		return drained, ""
	case resting(t):
		return rested, ""
	case s.avoid != "" && t.String() == s.avoid:
		return avoided, ""
	}
	return spotless, ""
}

func (s *placing[T]) hasTried(t T) bool {
	if s.identities != nil {
		_, ok := s.identities[t.String()]
		return ok
	}
	return Tried(s.tried, t)
}
