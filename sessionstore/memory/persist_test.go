// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
)

// guard is how long anything may take before a test says that it hangs.
const guard = time.Minute

// dataDir gives the test a data directory of its own and returns where stores
// keep their files.
func dataDir(t testing.TB) string {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	return filepath.Join(caddy.AppDataDir(), "sticky")
}

func persistent(t testing.TB, name, interval string) *memory.Store {
	t.Helper()
	m := &memory.Store{Name: name, Persist: interval}
	require.NoError(t, m.Provision(caddy.Context{}))
	require.NoError(t, m.Validate())
	return m
}

func running(t testing.TB, name, interval string) *memory.Store {
	t.Helper()
	m := persistent(t, name, interval)
	require.NoError(t, m.Start())
	t.Cleanup(func() { require.NoError(t, m.Cleanup()) })
	return m
}

func claim(t testing.TB, m *memory.Store, s sessionstore.Session) sessionstore.Session {
	t.Helper()
	s, won, err := m.Claim(t.Context(), s)
	require.NoError(t, err)
	require.True(t, won)
	return s
}

func lookup(t testing.TB, m *memory.Store, id string) sessionstore.Session {
	t.Helper()
	s, err := m.Get(t.Context(), sessionstore.KeyOf("test", id))
	require.NoError(t, err)
	return s
}

func TestRestartKeepsEverySession(t *testing.T) {
	dir := dataDir(t)
	m := persistent(t, "kept", "1h") // nothing but the stop writes
	require.NoError(t, m.Start())
	for i := range 5000 {
		claim(t, m, binding(fmt.Sprint(i), fmt.Sprint("target", i%3)))
	}
	idle := binding("idle", "x")
	idle.MaxIdle, idle.MaxErrors = 10*time.Minute, 7
	idle = claim(t, m, idle)
	used := time.Now().Add(time.Second)
	_, err := m.Touch(t.Context(), idle, used, sessionstore.Failed)
	require.NoError(t, err)
	require.NoError(t, m.End(t.Context(), sessionstore.KeyOf("test", "3"), time.Time{}))
	old := lookup(t, m, "4")
	moved, swapped, err := m.Replace(t.Context(), old, binding("4", "elsewhere"))
	require.NoError(t, err)
	require.True(t, swapped)
	require.NoError(t, m.Cleanup())

	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	info, err = os.Stat(filepath.Join(dir, "kept.db"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())

	again := running(t, "kept", "1h")
	for i := range 5000 {
		s := lookup(t, again, fmt.Sprint(i))
		switch i {
		case 3:
			require.False(t, s.Ended.IsZero(), "a tombstone stays")
		case 4:
			require.True(t, s.Same(moved))
		default:
			require.Equal(t, fmt.Sprint("target", i%3), s.Target)
			require.True(t, s.Live(time.Now()))
		}
	}
	got := lookup(t, again, "idle")
	require.True(t, got.Same(idle))
	require.True(t, got.LastUsed.Equal(used), "a clean stop knows when it was used last")
	require.Equal(t, []int{1, 7}, []int{got.Errors, got.MaxErrors})
	require.Equal(t, 10*time.Minute, got.MaxIdle)
	listed := 0
	for _, err := range again.All(t.Context()) {
		require.NoError(t, err)
		listed++
	}
	require.Equal(t, 5001, listed)
	n, err := again.Len(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5000, n)
	n, err = again.Count(t.Context(), "lb/test", "target2")
	require.NoError(t, err)
	require.Equal(t, 1666, n)
}

func TestExpiredSessionIsNotRevived(t *testing.T) {
	dataDir(t)
	m := persistent(t, "expiry", "1h")
	require.NoError(t, m.Start())
	over := binding("over", "x")
	over.Created, over.Expires = over.Created.Add(-time.Hour), time.Now().Add(50*time.Millisecond)
	claim(t, m, over)
	idle := binding("idle", "x")
	idle.MaxIdle = 50 * time.Millisecond
	claim(t, m, idle)
	gone := binding("gone", "x")
	gone.Expires = gone.Created.Add(20 * time.Millisecond)
	claim(t, m, gone)
	require.NoError(t, m.Cleanup())
	require.Eventually(t, func() bool { return !over.Live(time.Now()) && time.Since(idle.Created) > 60*time.Millisecond }, guard, time.Millisecond)

	again := running(t, "expiry", "1h")
	require.False(t, lookup(t, again, "over").Live(time.Now()))
	require.Equal(t, "x", lookup(t, again, "over").Target, "where it was is remembered")
	require.False(t, lookup(t, again, "idle").Live(time.Now()))
	require.Zero(t, lookup(t, again, "gone"), "long over: forgotten")
	n, err := again.Len(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	claim(t, again, binding("over", "y"))
}

func TestForgottenSessionLeavesTheFile(t *testing.T) {
	dir := dataDir(t)
	m := persistent(t, "forget", "100ms")
	require.NoError(t, m.Start())
	for i := range 100 {
		s := binding(fmt.Sprint(i), "x")
		s.Expires = s.Created.Add(20 * time.Millisecond)
		claim(t, m, s)
	}
	require.Eventually(t, func() bool { return lookup(t, m, "99").Key.IsZero() }, guard, 5*time.Millisecond)
	require.NoError(t, m.Cleanup())
	require.Zero(t, records(t, filepath.Join(dir, "forget.db")))
}

// records returns how many sessions a file has.
func records(t *testing.T, path string) int {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: guard})
	require.NoError(t, err)
	defer db.Close()
	n := 0
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket([]byte("sessions")).Stats().KeyN
		return nil
	}))
	return n
}

