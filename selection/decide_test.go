// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// Each cell of the table of modes. The session is bound to "own", and "other"
// is a healthy target beside it.
func TestModeDecidesWhatBecomesOfASession(t *testing.T) {
	const maxErrors = 3
	strict, flex, norotate := selection.Strict, selection.Flex, selection.NoRotate
	nothing := func(*world) []string { return nil }
	failed := func(errors int) func(*world) []string {
		return func(w *world) []string {
			w.fail(errors)
			return []string{"own"}
		}
	}
	down := func(w *world) []string {
		w.pool.index["own"].down.Store(true)
		return nil
	}
	full := func(onFull selection.OnFull) func(*world) []string {
		return func(w *world) []string {
			w.terms.OnFull = onFull
			w.pool.index["own"].full.Store(true)
			return nil
		}
	}
	gone := func(w *world) []string {
		w.pool.remove("own")
		return nil
	}
	failedEarlier := func(errors int) func(*world) []string {
		return func(w *world) []string {
			w.fail(errors)
			return nil
		}
	}
	rests := func(w *world) []string {
		w.pool.index["own"].resting.Store(true)
		return nil
	}
	allRest := func(w *world) []string {
		w.pool.index["other"].resting.Store(true)
		return rests(w)
	}

	tests := []struct {
		name    string
		mode    selection.Mode
		happens func(*world) []string // returns what was tried
		target  string
		outcome selection.Outcome
		reason  selection.Reason
		bound   string
	}{
		{"nothing happens, strict", strict, nothing, "own", selection.Kept, "", "own"},
		{"nothing happens, flex", flex, nothing, "own", selection.Kept, "", "own"},
		{"nothing happens, norotate", norotate, nothing, "own", selection.Kept, "", "own"},

		{"fails, strict", strict, failed(1), "other", selection.Moved, selection.Errors, "other"},
		{"fails, flex below max_errors", flex, failed(maxErrors - 1), "other", selection.Spilled, selection.Errors, "own"},
		{"fails, flex at max_errors", flex, failed(maxErrors), "other", selection.Moved, selection.Errors, "other"},
		{"fails, flex above max_errors", flex, failed(maxErrors + 1), "other", selection.Moved, selection.Errors, "other"},
		{"fails, norotate", norotate, failed(1), "own", selection.Kept, "", "own"},
		{"fails, norotate above max_errors", norotate, failed(maxErrors + 1), "own", selection.Kept, "", "own"},

		{"failed in an earlier request, strict", strict, failedEarlier(1), "other", selection.Moved, selection.Errors, "other"},
		{"failed in an earlier request, flex below max_errors", flex, failedEarlier(maxErrors - 1), "own", selection.Kept, "", "own"},
		{"failed in an earlier request, flex at max_errors", flex, failedEarlier(maxErrors), "other", selection.Moved, selection.Errors, "other"},
		{"failed in an earlier request, norotate", norotate, failedEarlier(maxErrors), "own", selection.Kept, "", "own"},

		{"down, strict", strict, down, "other", selection.Moved, selection.Down, "other"},
		{"down, flex", flex, down, "other", selection.Moved, selection.Down, "other"},
		{"down, norotate", norotate, down, "", selection.Refused, selection.Down, "own"},

		{"rests, strict", strict, rests, "other", selection.Moved, selection.Down, "other"},
		{"rests, flex", flex, rests, "own", selection.Kept, "", "own"},
		{"rests, norotate", norotate, rests, "own", selection.Kept, "", "own"},
		{"all rest, strict", strict, allRest, "own", selection.Kept, "", "own"},

		{"full, strict, spill", strict, full(selection.FullSpill), "other", selection.Spilled, selection.Full, "own"},
		{"full, strict, wait", strict, full(selection.FullWait), "", selection.Refused, selection.Full, "own"},
		{"full, strict, move", strict, full(selection.FullMove), "other", selection.Moved, selection.Full, "other"},
		{"full, flex, spill", flex, full(selection.FullSpill), "other", selection.Spilled, selection.Full, "own"},
		{"full, flex, wait", flex, full(selection.FullWait), "", selection.Refused, selection.Full, "own"},
		{"full, flex, move", flex, full(selection.FullMove), "other", selection.Moved, selection.Full, "other"},
		{"full, norotate, spill", norotate, full(selection.FullSpill), "", selection.Refused, selection.Full, "own"},
		{"full, norotate, wait", norotate, full(selection.FullWait), "", selection.Refused, selection.Full, "own"},
		{"full, norotate, move", norotate, full(selection.FullMove), "", selection.Refused, selection.Full, "own"},

		{"gone, strict", strict, gone, "other", selection.Moved, selection.Gone, "other"},
		{"gone, flex", flex, gone, "other", selection.Moved, selection.Gone, "other"},
		{"gone, norotate", norotate, gone, "other", selection.New, selection.Gone, "other"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.terms.Mode, w.terms.MaxErrors = test.mode, maxErrors
				before := w.bind("own")
				time.Sleep(time.Minute)
				tried := test.happens(w)

				d := w.decide(tried...)
				w.expect(d, test.target, test.outcome, test.reason)

				after := w.bound()
				require.Equal(t, test.bound, after.Target)
				require.True(t, d.Session.Same(after), "the decision tells the session as it is: got %v, store has %v", d.Session, after)
				require.Equal(t, 1, w.sessions())
				if test.bound == "own" {
					require.True(t, after.Same(before), "the binding is untouched: got %v, want %v", after, before)
					require.Equal(t, before.Expires, after.Expires)
					return
				}
				require.Equal(t, time.Now(), after.Created, "a move begins a session")
				require.Equal(t, time.Now().Add(ttl), after.Expires, "with a fresh ttl")
				require.Zero(t, after.Errors)
				require.Equal(t, before.Key, after.Key)
			}, "own", "other")
		})
	}
}

