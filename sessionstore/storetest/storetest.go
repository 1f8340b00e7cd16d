// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package storetest is the conformance suite of session stores: what every
// [sessionstore.Store] must do, whatever it is made of.
package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	scope = "lb/test"
	// lifetime is that of sessions whose end no test waits for, and of all in a
	// bubble.
	lifetime = 15 * time.Minute
)

// Run checks a store of this process. Open makes an empty, started one with room
// for size sessions; it is called inside of a synctest bubble and must register
// what closes the store with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T, size int) sessionstore.Store) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.test(t, &world{
					t: t, Store: open(t, test.size), ttl: lifetime,
					edge: time.Nanosecond, settle: synctest.Wait,
				})
			})
		})
	}
}

// RunRemote checks a store whose sessions are on another machine, which has a
// clock that no bubble holds: what the tests wait for is a session of that ttl.
// Open makes an empty, started store without a limit.
func RunRemote(t *testing.T, ttl time.Duration, open func(t *testing.T) sessionstore.Store) {
	t.Helper()
	for _, test := range tests {
		if test.limited {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for range attempts {
				w := &world{t: t, Store: open(t), ttl: lifetime, edge: ttl / 4, settle: func() {}, remote: true}
				if test.timed {
					w.ttl = ttl
				}
				w.get(key(-1)) // connects
				if test.test(t, w); !w.late {
					return
				}
			}
			t.Fatalf("the machine was too busy %d times", attempts)
		})
	}
}

var tests = []struct {
	name           string
	size           int
	limited, timed bool
	test           func(t *testing.T, w *world)
}{
	{name: "ClaimIsVisibleWhenAnswered", size: 10_000, test: testClaimVisible},
	{name: "ConcurrentClaimsHaveOneWinner", size: 1000, test: testClaimRace},
	{name: "ReplaceIsCompareAndSwap", size: 10, test: testReplace},
	{name: "ConcurrentReplacesHaveOneWinner", size: 10, test: testReplaceRace},
	{name: "ReplaceOfNothingBindsNothing", size: 10, test: testReplaceNothing},
	{name: "SessionIsOverAtItsExpiry", size: 10, timed: true, test: testExpiry},
	{name: "UseDoesNotProlong", size: 10, timed: true, test: testUseDoesNotProlong},
	{name: "ExpiredSessionIsRememberedButNotListed", size: 10, timed: true, test: testRemains},
	{name: "ExpiredSessionGetsAnotherTarget", size: 10, timed: true, test: testAnotherTarget},
	{name: "EndedSessionStaysEnded", size: 10, test: testEnd},
	{name: "UnknownSessionCanBeEnded", size: 10, timed: true, test: testEndUnknown},
	{name: "IdleSessionIsOver", size: 10, timed: true, test: testMaxIdle},
	{name: "CarriedSessionsAreCounted", size: 10, timed: true, test: testIssue},
	{name: "TouchCountsConsecutiveErrors", size: 10, test: testTouch},
	{name: "TouchOfAMovedSessionNotesNothing", size: 10, test: testTouchMoved},
	{name: "CountsFollowEveryChange", size: 100, test: testCounts},
	{name: "CountsFollowExpiry", size: 100, timed: true, test: testCountsExpire},
	{name: "CountsAreRightWhenAllIsQuiet", size: 100, test: testCountsQuiet},
	{name: "FullStoreRefusesAndKeeps", size: 3, limited: true, test: testFull},
	{name: "ExpiryMakesRoom", size: 3, limited: true, test: testExpiryMakesRoom},
	{name: "ExpiryMakesRoomForTheSameKeyAtOnce", size: 1, timed: true, test: testExpiryMakesRoomForItsKey},
	{name: "KeysThatShareAPrefixAreDistinct", size: 10, test: testCollision},
	{name: "AllListsLiveSessionsOnce", size: 100, test: testAll},
	{name: "CancelledCallsChangeAllOrNothing", size: 100, test: testCancelled},
	{name: "ValuesSurviveTheRoundTrip", size: 100, test: testRanges},
	{name: "NothingWasMissed", size: 10, test: testNotMissed},
	{name: "HistoriesAreLinearizable", size: 1000, test: testLinearizable},
	{name: "RandomOperationsFollowTheModel", size: 100, test: testModel},
}

// world is a store with what the tests need around it.
type world struct {
	t *testing.T
	sessionstore.Store

	ttl    time.Duration // of sessions that are bound
	edge   time.Duration // how near to the end of a session a test looks at it
	settle func()        // lets the store's own goroutines come to rest
	remote bool
	late   bool // see tooLate
}