func TestSessionsAreFoundWhileTheyAreLoaded(t *testing.T) {
	dataDir(t)
	const sessions = 30_000
	m := persistent(t, "loading", "1h")
	require.NoError(t, m.Start())
	for i := range sessions {
		claim(t, m, binding(fmt.Sprint(i), "x"))
	}
	require.NoError(t, m.Cleanup())

	again := running(t, "loading", "100ms")
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := sessions - 1 - worker; i >= 0; i -= 8 {
				id := fmt.Sprint(i)
				if i%3 == 0 {
					holder, won, err := again.Claim(context.Background(), binding(id, "y"))
					if err != nil || won || holder.Target != "x" {
						t.Errorf("claim of %d: holder %+v, won %v, error %v", i, holder, won, err)
					}
					continue
				}
				s, err := again.Get(context.Background(), sessionstore.KeyOf("test", id))
				if err != nil || s.Target != "x" {
					t.Errorf("session %d: got %+v, error %v", i, s, err)
				}
				if i%3 == 1 {
					if err := again.End(context.Background(), s.Key, time.Time{}); err != nil {
						t.Errorf("end of %d: %v", i, err)
					}
				}
			}
		})
	}
	wg.Wait()
	live, tombstones := 0, 0
	for s, err := range again.All(t.Context()) {
		require.NoError(t, err)
		if s.Ended.IsZero() {
			live++
		} else {
			tombstones++
		}
	}
	require.Equal(t, []int{sessions * 2 / 3, sessions / 3}, []int{live, tombstones})
	n, err := again.Len(t.Context())
	require.NoError(t, err)
	require.Equal(t, live, n)
}

func TestFileWithMoreThanMaxSessionsKeepsThemAll(t *testing.T) {
	dataDir(t)
	m := persistent(t, "shrunk", "1h")
	require.NoError(t, m.Start())
	for i := range 100 {
		claim(t, m, binding(fmt.Sprint(i), "x"))
	}
	require.NoError(t, m.Cleanup())

	again := persistent(t, "shrunk", "1h")
	again.MaxSessions = 10
	require.NoError(t, again.Start())
	t.Cleanup(func() { require.NoError(t, again.Cleanup()) })
	for _, err := range again.All(t.Context()) { // waits until all are there
		require.NoError(t, err)
	}
	for i := range 100 {
		require.True(t, lookup(t, again, fmt.Sprint(i)).Live(time.Now()))
	}
	_, _, err := again.Claim(t.Context(), binding("new", "x"))
	require.ErrorIs(t, err, sessionstore.ErrFull)
}

func TestLockedFileIsLeftAloneUntilItIsFree(t *testing.T) {
	dir := dataDir(t)
	first := persistent(t, "locked", "1h")
	require.NoError(t, first.Start())
	claim(t, first, binding("both", "of the file"))
	claim(t, first, binding("file", "of the file"))
	require.NoError(t, first.Cleanup())
	path := filepath.Join(dir, "locked.db")
	other, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	before, err := os.ReadFile(path)
	require.NoError(t, err)

	m := running(t, "locked", "100ms")
	require.Zero(t, lookup(t, m, "file"), "the file is another's")
	claim(t, m, binding("both", "of the table"))
	claim(t, m, binding("table", "of the table"))
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, other.Close())

	require.Eventually(t, func() bool { return lookup(t, m, "file").Target == "of the file" }, guard, 10*time.Millisecond)
	require.Equal(t, "of the table", lookup(t, m, "both").Target)
	require.NoError(t, m.Cleanup())
	again := running(t, "locked", "1h")
	require.Equal(t, "of the file", lookup(t, again, "file").Target)
	require.Equal(t, "of the table", lookup(t, again, "both").Target)
	require.Equal(t, "of the table", lookup(t, again, "table").Target)
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, names, 1, "nothing was set aside")
}

func TestDirectoryThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	dir := dataDir(t)
	require.NoError(t, os.MkdirAll(filepath.Dir(dir), 0o700))
	require.NoError(t, os.WriteFile(dir, []byte("in the way"), 0o600))
	m := persistent(t, "readonly", "100ms")
	require.NoError(t, m.Start())
	claim(t, m, binding("a", "x"))
	require.Equal(t, "x", lookup(t, m, "a").Target, "sessions are served all the same")
	require.NoError(t, os.Remove(dir))
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(dir, "readonly.db")); return err == nil }, guard, 10*time.Millisecond)
	require.NoError(t, m.Cleanup())
	require.Equal(t, "x", lookup(t, running(t, "readonly", "1h"), "a").Target)
}

func TestReloadTurnsPersistOffAndOn(t *testing.T) {
	dir := dataDir(t)
	path := filepath.Join(dir, "switch.db")
	on := persistent(t, "switch", "1h")
	require.NoError(t, on.Start())
	claim(t, on, binding("a", "x"))

	off := persistent(t, "switch", "off")
	require.NoError(t, off.Start())
	require.NoFileExists(t, path, "it would go stale")
	require.Equal(t, "x", lookup(t, off, "a").Target)
	require.NoError(t, off.Cleanup(), "the load failed: persist is on again")
	claim(t, on, binding("b", "x"))

	off = persistent(t, "switch", "off")
	require.NoError(t, off.Start())
	require.NoError(t, on.Cleanup())
	claim(t, off, binding("c", "x"))
	again := persistent(t, "switch", "100ms")
	require.NoError(t, again.Start())
	require.NoError(t, off.Cleanup())
	claim(t, again, binding("d", "x"))
	require.NoError(t, again.Cleanup())

	last := running(t, "switch", "1h")
	for _, id := range []string{"a", "b", "c", "d"} {
		require.Equal(t, "x", lookup(t, last, id).Target, id)
	}
}

func TestStoreThatIsNotStartedTouchesNoFile(t *testing.T) {
	dir := dataDir(t)
	m := persistent(t, "validated", "1s")
	require.NoDirExists(t, dir)
	require.NoError(t, m.Cleanup())
	require.NoDirExists(t, dir)
}

const childEnv = "STICKY_TEST_CLAIMING_CHILD"

// A child of this test claims sessions until it is killed, and says which ones
// it was answered.
func TestClaimingChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("skipped: is run by TestKillLosesLessThanASecond only")
	}
	m := persistent(t, "killed", "1s")
	require.NoError(t, m.Start())
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i, begun := 0, time.Now(); ; <-tick.C {
		for ; time.Since(begun) > time.Duration(i)*time.Second/2000; i++ { // 2,000 a second
			claim(t, m, binding(fmt.Sprint(i), "x"))
			fmt.Println("claimed", i, time.Now().UnixNano())
		}
	}
}

func TestKillLosesLessThanASecond(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("skipped: needs signals")
	}
	dataDir(t)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestClaimingChild$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(guard, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var claimed []time.Time
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var i int
		var at int64
		if n, _ := fmt.Sscanf(lines.Text(), "claimed %d %d", &i, &at); n < 2 {
			continue
		}
		require.Len(t, claimed, i)
		claimed = append(claimed, time.Unix(0, at))
		if time.Since(claimed[0]) > 3500*time.Millisecond {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	last := claimed[len(claimed)-1]

	m := running(t, "killed", "1s")
	lost, earliest := 0, last
	for i, at := range claimed {
		if !lookup(t, m, fmt.Sprint(i)).Live(time.Now()) {
			lost++
			if at.Before(earliest) {
				earliest = at
			}
		}
	}
	t.Logf("of %d sessions in %s the kill lost %d, the first of them %s before the end",
		len(claimed), last.Sub(claimed[0]), lost, last.Sub(earliest))
	require.Greater(t, len(claimed), 100)
	// A second, and what the write itself takes on a busy machine.
	require.Less(t, last.Sub(earliest), 2*time.Second)
	require.Less(t, lost, len(claimed))
}