func TestSessionWithoutAnAlternativeStaysAsItIs(t *testing.T) {
	for _, test := range []struct {
		name    string
		mode    selection.Mode
		happens func(own *target)
		tried   []string
		target  string
		outcome selection.Outcome
		reason  selection.Reason
	}{
		{"fails, strict", selection.Strict, func(*target) {}, []string{"own"}, "own", selection.Kept, ""},
		{"fails, flex", selection.Flex, func(*target) {}, []string{"own"}, "own", selection.Kept, ""},
		{"rests, strict", selection.Strict, func(own *target) { own.resting.Store(true) }, nil, "own", selection.Kept, ""},
		{"down, strict", selection.Strict, func(own *target) { own.down.Store(true) }, nil, "", selection.Refused, selection.Down},
		{"down, flex", selection.Flex, func(own *target) { own.down.Store(true) }, nil, "", selection.Refused, selection.Down},
		{"full, strict", selection.Strict, func(own *target) { own.full.Store(true) }, nil, "", selection.Refused, selection.Full},
		{"full, flex", selection.Flex, func(own *target) { own.full.Store(true) }, nil, "", selection.Refused, selection.Full},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.terms.Mode = test.mode
				before := w.bind("own")
				test.happens(w.pool.index["own"])
				w.expect(w.decide(test.tried...), test.target, test.outcome, test.reason)
				require.True(t, w.bound().Same(before))
			}, "own")
		})
	}
}

func TestSuccessForgivesTheErrorsBeforeIt(t *testing.T) {
	inBubble(t, func(w *world) {
		w.terms.Mode, w.terms.MaxErrors = selection.Flex, 3
		w.bind("own")
		for range 5 {
			w.fail(2)
			w.expect(w.decide(), "own", selection.Kept, "")
			_, err := w.store.Touch(w.t.Context(), w.bound(), time.Now(), sessionstore.Succeeded)
			require.NoError(t, err)
		}
		w.fail(3)
		w.expect(w.decide(), "other", selection.Moved, selection.Errors)
	}, "own", "other")
}

