// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/goleak"

	"github.com/caddy-sticky/caddy-sticky/internal/filewatch"
)

// Guard is how long anything may take before a test says that it hangs.
const Guard = time.Minute

// Main runs the tests of a package and ends the process. It fails if goroutines
// are left.
func Main(m *testing.M) {
	caddy.RegisterModule(logWriter{})
	// Code that reads the proxy from the environment gets one that does not exist,
	// and each test that forwards a request fails.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		_ = os.Setenv(name, "http://127.0.0.1:9")
	}
	_ = os.Unsetenv("NO_PROXY")
	_ = os.Unsetenv("no_proxy")
	// Stores keep their sessions in Caddy's data directory.
	dir, err := os.MkdirTemp("", "sticky")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("XDG_DATA_HOME", dir)
	// The tests of filewatch show what the interval means.
	filewatch.Interval = 50 * time.Millisecond
	code := m.Run()
	_ = os.RemoveAll(dir)
	if code == 0 {
		if err := leaks(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaks waits for the goroutines that are still ending: net/http holds a
// connection for half a second that it closes early.
func leaks() (err error) {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for deadline := time.Now().Add(Guard); time.Now().Before(deadline); {
		if err = goleak.Find(); err == nil {
			return nil
		}
	}
	return err
}

// Eventually waits until yes returns true.
func Eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Guard); !yes(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s", what, Guard)
		}
	}
}
