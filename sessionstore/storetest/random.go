// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// random returns a source of random numbers whose seed a failed test tells.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// testCountsQuiet checks counts against what is there, after changes of all
// kinds at once.
func testCountsQuiet(t *testing.T, w *world) {
	rnd := random(t)
	seeds := make([]uint64, 8)
	for round := range 3 {
		for i := range seeds {
			seeds[i] = rnd.Uint64()
		}
		parallel(len(seeds), func(i int) {
			rnd := rand.New(rand.NewPCG(seeds[i], 0))
			for range 100 {
				k, target := key(rnd.IntN(20)), fmt.Sprint("t", rnd.IntN(3))
				held, err := w.Get(context.Background(), k)
				switch {
				case err != nil:
				case rnd.IntN(4) == 0:
					err = w.End(context.Background(), k, time.Time{})
				case held.Target != "":
					_, _, err = w.Replace(context.Background(), held, w.bind(k, target))
				default:
					_, _, err = w.Claim(context.Background(), w.bind(k, target))
				}
				if err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			}
		})
		want := make([]int, 4)
		for i := range 20 {
			if s := w.get(key(i)); s.Live(time.Now()) {
				want[s.Target[1]-'0']++
				want[3]++
			}
		}
		w.requireCounts(want, func() []int {
			return []int{w.count("t0"), w.count("t1"), w.count("t2"), w.len()}
		})
	}
}

func testCancelled(t *testing.T, w *world) {
	done, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the client went away")
	cancel(why)
	_, err := w.Get(done, key(1))
	require.True(t, err == nil || errors.Is(err, why), "get: %v", err)

	parallel(50, func(i int) {
		ctx, cancel := context.WithCancelCause(context.Background())
		if i%2 == 0 {
			cancel(why)
		} else {
			go cancel(why)
		}
		s, won, err := w.Claim(ctx, w.bind(key(i), "a"))
		got, getErr := w.Get(context.Background(), key(i))
		switch {
		case getErr != nil:
			t.Errorf("get %d: %v", i, getErr)
		case err != nil && !errors.Is(err, why):
			t.Errorf("claim %d: %v", i, err)
		case err == nil && (!won || !got.Same(s)):
			t.Errorf("claim %d is answered and not there: %+v", i, got)
		}
		cancel(nil)
	})
	w.settle()
	held := func() (n int) {
		for i := range 50 {
			if w.get(key(i)).Target != "" {
				n++
			}
		}
		return n
	}
	w.requireCounts([]int{0, 0}, func() []int { n := held(); return []int{w.count("a") - n, w.len() - n} })
}

func testRanges(t *testing.T, w *world) {
	now := time.Now().Truncate(time.Hour).Add(123456789 * time.Nanosecond)
	begin := sessionstore.Session{Scope: scope, Target: "a", Created: now, Expires: now.Add(2 * time.Hour)}
	for name, change := range map[string]func(s *sessionstore.Session){
		"nanoseconds":     func(s *sessionstore.Session) { s.Expires = s.Expires.Add(1) },
		"a century":       func(s *sessionstore.Session) { s.Expires = now.AddDate(100, 0, 0) },
		"a long target":   func(s *sessionstore.Session) { s.Target = strings.Repeat("host.example:443/", 4096) },
		"a long scope":    func(s *sessionstore.Session) { s.Scope = strings.Repeat("x", 4096) },
		"any bytes":       func(s *sessionstore.Session) { s.Target = "\x00\xff\r\n\"ü" },
		"no errors":       func(s *sessionstore.Session) { s.MaxErrors = 0 },
		"many errors":     func(s *sessionstore.Session) { s.MaxErrors = math.MaxInt32 },
		"counted errors":  func(s *sessionstore.Session) { s.Errors, s.MaxErrors = 7, 15 },
		"a long idleness": func(s *sessionstore.Session) { s.MaxIdle = 40 * 24 * time.Hour },
		"a short one":     func(s *sessionstore.Session) { s.MaxIdle = time.Hour + time.Millisecond },
	} {
		want := begin
		want.Key = sessionstore.KeyOf(scope, name, strings.Repeat("id", 2048))
		want.LastUsed = time.Now()
		change(&want)
		_, won, err := w.Claim(t.Context(), want)
		require.NoError(t, err, name)
		require.True(t, won, name)
		got := w.get(want.Key)
		require.True(t, got.Same(want), "%s: got %+v", name, got)
		require.True(t, got.Expires.Equal(want.Expires), "%s: got %+v", name, got)
		require.WithinDuration(t, want.LastUsed, got.LastUsed, time.Second, name)
		require.Equal(t, []any{want.Scope, want.MaxIdle, want.MaxErrors, want.Errors},
			[]any{got.Scope, got.MaxIdle, got.MaxErrors, got.Errors}, name)
	}

	none := w.bind(key(1), "a")
	none.Expires = none.Created
	_, _, err := w.Claim(t.Context(), none)
	require.NoError(t, err)
	require.False(t, w.get(key(1)).Live(time.Now()), "a lifetime of nothing")
	w.claim(key(1), "b")
}