func TestErrorsThatASessionBearsAreSettledWhenItBegins(t *testing.T) {
	inBubble(t, func(w *world) {
		w.terms.Mode, w.terms.MaxErrors = selection.Flex, 3
		w.bind("own")
		w.terms.MaxErrors = 1
		w.fail(2)
		w.expect(w.decide(), "own", selection.Kept, "")
	}, "own", "other")
}

func TestSessionEndsAtItsTTLThoughItIsUsed(t *testing.T) {
	inBubble(t, func(w *world) {
		first := w.bind("own")
		for range 15*60 - 1 {
			time.Sleep(time.Second)
			d := w.decide()
			w.expect(d, "own", selection.Kept, "")
			require.Equal(t, first.Expires, d.Session.Expires)
			require.Equal(t, time.Now(), w.bound().LastUsed)
		}
		time.Sleep(time.Second - time.Nanosecond)
		w.expect(w.decide(), "own", selection.Kept, "")
		time.Sleep(time.Nanosecond)
		d := w.decide()
		w.expect(d, "other", selection.New, selection.Expired)
		require.Equal(t, time.Now(), d.Session.Created)
		require.True(t, d.Session.Same(w.bound()))
	}, "own", "other")
}

func TestSessionInUseIsNotedOncePerSecond(t *testing.T) {
	inBubble(t, func(w *world) {
		begin := w.bind("own").LastUsed
		time.Sleep(999 * time.Millisecond)
		w.decide()
		require.Equal(t, begin, w.bound().LastUsed)
		time.Sleep(time.Millisecond)
		w.decide()
		require.Equal(t, begin.Add(time.Second), w.bound().LastUsed)
	}, "own")
}

func TestNextSessionGoesElsewhere(t *testing.T) {
	inBubble(t, func(w *world) {
		last := w.bind("10.0.0.0:8080").Target
		for range 20 {
			time.Sleep(ttl)
			d := w.decide()
			require.Equal(t, selection.New, d.Outcome)
			require.Equal(t, selection.Expired, d.Reason)
			require.NotEqual(t, last, d.Target.name)
			require.Equal(t, d.Target.name, w.bound().Target)
			last = d.Target.name
		}
	}, numbered(3)...)
}

func TestNextSessionTakesTheOnlyTarget(t *testing.T) {
	inBubble(t, func(w *world) {
		w.bind("own")
		w.pool.index["other"].down.Store(true)
		w.pool.index["third"].full.Store(true)
		time.Sleep(ttl)
		w.expect(w.decide(), "own", selection.New, selection.Expired)
		w.pool.remove("other", "third")
		time.Sleep(ttl)
		w.expect(w.decide(), "own", selection.New, selection.Expired)
	}, "own", "other", "third")
}

func TestRequestWithoutASessionIsPlacedAndForgotten(t *testing.T) {
	inBubble(t, func(w *world) {
		for _, step := range []struct {
			tried []string
			want  string
		}{{nil, "a"}, {[]string{"a"}, "b"}, {[]string{"a", "b"}, "c"}} {
			d := w.decideFor(sessionstore.Key{}, step.tried...)
			w.expect(d, step.want, selection.None, "")
			require.Zero(t, d.Session)
		}
		require.Zero(t, w.sessions())
	}, "a", "b", "c")
}

func TestNewSessionStaysAwayFromBadTargets(t *testing.T) {
	inBubble(t, func(w *world) {
		w.pool.index["down"].down.Store(true)
		w.pool.index["full"].full.Store(true)
		w.pool.index["resting"].resting.Store(true)
		var offered []string
		w.assign = assign(func(candidates []*target) (*target, bool) {
			for _, c := range candidates {
				offered = append(offered, c.name)
			}
			return nil, false
		})
		d := w.decide("tried", "down")
		w.expect(d, "", selection.Refused, selection.Full)
		require.Equal(t, []string{"fine", "good", "resting", "tried"}, offered, "the best first, and the unusable never")
		require.Zero(t, w.sessions())
	}, "down", "full", "tried", "resting", "fine", "good")
}

