// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// slot is a target of a gateway.
type slot struct {
	pool    *slots
	name    string
	gateway int
	weight  int

	down, full, limited, resting bool
	bars                         selection.Reason
}

func (s *slot) String() string { return s.name }
func (s *slot) Healthy() bool  { s.pool.looked++; return !s.down }
func (s *slot) Full() bool     { return s.full }
func (s *slot) Limited() bool  { return s.limited }
func (s *slot) Resting() bool  { return s.resting }
func (s *slot) Weight() int    { return s.weight }

// slots is a pool of them that counts how many targets a decision looks at.
type slots struct {
	list   []*slot
	even   bool // set by settle
	looked int
	listed int
}

// newSlots returns a pool of n slots, which belong to so many gateways.
func newSlots(n, gateways int) *slots {
	p := new(slots)
	for i := range n {
		p.list = append(p.list, &slot{pool: p, name: fmt.Sprintf("gateway#%05d", i), gateway: i % gateways, weight: 1})
	}
	p.settle()
	return p
}

func (p *slots) Lookup(identity string) (*slot, bool) {
	i := slices.IndexFunc(p.list, func(s *slot) bool { return s.name == identity })
	if i < 0 {
		return nil, false
	}
	return p.list[i], true
}

func (p *slots) Targets() []*slot {
	p.listed++
	return p.list
}

func (p *slots) Len() int                                       { return len(p.list) }
func (p *slots) At(place int) *slot                             { return p.list[place] }
func (*slots) Bars(_ context.Context, s *slot) selection.Reason { return s.bars }

func (p *slots) Even() bool { return p.even }

// settle looks at the weights after a change.
func (p *slots) settle() {
	p.even = !slices.ContainsFunc(p.list, func(s *slot) bool { return s.weight != p.list[0].weight })
}

// Unspent returns the slots of gateways that are not spent, and the tried ones.
func (p *slots) Unspent(tried []selection.Attempt[*slot]) []*slot {
	var list []*slot
	for _, s := range p.list {
		if selection.Tried(tried, s) || !p.Spent(s, tried) {
			list = append(list, s)
		}
	}
	return list
}

// Spent allows two slots of a gateway, and none after a failure of the gateway
// itself.
func (*slots) Spent(s *slot, tried []selection.Attempt[*slot]) bool {
	n := 0
	for _, a := range tried {
		if a.Target.gateway == s.gateway {
			n++
			if a.Whole {
				return true
			}
		}
	}
	return n >= 2
}

// level is how good a target is, the best is 0; -1 if it must not be offered. It is
// written apart from the code under test.
func (p *slots) level(s *slot, tried []selection.Attempt[*slot], avoid string, begins bool) int {
	own := slices.ContainsFunc(tried, func(a selection.Attempt[*slot]) bool { return a.Target == s })
	barred := s.bars != "" && s.bars != selection.Draining
	switch {
	case s.down || s.full || s.limited || barred && begins || !own && p.Spent(s, tried):
		return -1
	case own:
		return 4
	case s.bars == selection.Draining:
		return 3
	case s.resting:
		return 2
	case s.name == avoid:
		return 1
	}
	return 0
}

