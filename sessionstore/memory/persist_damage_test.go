// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// openTable opens a table over a file and waits until it is loaded.
func openTable(t testing.TB, path string) *table {
	t.Helper()
	tab, err := newTable(1_000_000)
	require.NoError(t, err)
	tab.keepIn(path, time.Hour)
	require.NoError(t, tab.complete(context.Background()))
	return tab
}

func testKey(i int) sessionstore.Key { return sessionstore.KeyOf("test", fmt.Sprint(i)) }

// writtenFile is a file with live sessions, and one session that is over.
func writtenFile(t testing.TB, sessions int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	tab := openTable(t, path)
	now := time.Now()
	for i := range sessions {
		_, won, err := tab.claim(t.Context(), sessionstore.Session{
			Key: testKey(i), Scope: "lb/test", Target: fmt.Sprint("target", i%7), Created: now, Expires: now.Add(time.Hour),
		}, now)
		require.NoError(t, err)
		require.True(t, won)
	}
	_, _, err := tab.claim(t.Context(), sessionstore.Session{
		Key: testKey(-1), Scope: "lb/test", Target: "over", Created: now.Add(-2 * time.Minute), Expires: now.Add(-time.Minute),
	}, now)
	require.NoError(t, err)
	tab.close()
	return path
}

// judge opens what is left of a file. Either it was set aside, or all is there.
// Of two meta pages the older one serves, as after a write that was torn: then
// the file is as it was before the last write.
func judge(t *testing.T, whole []byte, sessions int, path, what string, olderIsFine bool) {
	t.Helper()
	tab := openTable(t, path)
	defer tab.close()
	now := time.Now()
	alive := 0
	for i := range sessions {
		s, err := tab.get(t.Context(), testKey(i))
		require.NoError(t, err)
		if s.Live(now) {
			require.Equal(t, fmt.Sprint("target", i%7), s.Target, what)
			alive++
		}
	}
	over, err := tab.get(t.Context(), testKey(-1))
	require.NoError(t, err)
	require.False(t, over.Live(now), "%s revived a session", what)
	aside, err := filepath.Glob(path + ".damaged-*")
	require.NoError(t, err)
	if len(aside) == 0 && olderIsFine {
		return
	}
	if len(aside) == 0 {
		require.Equal(t, sessions, alive, "%s lost sessions of a file that was not set aside", what)
		return
	}
	require.Len(t, aside, 1, what)
	require.Zero(t, alive, what)
	kept, err := os.ReadFile(aside[0])
	require.NoError(t, err)
	require.LessOrEqual(t, len(kept), len(whole))
}

func TestTruncatedFileIsSetAside(t *testing.T) {
	const sessions = 300
	path := writtenFile(t, sessions)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	page := os.Getpagesize()
	for size := 1; size < len(whole); size += page / 2 {
		cut := filepath.Join(t.TempDir(), "test.db")
		require.NoError(t, os.WriteFile(cut, whole[:size], 0o600))
		judge(t, whole, sessions, cut, fmt.Sprintf("truncation to %d bytes", size), false)
	}
}

func TestFlippedByteIsNoticedOrDoesNoHarm(t *testing.T) {
	const sessions = 60
	path := writtenFile(t, sessions)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	dir := t.TempDir()
	page := os.Getpagesize()
	refused, accepted := 0, 0
	for at := range whole {
		flipped := append([]byte(nil), whole...)
		flipped[at] ^= byte(1 << (at % 8))
		// Opening all of them takes minutes: all that are accepted in spite of a
		// change to a page's header, and some of the others.
		if err := checkFile(bytes.NewReader(flipped), int64(len(flipped)), checkValue); err != nil {
			require.ErrorIs(t, err, errDamaged)
			if refused++; refused%499 != 0 {
				continue
			}
		} else if accepted++; at%page >= 16 && accepted%199 != 0 {
			continue
		}
		file := filepath.Join(dir, fmt.Sprint(at), "test.db")
		require.NoError(t, os.Mkdir(filepath.Dir(file), 0o700))
		require.NoError(t, os.WriteFile(file, flipped, 0o600))
		judge(t, whole, sessions, file, fmt.Sprintf("a flip of byte %d", at), at < 2*page)
		require.NoError(t, os.RemoveAll(filepath.Dir(file)))
	}
	t.Logf("of %d flips %d were refused", len(whole), refused)
	require.Greater(t, refused, sessions*recordFixed, "each byte of a record counts")
}

// Whatever a file holds, it is either refused, or bbolt can read all of it.
func FuzzCheckFile(f *testing.F) {
	path := writtenFile(f, 40)
	whole, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(uint16(0), uint64(0))
	f.Add(uint16(os.Getpagesize()*3+16), uint64(3))
	f.Fuzz(func(t *testing.T, at uint16, value uint64) {
		changed := append([]byte(nil), whole...)
		if int(at)+8 > len(changed) {
			t.Skip()
		}
		binary.NativeEndian.PutUint64(changed[at:], value)
		file := filepath.Join(t.TempDir(), "test.db")
		require.NoError(t, os.WriteFile(file, changed, 0o600))
		judge(t, whole, 40, file, "a change", int(at) < 2*os.Getpagesize())
	})
}

func TestFileOfAnotherFormatIsSetAside(t *testing.T) {
	path := writtenFile(t, 10)
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket(headerBucket).Put(versionKey, []byte("2")) }))
	require.NoError(t, db.Close())
	tab := openTable(t, path)
	defer tab.close()
	require.Zero(t, tab.live.Load())
	aside, err := filepath.Glob(path + ".damaged-*")
	require.NoError(t, err)
	require.Len(t, aside, 1)
}

func TestFileThatIsOthersDataIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	require.NoError(t, os.WriteFile(path, []byte("a letter to the operator"), 0o600))
	openTable(t, path).close()
	aside, err := filepath.Glob(path + ".damaged-*")
	require.NoError(t, err)
	require.Len(t, aside, 1)
	text, err := os.ReadFile(aside[0])
	require.NoError(t, err)
	require.Equal(t, "a letter to the operator", string(text))
}

func TestFullDiskIsTriedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	tab, err := newTable(1_000_000)
	require.NoError(t, err)
	f, _, err := openFile(path)
	require.NoError(t, err)
	// A journal that nobody but the test has flush.
	j := &journal{table: tab, path: path, decided: make(chan struct{}), loaded: make(chan struct{}), done: make(chan struct{}), stop: make(chan struct{})}
	tab.journal.Store(j)
	j.begin(f)
	j.enter(journalLoaded)
	f.db.MaxSize = 1
	now := time.Now()
	for i := range 5000 {
		_, _, err := tab.claim(t.Context(), sessionstore.Session{
			Key: testKey(i), Scope: "lb/test", Target: "x", Created: now, Expires: now.Add(time.Hour),
		}, now)
		require.NoError(t, err)
	}
	require.True(t, j.flush(f), "the file is not lost")
	require.NotEmpty(t, j.failing)
	f.db.MaxSize = 0
	require.True(t, j.flush(f))
	require.Empty(t, j.failing)
	require.NoError(t, f.close())
	tab.journal.Store(nil)
	tab.close()

	again := openTable(t, path)
	defer again.close()
	require.EqualValues(t, 5000, again.live.Load())
}
