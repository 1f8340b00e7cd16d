// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// What ristretto does that a session table must not. Should one of these tests
// fail with a later version, then the table may do without its cure.

func cache(t *testing.T, change func(*ristretto.Config[uint64, int])) *ristretto.Cache[uint64, int] {
	t.Helper()
	config := &ristretto.Config[uint64, int]{NumCounters: 1 << 10, MaxCost: 1 << 40, BufferItems: 64, IgnoreInternalCost: true}
	if change != nil {
		change(config)
	}
	c, err := ristretto.NewCache(config)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// holdUp makes the cache's goroutine wait in the cost function of a key until
// release is called.
func holdUp(t *testing.T) (c *ristretto.Cache[uint64, int], release func()) {
	t.Helper()
	begun, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c = cache(t, func(config *ristretto.Config[uint64, int]) {
		config.Cost = func(value int) int64 {
			if value == -1 {
				close(begun)
				<-free
			}
			return 1
		}
	})
	release = func() { once.Do(func() { close(free) }) }
	t.Cleanup(release)
	require.True(t, c.Set(0, -1, 0))
	<-begun
	return c, release
}

func TestFactNewKeyIsVisibleOnlyLater(t *testing.T) {
	c, release := holdUp(t)
	require.True(t, c.Set(1, 1, 0))
	_, ok := c.Get(1)
	require.False(t, ok, "Set returned true, and the key is not there")
	release()
	c.Wait()
	_, ok = c.Get(1)
	require.True(t, ok)
}

func TestFactSecondSetOfANewKeyIsLost(t *testing.T) {
	c, release := holdUp(t)
	require.True(t, c.Set(1, 1, 0))
	require.True(t, c.Set(1, 2, 0), "accepted")
	release()
	c.Wait()
	value, ok := c.Get(1)
	require.True(t, ok)
	require.Equal(t, 1, value, "and lost")
}

func TestFactSetIsDroppedWhenTheBufferIsFull(t *testing.T) {
	c, release := holdUp(t)
	dropped := 0
	for key := uint64(1); key <= 100_000; key++ {
		if !c.Set(key, 1, 0) {
			dropped++
		}
	}
	require.Positive(t, dropped)
	release()
	c.Wait()
	missing := 0
	for key := uint64(1); key <= 100_000; key++ {
		if _, ok := c.Get(key); !ok {
			missing++
		}
	}
	require.Equal(t, dropped, missing, "with ample room")
}

func TestFactAdmissionRefusesNewcomersAndEvicts(t *testing.T) {
	var evicted, rejected atomic.Int64
	c := cache(t, func(config *ristretto.Config[uint64, int]) {
		config.MaxCost = 1000
		config.NumCounters = 10_000
		config.OnEvict = func(*ristretto.Item[int]) { evicted.Add(1) }
		config.OnReject = func(*ristretto.Item[int]) { rejected.Add(1) }
	})
	for key := range uint64(20_000) {
		require.True(t, c.Set(key, 1, 1), "accepted")
		if key%1000 == 0 {
			for range 64 {
				c.Get(key)
			}
		}
		c.Wait()
	}
	require.EqualValues(t, 19_000, evicted.Load()+rejected.Load())
}

func TestFactSetRacingCloseCanPanic(t *testing.T) {
	// Close closes the channel that Set writes to before it says that the cache
	// is closed. A Set in between panics; this is the state in between.
	c, err := ristretto.NewCache(&ristretto.Config[uint64, int]{NumCounters: 10, MaxCost: 10, BufferItems: 64})
	require.NoError(t, err)
	c.Close()
	closed := reflect.ValueOf(c).Elem().FieldByName("isClosed")
	require.True(t, closed.IsValid())
	(*atomic.Bool)(closed.Addr().UnsafePointer()).Store(false)
	require.Panics(t, func() { c.Set(1, 1, 1) })
	(*atomic.Bool)(closed.Addr().UnsafePointer()).Store(true)
}

func TestFactValuesCanBeListedKeysNot(t *testing.T) {
	c := cache(t, nil)
	c.Set(1, 7, 1)
	c.Wait()
	var values []int
	c.IterValues(func(value int) bool {
		values = append(values, value)
		return false
	})
	require.Equal(t, []int{7}, values)
	typ := reflect.TypeOf(c)
	for _, name := range []string{"Keys", "IterKeys", "Iter", "Range"} {
		_, ok := typ.MethodByName(name)
		require.False(t, ok, name)
	}
}

func TestFactTwoKeysCanShareAHash(t *testing.T) {
	c, err := ristretto.NewCache(&ristretto.Config[string, int]{
		NumCounters: 1 << 10, MaxCost: 1 << 20, BufferItems: 64,
		KeyToHash: func(string) (uint64, uint64) { return 1, 0 },
	})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	c.Set("a", 1, 1)
	c.Wait()
	value, ok := c.Get("b")
	require.True(t, ok)
	require.Equal(t, 1, value, "another key's value: an integer's second hash is none")
}

// And the table has none of these.

func TestBurstOfClaimsIsReadableWhenAnswered(t *testing.T) {
	const sessions, workers = 100_000, 64
	m := open(t, sessions)
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := next.Add(1); n <= sessions; n = next.Add(1) {
				s := binding("", "x")
				s.Key = numbered(n)
				claimed, won, err := m.Claim(t.Context(), s)
				if err != nil || !won {
					t.Errorf("claim %d: won %v, error %v", n, won, err)
					return
				}
				if got, err := m.Get(t.Context(), s.Key); err != nil || !got.Same(claimed) {
					t.Errorf("claim %d was answered and is not there: %+v, %v", n, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for n := uint64(1); n <= sessions; n++ {
		s, err := m.Get(t.Context(), numbered(n))
		require.NoError(t, err)
		if !s.Live(time.Now()) {
			t.Fatalf("session %d was lost", n)
		}
	}
}

func TestFullStoreKeepsTheFirstAndRefusesTheRest(t *testing.T) {
	sessions := uint64(1_000_000 / slowdown)
	m := open(t, int(sessions))
	var next, refused atomic.Uint64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for n := next.Add(1); n <= 2*sessions; n = next.Add(1) {
				s := binding("", "x")
				s.Key, s.Expires = numbered(n), s.Created.Add(time.Hour)
				_, won, err := m.Claim(t.Context(), s)
				switch {
				case err == nil && won:
				case errors.Is(err, sessionstore.ErrFull):
					refused.Add(1)
				default:
					t.Errorf("claim %d: won %v, error %v", n, won, err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, sessions, refused.Load())
	length, err := m.Len(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, sessions, length)
	alive := uint64(0)
	for n := uint64(1); n <= 2*sessions; n++ {
		s, err := m.Get(t.Context(), numbered(n))
		require.NoError(t, err)
		if s.Live(time.Now()) {
			alive++
			// The last few of the first million raced with the first refused.
			require.LessOrEqual(t, n, sessions+64)
		}
	}
	require.Equal(t, sessions, alive)
}
