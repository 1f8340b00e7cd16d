// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
)

// Configurations come and go as Caddy has them: provisioned, started, taken
// back, replaced; with other settings each time, while requests go on with
// whichever they began with.
func TestLifeCyclesInterleave(t *testing.T) {
	dir := dataDir(t)
	for seed := range uint64(40) / min(slowdown, 4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { interleave(t, seed, dir) })
	}
}

func interleave(t *testing.T, seed uint64, dir string) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	name := fmt.Sprint("cycles-", seed)
	persist := []string{"off", "100ms", "1h"}
	provision := func() *memory.Store {
		m := &memory.Store{Name: name, MaxSessions: 1 + random.IntN(400), Persist: persist[random.IntN(len(persist))]}
		require.NoError(t, m.Provision(caddy.Context{}))
		require.NoError(t, m.Validate())
		return m
	}
	var using atomic.Pointer[memory.Store]
	current := provision()
	require.NoError(t, current.Start())
	using.Store(current)

	stop := make(chan struct{})
	var requests sync.WaitGroup
	var mu sync.Mutex
	remembered := make(map[string]bool)
	for worker := range 4 {
		requests.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				m := using.Load()
				id := fmt.Sprint(worker, "-", i%1000)
				s, _, err := m.Claim(context.Background(), binding(id, "x"))
				switch {
				case err == nil && s.Target == "x":
					mu.Lock()
					remembered[id] = true
					mu.Unlock()
				case !errors.Is(err, sessionstore.ErrFull) && !errors.Is(err, sessionstore.ErrClosed):
					t.Errorf("claim: %+v, %v", s, err)
					return
				}
			}
		})
	}
	for range 25 {
		next := provision()
		switch random.IntN(4) {
		case 0: // caddy validate, or a configuration that fails before it starts
			require.NoError(t, next.Cleanup())
		case 1: // one that starts and is taken back
			require.NoError(t, next.Start())
			require.NoError(t, next.Cleanup())
		default:
			require.NoError(t, next.Start())
			using.Store(next)
			require.NoError(t, current.Cleanup())
			require.NoError(t, current.Cleanup(), "the second one gives nothing back")
			current = next
		}
		// The settings are those of the current configuration.
		length, err := current.Len(t.Context())
		require.NoError(t, err)
		if _, _, err := current.Claim(t.Context(), binding(fmt.Sprint("probe", length), "x")); length >= current.MaxSessions {
			require.ErrorIs(t, err, sessionstore.ErrFull)
		}
	}
	close(stop)
	requests.Wait()
	for id := range remembered {
		require.Equal(t, "x", lookup(t, current, id).Target, "session %s is lost", id)
	}
	require.NoError(t, current.Cleanup())
	_, err := current.Get(t.Context(), sessionstore.KeyOf("a"))
	require.ErrorIs(t, err, sessionstore.ErrClosed)

	path := dir + "/" + name + ".db"
	if current.Persist == "off" {
		require.NoFileExists(t, path)
		return
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	require.NoError(t, err, "the lock was given back")
	require.NoError(t, db.Close())
	again := running(t, name, "1h")
	for id := range remembered {
		require.Equal(t, "x", lookup(t, again, id).Target, "session %s is lost by the restart", id)
	}
	require.NoError(t, again.Cleanup())
	require.NoError(t, os.Remove(path))
}