func TestEmptyPoolChangesNothing(t *testing.T) {
	for _, mode := range []selection.Mode{selection.Strict, selection.Flex, selection.NoRotate} {
		t.Run(string(mode), func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.terms.Mode = mode
				before := w.bind("own")
				whole := w.pool
				w.pool = newPool()
				d := w.decide()
				w.expect(d, "", selection.Refused, selection.Down)
				require.True(t, d.Session.Same(before))
				w.expect(w.decide("own"), "", selection.Refused, selection.Down)
				w.expect(w.decideFor(keyOf("bob")), "", selection.Refused, selection.Down)
				w.expect(w.decideFor(sessionstore.Key{}), "", selection.Refused, selection.Down)
				require.Equal(t, 1, w.sessions())

				w.pool = whole
				w.expect(w.decide(), "own", selection.Kept, "")
				require.True(t, w.bound().Same(before))
			}, "own", "other")
		})
	}
}

func TestRequestVisitsEachTargetBeforeItVisitsOneTwice(t *testing.T) {
	inBubble(t, func(w *world) {
		var tried []string
		for range w.pool.list {
			d := w.decide(tried...)
			require.NotNil(t, d.Target)
			require.NotContains(t, tried, d.Target.name)
			require.Equal(t, d.Target.name, w.bound().Target)
			tried = append(tried, d.Target.name)
			w.fail(1)
		}
		for range 5 {
			d := w.decide(tried...)
			require.NotNil(t, d.Target, "all failed, and a retry may still help")
			require.Equal(t, d.Target.name, w.bound().Target)
			require.Equal(t, 1, w.sessions())
		}
	}, numbered(4)...)
}

func TestAllTargetsDownRefuseAndKeepTheBinding(t *testing.T) {
	inBubble(t, func(w *world) {
		before := w.bind("own")
		for _, other := range w.pool.list {
			other.down.Store(true)
		}
		w.expect(w.decide(), "", selection.Refused, selection.Down)
		w.expect(w.decideFor(keyOf("bob")), "", selection.Refused, selection.Down)
		require.True(t, w.bound().Same(before))
		require.Equal(t, 1, w.sessions())
	}, "own", "other", "third")
}

func TestProvisionalTermsClaimNothing(t *testing.T) {
	inBubble(t, func(w *world) {
		w.terms.Provisional = true
		d := w.decide()
		w.expect(d, "a", selection.New, "")
		require.Equal(t, "a", d.Session.Target)
		require.Equal(t, time.Now().Add(ttl), d.Session.Expires)
		w.expect(w.decide("a"), "b", selection.New, "")
		require.Zero(t, w.bound())
		require.Zero(t, w.sessions())

		_, won, err := w.store.Claim(t.Context(), d.Session)
		require.NoError(t, err)
		require.True(t, won, "the caller claims what it got")
		w.expect(w.decide(), "a", selection.Kept, "")
	}, "a", "b")
}

func TestFailingStoreDecidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		require.NoError(t, w.store.Cleanup())
		d, err := selection.Decide(t.Context(), w.store, keyOf("alice"), &w.terms, w.pool, nil, w.assign)
		require.ErrorIs(t, err, sessionstore.ErrClosed)
		require.Zero(t, d)
	})
}

