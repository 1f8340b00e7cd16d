// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

func TestValidateAndAdaptTouchNoFile(t *testing.T) {
	home := t.TempDir()
	config := filepath.Join(t.TempDir(), "Caddyfile")
	require.NoError(t, os.WriteFile(config, []byte("{\n\tsticky {\n\t\tstore memory {\n\t\t\tpersist 1s\n\t\t}\n\t}\n}\n:8080 {\n\treverse_proxy a:80 b:80 {\n\t\tlb_policy sticky\n\t}\n}\n"), 0o600))
	command := func(args ...string) {
		t.Helper()
		cmd := exec.Command(program.Caddy(t), append(args, "--config", config, "--adapter", "caddyfile")...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	}
	both := func() {
		t.Helper()
		command("validate")
		command("adapt")
	}
	both()
	require.NoError(t, filepath.WalkDir(home, func(path string, _ fs.DirEntry, err error) error {
		require.NotEqual(t, "sticky", filepath.Base(path))
		return err
	}))

	// A file that is there, and is in use, is neither changed nor waited for.
	path := filepath.Join(home, "caddy", "sticky", "default.db")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	both()
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, db.Close())
	files, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, files, 1)
}