func testNotMissed(t *testing.T, w *world) {
	w.claim(key(1), "a")
	require.True(t, w.Missed().IsZero())
	for _, err := range []error{sessionstore.ErrFull, sessionstore.ErrUnavailable} {
		require.Contains(t, []sessionstore.Fallback{sessionstore.FallbackHash, sessionstore.FallbackRefuse}, w.Fallback(err))
	}
}

// call is an operation of a history, and answer what it returned.
type call struct {
	op          string
	key, errors int
	target, old string
}

type answer struct {
	target string
	errors int
	ok     bool
}

// register is what one key may do: the model of a history. Targets are unique,
// so that they name bindings.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[int][]porcupine.Operation)
		for _, o := range history {
			byKey[o.Input.(call).key] = append(byKey[o.Input.(call).key], o)
		}
		parts := make([][]porcupine.Operation, 0, len(byKey))
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return answer{} },
	Step: func(state, input, output any) (bool, any) {
		st, in, out := state.(answer), input.(call), output.(answer)
		holds := out.target == st.target && out.errors == st.errors
		switch in.op {
		case "get":
			return holds, st
		case "claim", "replace":
			if in.op == "claim" && st.target == "" || in.op == "replace" && st.target == in.old && in.old != "" {
				return out.ok && out.target == in.target && out.errors == 0, answer{target: in.target}
			}
			return !out.ok && holds, st
		default: // failed, succeeded
			if st.target != in.old || in.old == "" {
				return out.errors == in.errors, st
			}
			st.errors++
			if in.op == "succeeded" {
				st.errors = 0
			}
			return out.errors == st.errors, st
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
}

// testLinearizable records what concurrent callers saw, and looks for an order
// in which it makes sense.
func testLinearizable(t *testing.T, w *world) {
	rnd := random(t)
	const clients, steps, keys = 6, 60, 3
	var clock atomic.Int64
	var mu sync.Mutex
	var history []porcupine.Operation
	seeds := make([]uint64, clients)
	for i := range seeds {
		seeds[i] = rnd.Uint64()
	}
	parallel(clients, func(client int) {
		rnd := rand.New(rand.NewPCG(seeds[client], 0))
		var last [keys]sessionstore.Session
		for step := range steps {
			n := rnd.IntN(keys)
			in := call{key: n, target: fmt.Sprint(client, "-", step), old: last[n].Target, errors: last[n].Errors}
			in.op = []string{"get", "get", "claim", "replace", "failed", "succeeded"}[rnd.IntN(6)]
			if in.old == "" && in.op != "get" {
				in.op = "claim"
			}
			begin := clock.Add(1)
			out, s, err := w.call(in, last[n])
			end := clock.Add(1)
			if err != nil {
				t.Errorf("%+v: %v", in, err)
				return
			}
			if in.op == "get" || in.op == "claim" || in.op == "replace" {
				last[n] = s
			}
			mu.Lock()
			history = append(history, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: begin, Return: end})
			mu.Unlock()
		}
	})
	require.True(t, porcupine.CheckOperations(register, history), "no order explains what %d callers saw", clients)
}

func (w *world) call(in call, last sessionstore.Session) (answer, sessionstore.Session, error) {
	ctx := context.Background()
	var s sessionstore.Session
	var ok bool
	var err error
	switch in.op {
	case "get":
		s, err = w.Get(ctx, key(in.key))
	case "claim":
		s, ok, err = w.Claim(ctx, w.bind(key(in.key), in.target))
	case "replace":
		s, ok, err = w.Replace(ctx, last, w.bind(key(in.key), in.target))
	case "failed", "succeeded":
		use := map[string]sessionstore.Use{"failed": sessionstore.Failed, "succeeded": sessionstore.Succeeded}[in.op]
		n, err := w.Touch(ctx, last, time.Now(), use)
		return answer{errors: n}, s, err
	}
	return answer{target: s.Target, errors: s.Errors, ok: ok}, s, err
}

