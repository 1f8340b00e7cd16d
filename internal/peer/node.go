// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"os"
	"path/filepath"
	"testing"
)

// Node returns the path of Node, for scripts that run in the given directory and
// import the packages that its package.json names. A test is skipped, or fails,
// without them as without the program.
func Node(t testing.TB, dir string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		missing(t, "the packages of "+dir+" (npm ci)")
		return ""
	}
	return Need(t, "node")
}
