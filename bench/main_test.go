// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"os"
	"strings"
	"testing"

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
	os.Exit(code)
}
