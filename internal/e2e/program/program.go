// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package program starts the program that this repository is, for tests of it.
// The program is built once for all tests of a package. Each Caddy is a process
// of its own, which ends with its test.
//
// Only tests import it.
package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// timeout is how long Caddy may take to start or to stop.
const timeout = 2 * time.Minute

var built struct {
	once sync.Once
	path string
	err  error
}

// Caddy returns the program that this repository is, built once.
func Caddy(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		dir, err := os.MkdirTemp("", "sticky") //nolint:usetesting // for all tests, see Remove
		if err != nil {
			built.err = err
			return
		}
		_ = os.Chmod(dir, 0o755) // a benchmark runs the program as another user
		built.path = filepath.Join(dir, "caddy")
		args := append([]string{"build", "-ldflags=-s -w"}, buildFlags...) // links in half the time
		out, err := exec.Command("go", append(args, "-o", built.path, "github.com/caddy-sticky/caddy-sticky/cmd/caddy")...).CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("building caddy: %w\n%s", err, out)
		}
	})
	require.NoError(t, built.err)
	return built.path
}

// Remove removes the program if it was built. TestMain calls it after the tests.
func Remove() {
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
}

// FreePorts returns ports that no other test has and no program uses.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		ports[i] = peer.Port(t)
	}
	return ports
}

// Server is a Caddy in a process of its own.
type Server struct {
	Admin string // the address of its admin API
	Home  string // where its data is
	Log   *LockedBuffer
	t     testing.TB
	cmd   *exec.Cmd
	ended sync.Once
}

// Start runs Caddy without a configuration but for its admin API.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartIn(t, t.TempDir())
}

// StartIn is Start with data that may be there since an earlier one, and with a
// command that the program's is an argument of. It must be the same process.
func StartIn(t testing.TB, home string, before ...string) *Server {
	t.Helper()
	return StartWith(t, home, nil, before...)
}

// StartWith is StartIn with more variables in the environment.
func StartWith(t testing.TB, home string, environment []string, before ...string) *Server {
	t.Helper()
	s := &Server{t: t, Admin: fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 1)[0]), Home: home, Log: new(LockedBuffer)}
	command := append(before, Caddy(t), "run")
	s.cmd = exec.Command(command[0], command[1:]...)
	s.cmd.Env = append(os.Environ(), "CADDY_ADMIN="+s.Admin, "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home,
		"GORACE=exitcode=0") // the log is looked at, see hasRace
	s.cmd.Env = append(s.cmd.Env, environment...)
	s.cmd.Stdout, s.cmd.Stderr = s.Log, s.Log
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() {
		s.Stop()
		if hasRace(s.Log.String()) || strings.Contains(s.Log.String(), "panic") {
			t.Error("caddy has a race or a panic")
		}
		if t.Failed() {
			t.Logf("caddy's log:\n%s", s.Log.String())
		}
	})
	s.await("/config/")
	return s
}

// hasRace reports whether a log has the report of a data race. Caddy's reverse
// proxy has one of its own where stream_close_delay is set: at a reload it notes
// that it will close connections while requests look at that note (streaming.go,
// cleanupConnections).
func hasRace(log string) bool {
	for report := range strings.SplitSeq(log, "==================") {
		if strings.Contains(report, "DATA RACE") && !strings.Contains(report, "reverseproxy.(*Handler).cleanupConnections()") {
			return true
		}
	}
	return false
}

// Lines returns the lines of Caddy's log that have these fields.
func (s *Server) Lines(want testlog.Fields) []testlog.Fields {
	return testlog.Lines(s.Log.String(), want)
}

// Stop ends Caddy as an operator would.
func (s *Server) Stop() { s.StopBy(os.Interrupt) }

// StopBy is Stop with this signal.
func (s *Server) StopBy(signal os.Signal) {
	s.ended.Do(func() {
		_ = s.cmd.Process.Signal(signal)
		done := make(chan error, 1)
		go func() { done <- s.cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				s.t.Errorf("caddy ended with %v", err)
			}
		case <-time.After(timeout):
			_ = s.cmd.Process.Kill()
			s.t.Error("caddy did not stop")
		}
	})
}

// Kill ends Caddy without giving it time to do anything.
func (s *Server) Kill() {
	s.ended.Do(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
}

// ExitCode returns the exit code of a Caddy that was stopped.
func (s *Server) ExitCode() int { return s.cmd.ProcessState.ExitCode() }

func (s *Server) await(path string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		res, err := http.Get("http://" + s.Admin + path)
		if err == nil {
			_ = res.Body.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("caddy does not answer: %v\n%s", err, s.Log.String())
		}
	}
}

// Load gives Caddy a configuration and returns its refusal, if it refuses.
func (s *Server) Load(contentType, config string) error {
	s.t.Helper()
	res, err := http.Post("http://"+s.Admin+"/load", contentType, strings.NewReader(config))
	for range 100 { // the admin API's listener is handed over as well
		if err == nil || !IsReset(err) {
			break
		}
		res, err = http.Post("http://"+s.Admin+"/load", contentType, strings.NewReader(config))
	}
	require.NoError(s.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(s.t, err)
	if res.StatusCode == http.StatusOK {
		return nil
	}
	var refusal struct{ Error string }
	require.NoError(s.t, json.Unmarshal(body, &refusal))
	return errors.New(refusal.Error)
}

// Content types of configurations.
const (
	AsCaddyfile = "text/caddyfile"
	AsJSON      = "application/json"
)

// IsReset reports whether a connection was closed before its request was answered.
func IsReset(err error) bool {
	for _, reset := range []error{syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, reset) {
			return true
		}
	}
	return false
}

// LockedBuffer takes a process's output.
type LockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *LockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *LockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