// best returns the targets that a decision may choose from.
func (p *slots) best(tried []selection.Attempt[*slot], avoid string, begins bool) []*slot {
	for level := range 5 {
		var found []*slot
		for _, s := range p.list {
			if p.level(s, tried, avoid, begins) == level {
				found = append(found, s)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// placers are all placements, by name.
func placers(store sessionstore.Store, key sessionstore.Key) map[string]selection.Placer[*slot] {
	return map[string]selection.Placer[*slot]{
		"two choices":    selection.TwoChoices[*slot](store, scope),
		"random":         selection.Random[*slot](),
		"round robin":    selection.RoundRobin[*slot](new(selection.Round)),
		"least sessions": selection.LeastSessions[*slot](store, scope),
		"hash":           selection.Hash[*slot](key, ttl),
	}
}

// Whatever the states of the targets are, a decision finds one of the best.
func TestPlacementFindsOneOfTheBestTargets(t *testing.T) {
	store := openStore(t, 1_000_000, sessionstore.FallbackRefuse)
	terms := newWorld(t, "unused").terms
	begun := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := newSlots(1+r.IntN(40), 1+r.IntN(10))
		often := []float64{0, 0.1, 0.5, 0.95}[r.IntN(4)] // how often something is wrong
		wrong := func() bool { return r.Float64() < often/3 }
		uneven := r.IntN(3) == 0
		for _, s := range p.list {
			s.down, s.full, s.limited, s.resting = wrong(), wrong(), wrong(), wrong()
			switch {
			case wrong():
				s.bars = selection.Draining
			case wrong():
				s.bars = selection.Full
			}
			if uneven {
				s.weight = 1 + r.IntN(3)
			}
		}
		p.settle()
		var tried []selection.Attempt[*slot]
		for range r.IntN(12) {
			tried = append(tried, selection.Attempt[*slot]{Target: p.list[r.IntN(len(p.list))], Whole: r.IntN(4) == 0})
		}
		for _, begins := range []bool{false, true} {
			key := sessionstore.Key{}
			if begins {
				key = keyOf(seed)
			}
			for name, placer := range placers(store, key) {
				for range 5 {
					if begins {
						begun++
						key = keyOf(begun)
					}
					best := p.best(tried, "", begins)
					d, err := selection.Decide(t.Context(), store, key, &terms, p, tried, placer)
					require.NoError(t, err)
					if len(best) == 0 {
						require.Equal(t, selection.Refused, d.Outcome, "seed %d, %s", seed, name)
						continue
					}
					require.Contains(t, best, d.Target, "seed %d, %s", seed, name)
				}
			}
		}
	}
}

// A session that begins anew avoids the target of the session before.
func TestNextSessionGoesElsewhereInALargePool(t *testing.T) {
	inBubble(t, func(w *world) {
		w.assign = selection.TwoChoices[*target](w.store, scope)
		last := w.decide().Target
		for range 200 {
			time.Sleep(ttl)
			d := w.decide()
			require.Equal(t, selection.Expired, d.Reason)
			require.NotEqual(t, last.name, d.Target.name)
			last = d.Target
		}
	}, numbered(12)...)
}

// Draws give each spotless target the same share, as a list does.
func TestDrawsGiveEachTargetItsShare(t *testing.T) {
	const requests, targets = 20_000, 25
	store := openStore(t, 1, sessionstore.FallbackRefuse)
	terms := newWorld(t, "unused").terms
	for _, bad := range []int{0, 5, 15, 23} {
		for name, placer := range placers(store, sessionstore.Key{}) {
			p := newSlots(targets, targets)
			for _, i := range rand.Perm(targets)[:bad] {
				p.list[i].resting = true
			}
			share := make(map[*slot]int)
			for range requests {
				d, err := selection.Decide(t.Context(), store, sessionstore.Key{}, &terms, p, nil, placer)
				require.NoError(t, err)
				share[d.Target]++
			}
			each := requests / (targets - bad)
			for _, s := range p.list {
				if s.resting {
					require.Zero(t, share[s], "%s, %d of %d rest", name, bad, targets)
					continue
				}
				// Six standard deviations at most.
				require.InDelta(t, each, share[s], 425, "%s, %d of %d rest", name, bad, targets)
			}
		}
	}
}

// If all targets can serve, a round robin takes each once in a round.
func TestRoundRobinOfDrawsTakesOneAfterTheOther(t *testing.T) {
	store := openStore(t, 1, sessionstore.FallbackRefuse)
	terms := newWorld(t, "unused").terms
	p := newSlots(20, 20)
	p.list[3].resting, p.list[4].resting, p.list[19].resting = true, true, true
	placer := selection.RoundRobin[*slot](new(selection.Round))
	for range 3 {
		for _, want := range p.list {
			if want.resting {
				continue
			}
			d, err := selection.Decide(t.Context(), store, sessionstore.Key{}, &terms, p, nil, placer)
			require.NoError(t, err)
			require.Equal(t, want.name, d.Target.name)
		}
	}
}

// Targets of different weights get sessions by their weights in a large pool too.
func TestWeightsHoldInALargePool(t *testing.T) {
	const requests = 20_000
	store := openStore(t, 1, sessionstore.FallbackRefuse)
	terms := newWorld(t, "unused").terms
	for name, placer := range placers(store, sessionstore.Key{}) {
		if name == "two choices" || name == "least sessions" {
			continue // these count sessions, and there are none
		}
		p := newSlots(20, 20)
		p.list[7].weight = 20
		p.settle()
		heavy := 0
		for range requests {
			d, err := selection.Decide(t.Context(), store, sessionstore.Key{}, &terms, p, nil, placer)
			require.NoError(t, err)
			if d.Target == p.list[7] {
				heavy++
			}
		}
		require.InDelta(t, requests*20/39, heavy, 425, name)
	}
}

// spend is what one decision costs, apart from its time.
type spend struct {
	looked, listed int
	allocations    float64
	bytes          uint64
}

// spendOf measures the decision for requests without a session.
func spendOf(t *testing.T, p *slots, tried []selection.Attempt[*slot], placer selection.Placer[*slot]) spend {
	t.Helper()
	store := openStore(t, 1, sessionstore.FallbackRefuse)
	terms := newWorld(t, "unused").terms
	decide := func() {
		if _, err := selection.Decide(context.Background(), store, sessionstore.Key{}, &terms, p, tried, placer); err != nil {
			t.Error(err)
		}
	}
	decide()
	p.looked, p.listed = 0, 0
	decide()
	s := spend{looked: p.looked, listed: p.listed}
	s.allocations = testing.AllocsPerRun(100, decide)
	var before, after runtime.MemStats
	const runs = 200
	runtime.ReadMemStats(&before)
	for range runs {
		decide()
	}
	runtime.ReadMemStats(&after)
	s.bytes = (after.TotalAlloc - before.TotalAlloc) / runs / 64 // the runtime's own allocations are less
	return s
}

// The cost of a placement at random does not grow with the slots of a gateway.
func TestDecisionCostsTheSameWithManySlots(t *testing.T) {
	for _, name := range []string{"two choices", "random", "round robin"} {
		for failures := range 2 {
			t.Run(fmt.Sprintf("%s after %d failures", name, failures), func(t *testing.T) {
				spendWith := func(n int) spend {
					p := newSlots(n, 1)
					var tried []selection.Attempt[*slot]
					for i := range failures {
						tried = append(tried, selection.Attempt[*slot]{Target: p.list[i]})
					}
					store := openStore(t, 1, sessionstore.FallbackRefuse)
					return spendOf(t, p, tried, placers(store, sessionstore.Key{})[name])
				}
				few, many := spendWith(100), spendWith(10_000)
				require.LessOrEqual(t, many.looked, 8)
				require.Zero(t, many.listed, "the pool was listed")
				require.InDelta(t, few.allocations, many.allocations, 0.5)
				require.InDelta(t, few.bytes, many.bytes, 1)
			})
		}
	}
}

func BenchmarkDecideWithoutSession(b *testing.B) {
	store := openStore(b, 1, sessionstore.FallbackRefuse)
	terms := newWorld(b, "unused").terms
	for _, rests := range []bool{false, true} {
		for _, n := range []int{10, 10_000} {
			b.Run(fmt.Sprintf("rest=%t/slots=%d", rests, n), func(b *testing.B) {
				p := newSlots(n, 1)
				for _, s := range p.list {
					s.resting = rests
				}
				placer := selection.Random[*slot]()
				b.ReportAllocs()
				for b.Loop() {
					d, err := selection.Decide(b.Context(), store, sessionstore.Key{}, &terms, p, nil, placer)
					if err != nil || d.Target == nil {
						b.Fatal(d, err)
					}
				}
			})
		}
	}
}
