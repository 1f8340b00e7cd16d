// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// shelf is a storage in memory, which can be out of order.
type shelf struct {
	certmagic.Storage
	name string

	mu     sync.Mutex
	files  map[string][]byte
	broken error
	reads  int
	writes int
	locked chan struct{}
}

func newShelf(name string) *shelf {
	return &shelf{name: name, files: make(map[string][]byte), locked: make(chan struct{}, 1)}
}

func (s *shelf) String() string { return s.name }

func (s *shelf) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.broken != nil {
		return nil, s.broken
	}
	value, ok := s.files[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(value), nil
}

func (s *shelf) Store(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	s.writes++
	s.files[key] = slices.Clone(value)
	return nil
}

func (s *shelf) Lock(ctx context.Context, _ string) error {
	select {
	case s.locked <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *shelf) Unlock(context.Context, string) error {
	<-s.locked
	return nil
}

// used returns how often the storage was read and written, when all who do so
// on their own are through.
func (s *shelf) used() (reads, writes int) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads, s.writes
}

func (s *shelf) breaks(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

// machine is the keys of one process. Each has a name of its own for the
// storage, because those of one process share them.
type machine struct {
	*Keys
	t    *testing.T
	logs *observer.ObservedLogs
}

// alias is one storage under another name.
type alias struct {
	*shelf
	name string
}

func (a alias) String() string { return a.name }

func newMachine(t *testing.T, name string, storage *shelf, rotation time.Duration) *machine {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	k, err := NewKeys(KeysConfig{Rotation: rotation, Storage: alias{storage, name}, Logger: zap.New(core)})
	require.NoError(t, err)
	k.Accept(15 * time.Minute)
	return &machine{k, t, logs}
}

func (m *machine) start() *machine {
	m.t.Helper()
	require.NoError(m.t, m.Start())
	m.t.Cleanup(func() { require.NoError(m.t, m.Cleanup()) })
	return m
}

func (m *machine) seals() string {
	m.t.Helper()
	now := time.Now()
	return seal(m.t, m.Keys, tokenScope, Token{Created: now, Expires: now.Add(15 * time.Minute), Seen: now}, "a")
}

func (m *machine) reads(value string) {
	m.t.Helper()
	_, rejection := m.Open(m.t.Context(), tokenScope, value, time.Now())
	require.Empty(m.t, rejection)
}

func TestMachinesThatShareAStorageReadEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newShelf(t.Name())
		machines := []*machine{
			newMachine(t, "one", storage, 0), newMachine(t, "two", storage, 0), newMachine(t, "three", storage, 0),
		}
		var wg sync.WaitGroup
		for _, m := range machines {
			wg.Go(func() { _ = m.Start() })
		}
		wg.Wait()
		for _, m := range machines {
			defer func() { require.NoError(t, m.Cleanup()) }()
		}
		_, writes := storage.used()
		require.Equal(t, 1, writes, "one of them made the key")
		for _, one := range machines {
			for _, other := range machines {
				other.reads(one.seals())
			}
		}
	})
}

func TestKeysRotateWithoutAnyTokenLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rotation = 2 * time.Hour
		storage := newShelf(t.Name())
		one := newMachine(t, "one", storage, rotation).start()
		time.Sleep(7 * time.Minute)
		two := newMachine(t, "two", storage, rotation).start()
		ids := make(map[string]bool)
		var earlier []string // of the last 15 minutes
		for range 3 * 24 * 60 {
			time.Sleep(time.Minute)
			for _, m := range []*machine{one, two} {
				value := m.seals()
				ids[value[3:8]] = true
				earlier = append(earlier, value)
			}
			if len(earlier) > 28 {
				earlier = earlier[len(earlier)-28:]
			}
			before, _ := storage.used()
			for _, value := range earlier {
				one.reads(value)
				two.reads(value)
			}
			after, _ := storage.used()
			require.Equal(t, before, after, "a new key was known before it was used")
		}
		require.GreaterOrEqual(t, len(ids), 35, "72 hours have 36 rotations")
		require.LessOrEqual(t, len(ids), 44)
		require.LessOrEqual(t, len(one.ring.Load().state.Load().keys), 4, "old keys are forgotten")
	})
}

func TestUnknownKeyIsLookedForNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newShelf(t.Name())
		one := newMachine(t, "one", storage, 0).start()
		_ = one.seals()
		// Somebody deleted the file, and another machine made a key.
		storage.files = make(map[string][]byte)
		two := newMachine(t, "two", storage, 0).start()
		before, _ := storage.used()
		one.reads(two.seals())
		after, _ := storage.used()
		require.Equal(t, before+1, after)

		stranger := newMachine(t, "three", newShelf("elsewhere"), 0).start()
		for range 100 {
			_, rejection := one.Open(t.Context(), tokenScope, stranger.seals(), time.Now())
			require.Equal(t, RejectKey, rejection)
		}
		after, _ = storage.used()
		require.LessOrEqual(t, after, before+2, "not for each of them")
	})
}

func TestStorageThatFailsIsReportedAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newShelf(t.Name())
		storage.breaks(errors.New("no such host"))
		one := newMachine(t, "one", storage, 0).start()
		first := one.seals()
		one.reads(first)
		time.Sleep(5 * time.Minute)
		require.Equal(t, 1, one.logs.FilterLevelExact(zap.ErrorLevel).Len(), "said once")
		storage.breaks(nil)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 1, one.logs.FilterLevelExact(zap.InfoLevel).Len())
		one.reads(first)
		two := newMachine(t, "two", storage, 0).start()
		two.reads(one.seals())

		// What is known stays in use when it fails again.
		storage.breaks(errors.New("no such host"))
		time.Sleep(time.Hour)
		one.reads(two.seals())
	})
}

func TestKeysOutliveTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newShelf(t.Name())
		first := newMachine(t, "one", storage, 0)
		require.NoError(t, first.Start())
		value := first.seals()
		storage.breaks(errors.New("no such host"))
		second := newMachine(t, "one", storage, 0)
		require.NoError(t, second.Start())
		require.NoError(t, first.Cleanup())
		second.reads(value)
		require.NoError(t, second.Cleanup())
		require.NoError(t, second.Cleanup(), "it gives nothing back twice")
	})
}

func TestStorageOfTheConfigurationThatIsGoneIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed, storage := newShelf("first"), newShelf("second")
		first := newMachine(t, "one", closed, 0)
		require.NoError(t, first.Start())
		storage.files[ringFile] = closed.files[ringFile]
		failing := newMachine(t, "one", newShelf("third"), 0)
		require.NoError(t, failing.Start())
		require.NoError(t, failing.Cleanup())
		second := newMachine(t, "one", storage, 0).start()
		require.NoError(t, first.Cleanup())
		closed.breaks(errors.New("closed"))
		time.Sleep(DefaultKeyRotation)
		_, writes := storage.used()
		require.Positive(t, writes, "the next key is made")
		require.Zero(t, second.logs.FilterLevelExact(zap.ErrorLevel).Len())
	})
}

func TestKeysRotateFromTheBeginning(t *testing.T) {
	for range 20 { // goroutines start in any order
		synctest.Test(t, func(t *testing.T) {
			storage := newShelf(t.Name())
			newMachine(t, "one", storage, 6*time.Second).start()
			time.Sleep(5 * time.Second)
			_, writes := storage.used()
			require.Equal(t, 2, writes)
		})
	}
}

func TestOnlyStartWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newShelf(t.Name())
		m := newMachine(t, "one", storage, 0)
		answered := make(chan string)
		go func() {
			value, _ := m.Seal(context.Background(), tokenScope, Token{}, "a")
			answered <- value
		}()
		reads, writes := storage.used()
		require.Zero(t, reads+writes)
		require.NoError(t, m.Start())
		require.NotEmpty(t, <-answered, "a call before that waits for it")
		require.NoError(t, m.Cleanup())

		never := newMachine(t, "two", storage, 0)
		require.NoError(t, never.Cleanup())
		_, err := never.Seal(t.Context(), tokenScope, Token{}, "a")
		require.ErrorIs(t, err, sessionstore.ErrClosed)
	})
}

func TestDamagedKeysAreLeftAlone(t *testing.T) {
	for _, text := range []string{"", "{", `{"version":1,"keys":[{"id":"AAAA","secret":"AAAA"}]}`, `{"version":2}`} {
		synctest.Test(t, func(t *testing.T) {
			storage := newShelf(t.Name())
			storage.files[ringFile] = []byte(text)
			m := newMachine(t, "one", storage, 0).start()
			m.reads(m.seals())
			require.Equal(t, text, string(storage.files[ringFile]))
			require.Equal(t, 1, m.logs.FilterLevelExact(zap.ErrorLevel).Len())
		})
	}
}

func TestKeysThatMakeNoSenseAreRefused(t *testing.T) {
	for _, test := range []struct {
		config KeysConfig
		want   string
	}{
		{KeysConfig{Given: []string{"short"}}, "cookie_keys: key 1 has 5 bytes, it must have at least 16"},
		{KeysConfig{Given: []string{oneSecret, oneSecret}}, "cookie_keys: key 2 is given twice"},
		{KeysConfig{Rotation: time.Millisecond}, "key_rotation is 1ms, it must be at least 1s"},
		{KeysConfig{Rotation: -time.Hour}, "key_rotation is -1h0m0s"},
		{KeysConfig{Rotation: time.Hour, Given: []string{oneSecret}}, "key_rotation has no meaning"},
	} {
		_, err := NewKeys(test.config)
		require.ErrorContains(t, err, test.want)
	}
}