// atOnce lets n requests decide at the same time and returns what came out.
func (w *world) atOnce(n int, tried ...string) []selection.Decision[*target] {
	w.t.Helper()
	type answer struct {
		decision selection.Decision[*target]
		err      error
	}
	begin, answers := make(chan struct{}), make(chan answer, n)
	random := selection.Random[*target]()
	for range n {
		go func() {
			<-begin
			d, err := selection.Decide(context.Background(), w.store, keyOf("alice"), &w.terms, w.pool, w.attempts(tried), random)
			answers <- answer{d, err}
		}()
	}
	close(begin)
	decisions := make([]selection.Decision[*target], n)
	for i := range decisions {
		a := <-answers
		require.NoError(w.t, a.err)
		decisions[i] = a.decision
	}
	return decisions
}

// expectOne checks that all went to one target and one of them began it.
func (w *world) expectOne(decisions []selection.Decision[*target], outcome selection.Outcome) {
	w.t.Helper()
	bound := w.bound()
	outcomes := make(map[selection.Outcome]int)
	for _, d := range decisions {
		require.Equal(w.t, bound.Target, d.Target.name)
		require.True(w.t, d.Session.Same(bound))
		outcomes[d.Outcome]++
	}
	require.Equal(w.t, map[selection.Outcome]int{outcome: 1, selection.Kept: len(decisions) - 1}, outcomes)
	require.Equal(w.t, 1, w.sessions())
}

func TestConcurrentFirstRequestsGoToOneTarget(t *testing.T) {
	for range 20 {
		w := newWorld(t, numbered(10)...)
		w.expectOne(w.atOnce(200), selection.New)
	}
}

func TestConcurrentMovesGoToOneTarget(t *testing.T) {
	for name, happens := range map[string]func(w *world) []string{
		"down": func(w *world) []string { w.pool.index["own"].down.Store(true); return nil },
		"gone": func(w *world) []string { w.pool.remove("own"); return nil },
		"fails": func(w *world) []string {
			w.fail(1)
			return []string{"own"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				w := newWorld(t, append(numbered(10), "own")...)
				w.bind("own")
				w.expectOne(w.atOnce(200, happens(w)...), selection.Moved)
			}
		})
	}
}

func TestConcurrentRequestsAfterTheTTLGoToOneOtherTarget(t *testing.T) {
	inBubble(t, func(w *world) {
		w.bind("own")
		time.Sleep(ttl)
		decisions := w.atOnce(200)
		synctest.Wait() // the count follows the clock
		w.expectOne(decisions, selection.New)
		require.NotEqual(t, "own", w.bound().Target)
	}, append(numbered(10), "own")...)
}

func TestKeptSessionDoesNotLookAtOtherTargets(t *testing.T) {
	w := newWorld(t, numbered(100)...)
	w.bind("10.0.0.50:8080")
	w.pool.listed.Store(0)
	w.pool.named.Store(0)
	w.expect(w.decide(), "10.0.0.50:8080", selection.Kept, "")
	require.Zero(t, w.pool.listed.Load(), "the pool was listed")
	require.Zero(t, w.pool.named.Load(), "targets were asked their names")
}

func TestKeptSessionAllocatesNothing(t *testing.T) {
	w := newWorld(t, numbered(100)...)
	w.bind("10.0.0.50:8080")
	ctx, key := t.Context(), keyOf("alice")
	allocs := testing.AllocsPerRun(1000, func() {
		d, err := selection.Decide(ctx, w.store, key, &w.terms, w.pool, nil, w.assign)
		if err != nil || d.Outcome != selection.Kept {
			t.Fatal(d, err)
		}
	})
	// A garbage collection may empty the store's pool of read buffers.
	require.Less(t, allocs, 1.0)
}

func BenchmarkDecideKept(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) {
			w := newWorld(b, numbered(n)...)
			w.bind(w.pool.list[n/2].name)
			ctx, key := b.Context(), keyOf("alice")
			b.ReportAllocs()
			for b.Loop() {
				d, err := selection.Decide(ctx, w.store, key, &w.terms, w.pool, nil, w.assign)
				if err != nil || d.Outcome != selection.Kept {
					b.Fatal(d, err)
				}
			}
		})
	}
}
