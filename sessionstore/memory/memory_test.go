// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var names atomic.Int64

func provisioned(t testing.TB, name string, size int) *memory.Store {
	t.Helper()
	m := &memory.Store{Name: name, MaxSessions: size, Persist: "off"}
	require.NoError(t, m.Provision(caddy.Context{}))
	require.NoError(t, m.Validate())
	return m
}

func open(t testing.TB, size int) *memory.Store {
	t.Helper()
	m := provisioned(t, fmt.Sprintf("test-%d", names.Add(1)), size)
	require.NoError(t, m.Start())
	t.Cleanup(func() { require.NoError(t, m.Cleanup()) })
	return m
}

func binding(id string, target string) sessionstore.Session {
	now := time.Now()
	return sessionstore.Session{
		Key: sessionstore.KeyOf("test", id), Scope: "lb/test", Target: target,
		Created: now, Expires: now.Add(15 * time.Minute),
	}
}

func TestMemoryConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T, size int) sessionstore.Store {
		t.Helper()
		return open(t, size)
	})
}

func TestCallBeforeStartWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := provisioned(t, t.Name(), 10)
		answered := make(chan error)
		go func() {
			_, won, err := m.Claim(context.Background(), binding("a", "x"))
			if err == nil && !won {
				err = fmt.Errorf("claim lost")
			}
			answered <- err
		}()
		synctest.Wait()
		require.NoError(t, m.Start())
		require.NoError(t, <-answered)
		require.NoError(t, m.Cleanup())
	})
}

func TestCallBeforeStartGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := provisioned(t, t.Name(), 10)
		_, err := m.Get(t.Context(), sessionstore.KeyOf("a"))
		require.ErrorIs(t, err, sessionstore.ErrNotReady)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = m.Get(ctx, sessionstore.KeyOf("a"))
		require.ErrorIs(t, err, context.Canceled)

		require.NoError(t, m.Cleanup())
		_, err = m.Get(t.Context(), sessionstore.KeyOf("a"))
		require.ErrorIs(t, err, sessionstore.ErrClosed)
	})
}

func TestLateCallFailsSafely(t *testing.T) {
	m := provisioned(t, t.Name(), 1000)
	require.NoError(t, m.Start())
	stop := make(chan struct{})
	done := make(chan error, 8)
	for i := range cap(done) {
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				_, _, err := m.Claim(context.Background(), binding(fmt.Sprint(i, n%100), "x"))
				if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	require.NoError(t, m.Cleanup())
	close(stop)
	for range cap(done) {
		if err := <-done; err != nil {
			require.ErrorIs(t, err, sessionstore.ErrClosed)
		}
	}
	_, err := m.Get(t.Context(), sessionstore.KeyOf("a"))
	require.ErrorIs(t, err, sessionstore.ErrClosed)
	require.NoError(t, m.Cleanup(), "a second Cleanup returns nothing twice")
}

func TestSessionsOutliveTheConfiguration(t *testing.T) {
	first := provisioned(t, t.Name(), 2)
	require.NoError(t, first.Start())
	for _, id := range []string{"a", "b"} {
		_, won, err := first.Claim(t.Context(), binding(id, "x"))
		require.NoError(t, err)
		require.True(t, won)
	}

	// A configuration that is only looked at, or fails before it starts.
	validated := provisioned(t, t.Name(), 1)
	require.NoError(t, validated.Cleanup())

	// One that starts and is then taken back.
	failed := provisioned(t, t.Name(), 3)
	require.NoError(t, failed.Start())
	require.NoError(t, failed.Cleanup())
	_, _, err := first.Claim(t.Context(), binding("c", "x"))
	require.ErrorIs(t, err, sessionstore.ErrFull, "its settings must go with it")

	second := provisioned(t, t.Name(), 3)
	require.NoError(t, second.Start())
	require.NoError(t, first.Cleanup())
	s, err := second.Get(t.Context(), sessionstore.KeyOf("test", "a"))
	require.NoError(t, err)
	require.Equal(t, "x", s.Target)
	_, _, err = second.Claim(t.Context(), binding("c", "x"))
	require.NoError(t, err, "the new settings apply")

	// Fewer than there are: nothing is ended, nothing is added.
	third := provisioned(t, t.Name(), 1)
	require.NoError(t, third.Start())
	require.NoError(t, second.Cleanup())
	n, err := third.Len(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, n)
	_, _, err = third.Claim(t.Context(), binding("d", "x"))
	require.ErrorIs(t, err, sessionstore.ErrFull)
	require.NoError(t, third.Cleanup())
}

func TestMemoryRefusesSettingsWithoutMeaning(t *testing.T) {
	for want, m := range map[string]*memory.Store{
		"max_sessions is -1, it must be positive":                 {MaxSessions: -1},
		`on_full "drop" is unknown`:                               {OnFull: "drop"},
		`persist "never" is neither a duration (like 1s) nor off`: {Persist: "never"},
		"persist -1s is too short: 100ms is the least":            {Persist: "-1s"},
		"persist 0s is too short: 100ms is the least":             {Persist: "0s"},
		"persist 99ms is too short: 100ms is the least":           {Persist: "99ms"},
	} {
		require.NoError(t, m.Provision(caddy.Context{}))
		require.ErrorContains(t, m.Validate(), want)
	}
}

func TestMemoryReadsItsBlock(t *testing.T) {
	var m memory.Store
	d := caddyfile.NewTestDispenser("memory {\n name carts\n max_sessions 5\n on_full hash\n persist off\n}")
	require.NoError(t, m.UnmarshalCaddyfile(d))
	require.Equal(t, "carts", m.Name)
	require.Equal(t, 5, m.MaxSessions)
	require.Equal(t, sessionstore.FallbackHash, m.OnFull)
	require.Equal(t, "off", m.Persist)
	require.Error(t, new(memory.Store).UnmarshalCaddyfile(caddyfile.NewTestDispenser("memory extra")))
}

func TestLookupDoesNotAllocate(t *testing.T) {
	m := open(t, 10)
	s, _, err := m.Claim(t.Context(), binding("a", "x"))
	require.NoError(t, err)
	ctx := t.Context()
	allocs := testing.AllocsPerRun(1000, func() {
		if got, err := m.Get(ctx, sessionstore.KeyOf("test", "a")); err != nil || !got.Same(s) {
			t.Fatal("lookup failed")
		}
	})
	// A garbage collection may empty ristretto's pool of read buffers.
	require.Less(t, allocs, 1.0)
}

func BenchmarkGet(b *testing.B) {
	m := open(b, 1000)
	_, _, err := m.Claim(b.Context(), binding("a", "x"))
	require.NoError(b, err)
	ctx, key := b.Context(), sessionstore.KeyOf("test", "a")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = m.Get(ctx, key)
	}
}

func BenchmarkClaim(b *testing.B) {
	m := open(b, 100_000_000)
	s := binding("", "x")
	b.ReportAllocs()
	var n uint64
	for b.Loop() {
		n++
		binary.LittleEndian.PutUint64(s.Key[:], n*0x9e3779b97f4a7c15)
		if _, won, err := m.Claim(b.Context(), s); err != nil || !won {
			b.Fatal(won, err)
		}
	}
}
