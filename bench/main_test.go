// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

// roleEnv makes the test binary one of roles, at an address: "<role> <address>".
const roleEnv = "STICKY_BENCH_ROLE"

var roles = make(map[string]func(address string))

func TestMain(m *testing.M) {
	if role, address, _ := strings.Cut(os.Getenv(roleEnv), " "); role != "" {
		roles[role](address)
		return
	}
	code := m.Run()
	program.Remove()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// caddy returns the program that this repository is.
func caddy(b *testing.B) string {
	b.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sticky-bench"); built.err != nil { //nolint:usetesting // for all benchmarks
			return
		}
		_ = os.Chmod(built.dir, 0o755)
		out, err := exec.Command("go", "build", "-o", filepath.Join(built.dir, "caddy"), "../cmd/caddy").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("building caddy: %w\n%s", err, out)
		}
	})
	require.NoError(b, built.err)
	return filepath.Join(built.dir, "caddy")
}
