// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
)

// numbered is the n-th of many keys, spread as digests are.
func numbered(n uint64) (key sessionstore.Key) {
	binary.LittleEndian.PutUint64(key[:], n*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(key[8:], n)
	return key
}

// claimMany claims sessions by several goroutines and returns how long each
// claim took.
func claimMany(t testing.TB, m *memory.Store, from, to uint64, workers int) []time.Duration {
	t.Helper()
	times := make([]time.Duration, to-from)
	var next atomic.Uint64
	next.Store(from)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < to; n = next.Add(1) - 1 {
				s := binding("", "x")
				s.Expires = s.Created.Add(24 * time.Hour)
				s.Key = numbered(n)
				begun := time.Now()
				_, won, err := m.Claim(context.Background(), s)
				times[n-from] = time.Since(begun)
				if err != nil || !won {
					t.Errorf("claim %d: won %v, error %v", n, won, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return times
}

func percentiles(b *testing.B, times []time.Duration, what string) {
	b.Helper()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), what+"-p50-ns")
	b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds()), what+"-p99-ns")
	b.ReportMetric(float64(times[len(times)-1].Nanoseconds()), what+"-max-ns")
}

func BenchmarkClaimBy64(b *testing.B) {
	for b.Loop() {
		m := provisioned(b, fmt.Sprintf("test-%d", names.Add(1)), 1_000_000)
		require.NoError(b, m.Start())
		percentiles(b, claimMany(b, m, 0, 100_000, 64), "claim")
		require.NoError(b, m.Cleanup())
	}
}

// What a session takes, all told: the heap after a garbage collection, with a
// million sessions and without.
func BenchmarkBytesPerSession(b *testing.B) {
	const sessions = 1_000_000
	for b.Loop() {
		heap := func() uint64 {
			runtime.GC()
			runtime.GC()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			return stats.HeapInuse
		}
		before := heap()
		m := provisioned(b, fmt.Sprintf("test-%d", names.Add(1)), sessions)
		require.NoError(b, m.Start())
		claimMany(b, m, 0, sessions, 64)
		after := heap()
		for less := heap(); less < after; less = heap() { // until all is at rest
			after = less
		}
		b.ReportMetric(float64(after-before)/sessions, "B/session")
		require.NoError(b, m.Cleanup())
	}
}

// A restart with a million sessions, and what requests see of it and of the
// periodic write.
func BenchmarkRestartWithAMillion(b *testing.B) {
	const sessions = 1_000_000
	dir := dataDir(b)
	for range b.N {
		first := persistent(b, "million", "1s")
		first.MaxSessions = 2 * sessions
		require.NoError(b, first.Start())
		claimMany(b, first, 0, sessions, 64)
		begun := time.Now()
		require.NoError(b, first.Cleanup())
		b.ReportMetric(time.Since(begun).Seconds(), "stop-s")
		info, err := os.Stat(filepath.Join(dir, "million.db"))
		require.NoError(b, err)
		b.ReportMetric(float64(info.Size())/1e6, "file-MB")

		m := persistent(b, "million", "1s")
		m.MaxSessions = 2 * sessions
		begun = time.Now()
		require.NoError(b, m.Start())
		b.ReportMetric(float64(time.Since(begun).Microseconds()), "start-us")
		_, err = m.Get(b.Context(), numbered(sessions-1))
		require.NoError(b, err)
		b.ReportMetric(time.Since(begun).Seconds(), "first-answer-s")
		loaded := make(chan time.Duration, 1)
		go func() {
			for _, err := range m.All(context.Background()) { // waits until all are there
				if err != nil {
					b.Error(err)
				}
				break
			}
			loaded <- time.Since(begun)
		}()
		next := uint64(sessions)
		// mixed is what requests do: 9 of 10 know their session. 4000 a second.
		mixed := func(until func() bool) (gets, claims []time.Duration) {
			tick := time.NewTicker(250 * time.Microsecond)
			defer tick.Stop()
			for n := uint64(0); !until(); n++ {
				<-tick.C
				if n%10 == 0 {
					claims = append(claims, claimMany(b, m, next, next+1, 1)...)
					next++
					continue
				}
				at := time.Now()
				s, err := m.Get(b.Context(), numbered(n*7919%sessions))
				gets = append(gets, time.Since(at))
				if err != nil || s.Target != "x" {
					b.Errorf("a session is missing: %+v, %v", s, err)
					return gets, claims
				}
			}
			return gets, claims
		}
		var took time.Duration
		gets, claims := mixed(func() bool {
			select {
			case took = <-loaded:
				return true
			default:
				return false
			}
		})
		b.ReportMetric(took.Seconds(), "load-s")
		percentiles(b, gets, "load-get")
		percentiles(b, claims, "load-claim")
		end := time.Now().Add(10 * time.Second)
		gets, claims = mixed(func() bool { return time.Now().After(end) })
		percentiles(b, gets, "write-get")
		percentiles(b, claims, "write-claim")
		require.NoError(b, m.Cleanup())
	}
}