const (
	// patience is how long a remote store may take to count: a second, and what
	// a busy machine adds. It is longer than the store's own timeout: an answer
	// that is lost is asked for again.
	patience = 30 * time.Second

	// attempts is how often a test of a remote store begins anew, see tooLate.
	attempts = 10
)

// tooLate reports whether a moment is over before which the test was to look.
// It has seen nothing then, must return, and begins anew with an empty store. In
// a bubble a moment waits for all.
func (w *world) tooLate(moment time.Time) bool {
	w.late = w.remote && !time.Now().Before(moment)
	return w.late
}

// requireCounts checks counts once all is quiet. In a bubble they are right at once.
func (w *world) requireCounts(want []int, counts func() []int) {
	w.t.Helper()
	w.settle()
	if !w.remote {
		require.Equal(w.t, want, counts())
		return
	}
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		assert.Equal(c, want, counts())
	}, patience, 20*time.Millisecond)
}

// tick lets the clock go on.
func (w *world) tick() { time.Sleep(min(time.Second, w.edge+time.Millisecond, 10*time.Millisecond)) }

// until sleeps until a moment.
func until(moment time.Time) { time.Sleep(time.Until(moment)) }

func key(n int) sessionstore.Key { return sessionstore.KeyOf(scope, fmt.Sprint(n)) }

func (w *world) bind(k sessionstore.Key, target string) sessionstore.Session {
	now := time.Now()
	return sessionstore.Session{Key: k, Scope: scope, Target: target, Created: now, Expires: now.Add(w.ttl), MaxErrors: 15}
}

func (w *world) claim(k sessionstore.Key, target string) sessionstore.Session {
	w.t.Helper()
	s, won, err := w.Claim(w.t.Context(), w.bind(k, target))
	require.NoError(w.t, err)
	require.True(w.t, won, "claim of a free key must win")
	return s
}

func (w *world) get(k sessionstore.Key) sessionstore.Session {
	w.t.Helper()
	s, err := w.Get(w.t.Context(), k)
	require.NoError(w.t, err)
	return s
}

func (w *world) count(target string) int {
	w.t.Helper()
	n, err := w.Count(w.t.Context(), scope, target)
	require.NoError(w.t, err)
	return n
}

func (w *world) len() int {
	w.t.Helper()
	n, err := w.Len(w.t.Context())
	require.NoError(w.t, err)
	return n
}

// parallel calls f n times at once and waits for all.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

func testClaimVisible(t *testing.T, w *world) {
	parallel(64, func(i int) {
		for j := range 100 {
			k := key(i*100 + j)
			s, won, err := w.Claim(context.Background(), w.bind(k, "a"))
			if err != nil || !won {
				t.Errorf("claim %d.%d: won %v, error %v", i, j, won, err)
				return
			}
			if got, err := w.Get(context.Background(), k); err != nil || !got.Same(s) {
				t.Errorf("claim %d.%d is not visible: got %+v, error %v", i, j, got, err)
			}
		}
	})
	require.Equal(t, 6400, w.len())
	require.Equal(t, 6400, w.count("a"))
}