// testModel does what comes to mind, one thing after another, and compares with
// what a map says.
func testModel(t *testing.T, w *world) {
	rnd := random(t)
	model := make(map[int]sessionstore.Session)
	targets := []string{"a", "b", "c"}
	for step := range 300 {
		time.Sleep(time.Microsecond)
		n := rnd.IntN(8)
		held, now := model[n], time.Now()
		tombstone := !held.Ended.IsZero() && now.Before(held.Expires)
		switch op := rnd.IntN(10); {
		case op < 3: // claim
			s := w.bind(key(n), targets[rnd.IntN(3)])
			if rnd.IntN(3) == 0 {
				s.MaxIdle = w.ttl / 4
			}
			if rnd.IntN(4) == 0 {
				s.Created = s.Created.Add(-w.ttl / 10) // carried
				s.LastUsed = now
			}
			_, won, err := w.Claim(t.Context(), s)
			require.NoError(t, err)
			want := !held.Live(now) && (!tombstone || held.Ended.Before(s.Created))
			require.Equal(t, want, won, "step %d: claim of %d", step, n)
			if won {
				s.LastUsed = now
				model[n] = s
			}
		case op < 5 && held.Live(now): // replace
			old, next := held, w.bind(key(n), targets[rnd.IntN(3)])
			if rnd.IntN(3) == 0 {
				old.Created = old.Created.Add(-1)
			}
			_, swapped, err := w.Replace(t.Context(), old, next)
			require.NoError(t, err)
			require.Equal(t, old.Same(held), swapped, "step %d: replace of %d", step, n)
			if swapped {
				next.LastUsed = now
				model[n] = next
			}
		case op < 7 && held.Live(now): // touch
			use := sessionstore.Use(rnd.IntN(3))
			errs, err := w.Touch(t.Context(), held, now, use)
			require.NoError(t, err)
			held.LastUsed = now
			switch use {
			case sessionstore.Failed:
				held.Errors++
			case sessionstore.Succeeded:
				held.Errors = 0
			case sessionstore.Looked:
			}
			require.Equal(t, held.Errors, errs, "step %d: touch of %d", step, n)
			model[n] = held
		case op == 7:
			end := time.Time{}
			if rnd.IntN(2) == 0 {
				end = now.Add(w.ttl / 2)
			}
			require.NoError(t, w.End(t.Context(), key(n), end))
			if held.Expires.After(end) {
				end = held.Expires
			}
			if end.After(time.Now()) {
				model[n] = sessionstore.Session{Key: key(n), Ended: time.Now(), Expires: end}
			}
		case op == 8 && !w.remote:
			time.Sleep(time.Duration(rnd.Int64N(int64(w.ttl / 4))))
		}
		w.compare(model, n, step)
		if step%20 == 19 {
			w.compareAll(model)
		}
	}
}

func (w *world) compare(model map[int]sessionstore.Session, n, step int) {
	w.t.Helper()
	got, want, now := w.get(key(n)), model[n], time.Now()
	require.Equal(w.t, want.Live(now), got.Live(now), "step %d: session %d is %+v, want %+v", step, n, got, want)
	if want.Live(now) {
		require.True(w.t, got.Same(want), "step %d: session %d is %+v, want %+v", step, n, got, want)
		require.Equal(w.t, want.Errors, got.Errors, "step %d: errors of session %d", step, n)
	}
	if !want.Ended.IsZero() && now.Before(want.Expires) {
		require.False(w.t, got.Ended.IsZero(), "step %d: session %d has no tombstone", step, n)
	}
}

// compareAll compares counts and the listing.
func (w *world) compareAll(model map[int]sessionstore.Session) {
	w.t.Helper()
	if !w.remote {
		time.Sleep(time.Second)
	}
	want, listed := make([]int, 4), 0
	now := time.Now()
	for _, s := range model {
		if s.Live(now) {
			want[s.Target[0]-'a']++
			want[3]++
		}
		if s.Live(now) || !s.Ended.IsZero() && now.Before(s.Expires) {
			listed++
		}
	}
	w.requireCounts(want, func() []int { return []int{w.count("a"), w.count("b"), w.count("c"), w.len()} })
	for s, err := range w.All(w.t.Context()) {
		require.NoError(w.t, err)
		require.NotZero(w.t, s)
		listed--
	}
	require.Zero(w.t, listed, "sessions that All does not list")
}
