// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package filewatch

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const interval = time.Second

// sight is what a watcher was told.
type sight struct {
	content string
	failed  bool
}

func watch(t *testing.T, content string) (path string, seen func() []sight) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	write(t, path, content, 0)
	f, first, err := Open(path, interval)
	require.NoError(t, err)
	require.Equal(t, content, string(first))
	var mu sync.Mutex
	var list []sight
	f.Watch(func(content []byte, err error) {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, sight{string(content), err != nil})
	})
	t.Cleanup(f.Close)
	return path, func() []sight {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		told := list
		list = nil
		return told
	}
}

// write writes a file with a time of its own: the file system's clock is not
// the bubble's.
func write(t *testing.T, path, content string, age time.Duration) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	at := time.Unix(1_700_000_000, 0).Add(age)
	require.NoError(t, os.Chtimes(path, at, at))
}

func TestChangeIsToldOnceItIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, seen := watch(t, "one")
		time.Sleep(10 * time.Second)
		require.Empty(t, seen(), "nothing changed")

		write(t, path, "tw", time.Second)
		time.Sleep(interval)
		require.Empty(t, seen(), "it may be being written")
		write(t, path, "two", 2*time.Second)
		time.Sleep(interval)
		require.Empty(t, seen())
		time.Sleep(interval)
		require.Equal(t, []sight{{content: "two"}}, seen())
		time.Sleep(10 * time.Second)
		require.Empty(t, seen())
	})
}

func TestFileOfTheSameSizeAndTimeIsAnotherOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, seen := watch(t, "one")
		write(t, path+".new", "two", 0)
		require.NoError(t, os.Rename(path+".new", path))
		time.Sleep(3 * interval)
		require.Equal(t, []sight{{content: "two"}}, seen())
	})
}

func TestMissingFileIsToldOnceAndReadWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, seen := watch(t, "one")
		require.NoError(t, os.Remove(path))
		time.Sleep(5 * interval)
		require.Equal(t, []sight{{failed: true}}, seen())
		write(t, path, "one", 0)
		time.Sleep(3 * interval)
		require.Equal(t, []sight{{content: "one"}}, seen())
	})
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	_, _, err := Open(t.TempDir(), interval)
	require.ErrorContains(t, err, "is not a file")
	_, _, err = Open(filepath.Join(t.TempDir(), "missing"), interval)
	require.ErrorIs(t, err, os.ErrNotExist)
}