func testClaimRace(t *testing.T, w *world) {
	for round := range 50 {
		var mu sync.Mutex
		winners, holders := 0, make(map[string]int)
		parallel(64, func(i int) {
			s, won, err := w.Claim(context.Background(), w.bind(key(round), fmt.Sprint("target", i)))
			if err != nil {
				t.Errorf("claim: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			holders[s.Target]++
			if won {
				winners++
			}
		})
		require.Equal(t, 1, winners, "winners of round %d", round)
		require.Len(t, holders, 1, "all claims must name one target")
	}
	require.Equal(t, 50, w.len())
}

func testReplace(t *testing.T, w *world) {
	first := w.claim(key(1), "a")
	w.tick()

	second, swapped, err := w.Replace(t.Context(), first, w.bind(key(1), "b"))
	require.NoError(t, err)
	require.True(t, swapped)
	require.Equal(t, "b", second.Target)
	require.True(t, w.get(key(1)).Same(second))

	holder, swapped, err := w.Replace(t.Context(), first, w.bind(key(1), "c"))
	require.NoError(t, err)
	require.False(t, swapped, "the first session is no longer the holder")
	require.True(t, holder.Same(second))
	require.True(t, w.get(key(1)).Same(second))
}

func testReplaceRace(t *testing.T, w *world) {
	for round := range 50 {
		old := w.claim(key(round), "old")
		var mu sync.Mutex
		swaps, holders := 0, make(map[string]int)
		parallel(32, func(i int) {
			s, swapped, err := w.Replace(context.Background(), old, w.bind(key(round), fmt.Sprint("target", i)))
			if err != nil {
				t.Errorf("replace: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			holders[s.Target]++
			if swapped {
				swaps++
			}
		})
		require.Equal(t, 1, swaps, "swaps of round %d", round)
		require.Len(t, holders, 1, "all calls must name one target")
		require.Zero(t, w.count("old"))
		require.NoError(t, w.End(t.Context(), key(round), time.Time{}))
	}
	require.Zero(t, w.len())
}

func testReplaceNothing(t *testing.T, w *world) {
	holder, swapped, err := w.Replace(t.Context(), w.bind(key(1), "a"), w.bind(key(1), "b"))
	require.NoError(t, err)
	require.False(t, swapped)
	require.Zero(t, holder)
	require.Zero(t, w.get(key(1)))
}

func testExpiry(t *testing.T, w *world) {
	s := w.claim(key(1), "a")
	until(s.Expires.Add(-w.edge))
	held := w.get(key(1))
	_, won, err := w.Claim(t.Context(), w.bind(key(1), "b"))
	if w.tooLate(s.Expires) {
		return
	}
	require.NoError(t, err)
	require.True(t, held.Live(s.Expires.Add(-1)))
	require.False(t, won, "the session lives for another moment")

	until(s.Expires)
	require.False(t, w.get(key(1)).Live(time.Now()))
	next := w.claim(key(1), "b")
	require.False(t, next.Same(s))
	require.True(t, w.get(key(1)).Same(next))

	// What is left of the first session must not take the second one along.
	until(next.Expires.Add(-max(w.edge, w.ttl/900)))
	w.settle()
	held, counts := w.get(key(1)), []int{w.len(), w.count("b")}
	if w.tooLate(next.Expires) {
		return
	}
	require.True(t, held.Same(next))
	require.Equal(t, []int{1, 1}, counts)
}

func testUseDoesNotProlong(t *testing.T, w *world) {
	s := w.claim(key(1), "a")
	var used time.Time
	for range 14 {
		time.Sleep(w.ttl / 16)
		used = time.Now()
		_, err := w.Touch(t.Context(), s, used, sessionstore.Succeeded)
		require.NoError(t, err)
	}
	got := w.get(key(1))
	if w.tooLate(s.Expires) {
		return
	}
	require.True(t, got.Expires.Equal(s.Expires))
	require.WithinDuration(t, used, got.LastUsed, time.Second)
	until(s.Expires)
	require.False(t, w.get(key(1)).Live(time.Now()))
}

func testRemains(t *testing.T, w *world) {
	s := w.claim(key(1), "a")
	until(s.Expires.Add(w.edge))
	require.Equal(t, "a", w.get(key(1)).Target, "the target is known for one more lifetime")
	if !w.remote {
		time.Sleep(2 * time.Second)
	}
	w.requireCounts([]int{0, 0}, func() []int { return []int{w.len(), w.count("a")} })
	for s, err := range w.All(t.Context()) {
		t.Errorf("All yields %+v, %v", s, err)
	}
	until(s.Expires.Add(w.ttl + w.ttl/15))
	w.settle()
	if w.remote {
		require.Eventually(t, func() bool { return !w.get(key(1)).Live(time.Now()) }, patience, 20*time.Millisecond)
		return
	}
	require.Zero(t, w.get(key(1)), "and then forgotten")
}

func testAnotherTarget(t *testing.T, w *world) {
	first := w.claim(key(1), "a")
	until(first.Expires)
	over := w.get(key(1))
	require.Equal(t, "a", over.Target, "so that the next one can avoid it")
	second, swapped, err := w.Replace(t.Context(), over, w.bind(key(1), "b"))
	require.NoError(t, err)
	require.True(t, swapped, "a session that is over can be replaced")
	require.True(t, w.get(key(1)).Same(second))
	w.requireCounts([]int{0, 1, 1}, func() []int { return []int{w.count("a"), w.count("b"), w.len()} })
}

func testEnd(t *testing.T, w *world) {
	carried := w.claim(key(1), "a")
	w.tick()
	require.NoError(t, w.End(t.Context(), key(1), time.Time{}))
	require.NoError(t, w.End(t.Context(), key(1), time.Time{}), "ending what has ended is no error")
	require.False(t, w.get(key(1)).Live(time.Now()))
	require.False(t, w.get(key(1)).Ended.IsZero(), "a tombstone stays")
	require.Zero(t, w.len())
	require.Zero(t, w.count("a"))

	// A client that carries the session does not bring it back.
	carried.Carried = true
	holder, won, err := w.Claim(t.Context(), carried)
	require.NoError(t, err)
	require.False(t, won)
	require.False(t, holder.Live(time.Now()))
	_, swapped, err := w.Replace(t.Context(), carried, w.bind(key(1), "b"))
	require.NoError(t, err)
	require.False(t, swapped)

	w.tick()
	w.claim(key(1), "b")
	require.Equal(t, 1, w.len())
}

func testEndUnknown(t *testing.T, w *world) {
	old := w.bind(key(1), "a")
	w.tick()
	require.NoError(t, w.End(t.Context(), key(1), time.Now().Add(w.ttl)))
	require.NoError(t, w.End(t.Context(), key(2), time.Time{}))
	require.Zero(t, w.get(key(2)))
	_, won, err := w.Claim(t.Context(), old)
	require.NoError(t, err)
	require.False(t, won, "the session was not known and is ended all the same")
	time.Sleep(w.ttl)
	w.settle()
	require.Zero(t, w.len())
	w.claim(key(1), "b")
}

func testMaxIdle(t *testing.T, w *world) {
	idle := w.ttl / 5
	if w.remote {
		idle = w.ttl * 3 / 5 // a busy machine needs the time
	}
	s := w.bind(key(1), "a")
	s.MaxIdle, s.Expires = idle, s.Created.Add(lifetime) // only idleness ends it
	s, won, err := w.Claim(t.Context(), s)
	require.NoError(t, err)
	require.True(t, won)
	require.Equal(t, idle, s.MaxIdle)
	time.Sleep(idle / 3)
	used := time.Now()
	_, err = w.Touch(t.Context(), s, used, sessionstore.Looked)
	if w.tooLate(s.Created.Add(idle)) {
		return
	}
	require.NoError(t, err)
	require.WithinDuration(t, used, w.get(key(1)).LastUsed, time.Second)
	until(used.Add(idle - min(w.edge, idle/2)))
	held, count := w.get(key(1)), w.count("a")
	_, won, err = w.Claim(t.Context(), w.bind(key(1), "b"))
	if w.tooLate(used.Add(idle)) {
		return
	}
	require.NoError(t, err)
	require.True(t, held.Live(used.Add(idle-1)))
	require.Equal(t, 1, count)
	require.False(t, won)
	until(used.Add(idle))
	require.False(t, w.get(key(1)).Live(time.Now()))
	if !w.remote {
		time.Sleep(time.Second)
	}
	w.requireCounts([]int{0, 0}, func() []int { return []int{w.count("a"), w.len()} })
	w.claim(key(1), "b")
}

func testIssue(t *testing.T, w *world) {
	first, second := w.bind(key(1), "a"), w.bind(key(2), "a")
	w.Issue(first)
	w.Issue(second)
	require.Equal(t, []int{2, 0}, []int{w.count("a"), w.len()})
	first.Carried = true
	_, won, err := w.Claim(t.Context(), first)
	require.NoError(t, err)
	require.True(t, won)
	require.Equal(t, []int{2, 1}, []int{w.count("a"), w.len()}, "one came back and counts once")
	until(second.Expires.Add(w.ttl / 30))
	if !w.remote {
		time.Sleep(time.Second)
	}
	w.requireCounts([]int{0, 0}, func() []int { return []int{w.count("a"), w.len()} })
}

func testTouch(t *testing.T, w *world) {
	s := w.claim(key(1), "a")
	touch := func(use sessionstore.Use, want int) {
		t.Helper()
		n, err := w.Touch(t.Context(), s, time.Now(), use)
		require.NoError(t, err)
		require.Equal(t, want, n)
		require.Equal(t, want, w.get(key(1)).Errors)
	}
	touch(sessionstore.Failed, 1)
	touch(sessionstore.Failed, 2)
	touch(sessionstore.Looked, 2)
	touch(sessionstore.Succeeded, 0)
	touch(sessionstore.Failed, 1)
}

func testTouchMoved(t *testing.T, w *world) {
	old := w.claim(key(1), "a")
	w.tick()
	_, _, err := w.Replace(t.Context(), old, w.bind(key(1), "b"))
	require.NoError(t, err)
	_, err = w.Touch(t.Context(), old, time.Now(), sessionstore.Failed)
	require.NoError(t, err)
	require.Zero(t, w.get(key(1)).Errors, "an error of the old target is none of the new one")
}

func testCounts(t *testing.T, w *world) {
	parallel(60, func(i int) {
		s, _, err := w.Claim(context.Background(), w.bind(key(i), fmt.Sprint("t", i%3)))
		if err != nil {
			t.Errorf("claim: %v", err)
		}
		switch i % 6 {
		case 3: // was t0
			_, _, err = w.Replace(context.Background(), s, w.bind(key(i), "t1"))
		case 4: // was t1
			err = w.End(context.Background(), key(i), time.Time{})
		}
		if err != nil {
			t.Errorf("change: %v", err)
		}
	})
	require.Equal(t, []int{10, 20, 20}, []int{w.count("t0"), w.count("t1"), w.count("t2")})
	require.Equal(t, 50, w.len())
}

func testCountsExpire(t *testing.T, w *world) {
	var last sessionstore.Session
	for i := range 60 {
		last = w.claim(key(i), fmt.Sprint("t", i%3))
	}
	until(last.Expires)
	if !w.remote {
		time.Sleep(time.Second)
	}
	w.requireCounts([]int{0, 0, 0, 0}, func() []int {
		return []int{w.count("t0"), w.count("t1"), w.count("t2"), w.len()}
	})
}

func testFull(t *testing.T, w *world) {
	for i := range 3 {
		w.claim(key(i), "a")
	}
	_, won, err := w.Claim(t.Context(), w.bind(key(3), "a"))
	require.ErrorIs(t, err, sessionstore.ErrFull)
	require.False(t, won)
	require.Zero(t, w.get(key(3)), "a refused claim leaves nothing")
	for i := range 3 {
		require.True(t, w.get(key(i)).Live(time.Now()), "live session %d was given up", i)
	}
	moved, swapped, err := w.Replace(t.Context(), w.get(key(1)), w.bind(key(1), "b"))
	require.NoError(t, err, "a move needs no room")
	require.True(t, swapped)
	require.Equal(t, "b", moved.Target)
	require.Equal(t, []int{2, 1, 3}, []int{w.count("a"), w.count("b"), w.len()})
	require.NoError(t, w.End(t.Context(), key(0), time.Time{}))
	w.claim(key(3), "a")
}

func testExpiryMakesRoom(t *testing.T, w *world) {
	for i := range 3 {
		w.claim(key(i), "a")
	}
	time.Sleep(w.ttl + time.Second)
	for i := range 3 {
		w.claim(key(10+i), "b")
	}
	require.Equal(t, 3, w.len())
}

func testExpiryMakesRoomForItsKey(t *testing.T, w *world) {
	time.Sleep(time.Millisecond) // not where clocks tick
	first := w.claim(key(1), "a")
	until(first.Expires)
	w.claim(key(1), "b")
	require.Equal(t, []int{0, 1, 1}, []int{w.count("a"), w.count("b"), w.len()})
}

func testCollision(t *testing.T, w *world) {
	a, b, c := key(1), key(1), key(1)
	b[15]++
	c[14]++
	first := w.claim(a, "a")
	second := w.claim(b, "b")
	third := w.claim(c, "c")
	require.True(t, w.get(a).Same(first))
	require.True(t, w.get(b).Same(second))
	require.True(t, w.get(c).Same(third))
	require.NoError(t, w.End(t.Context(), b, time.Time{}))
	require.False(t, w.get(b).Live(time.Now()))
	require.True(t, w.get(a).Same(first))
	require.True(t, w.get(c).Same(third))
	require.NoError(t, w.End(t.Context(), c, time.Time{}))
	require.True(t, w.get(a).Same(first))
	require.Equal(t, 1, w.len())
}

func testAll(t *testing.T, w *world) {
	want := make(map[sessionstore.Key]bool)
	for i := range 50 {
		w.claim(key(i), "a")
		want[key(i)] = true
	}
	for s, err := range w.All(t.Context()) {
		require.NoError(t, err)
		require.True(t, want[s.Key], "a session that is none, or twice")
		delete(want, s.Key)
	}
	require.Empty(t, want, "sessions that are not listed")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range w.All(ctx) {
		require.ErrorIs(t, err, context.Canceled)
	}
}
