// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sticky_test

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

// caddy returns the program that this repository is, built once.
func caddy(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		dir, err := os.MkdirTemp("", "sticky") //nolint:usetesting // for all tests, see remove
		if err != nil {
			built.err = err
			return
		}
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

// remove removes the program if it was built. TestMain calls it after the tests.
func remove() {
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
}

// freePorts returns ports that no other test has and no program uses.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		ports[i] = peer.Port(t)
	}
	return ports
}

// server is a Caddy in a process of its own.
type server struct {
	t     testing.TB
	admin string
	home  string // where its data is
	log   *lockedBuffer
	cmd   *exec.Cmd
	ended sync.Once
}

// start runs Caddy without a configuration but for its admin API.
func start(t testing.TB) *server {
	t.Helper()
	return startIn(t, t.TempDir())
}

// startIn is start with data that may be there since an earlier one, and with a
// command that the program's is an argument of. It must be the same process.
func startIn(t testing.TB, home string, before ...string) *server {
	t.Helper()
	return startWith(t, home, nil, before...)
}

// startWith is startIn with more variables in the environment.
func startWith(t testing.TB, home string, environment []string, before ...string) *server {
	t.Helper()
	s := &server{t: t, admin: fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0]), home: home, log: new(lockedBuffer)}
	command := append(before, caddy(t), "run")
	s.cmd = exec.Command(command[0], command[1:]...)
	s.cmd.Env = append(os.Environ(), "CADDY_ADMIN="+s.admin, "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home,
		"GORACE=exitcode=0") // the log is looked at, see hasRace
	s.cmd.Env = append(s.cmd.Env, environment...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() {
		s.stop()
		if hasRace(s.log.String()) || strings.Contains(s.log.String(), "panic") {
			t.Error("caddy has a race or a panic")
		}
		if t.Failed() {
			t.Logf("caddy's log:\n%s", s.log.String())
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

// lines returns the lines of Caddy's log that have these fields.
func (s *server) lines(want testlog.Fields) []testlog.Fields {
	return testlog.Lines(s.log.String(), want)
}

// stop ends Caddy as an operator would.
func (s *server) stop() { s.stopBy(os.Interrupt) }

// stopBy is stop with this signal.
func (s *server) stopBy(signal os.Signal) {
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

// kill ends Caddy without giving it time to do anything.
func (s *server) kill() {
	s.ended.Do(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
}

// exitCode returns the exit code of a Caddy that was stopped.
func (s *server) exitCode() int { return s.cmd.ProcessState.ExitCode() }

func (s *server) await(path string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		res, err := http.Get("http://" + s.admin + path)
		if err == nil {
			_ = res.Body.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("caddy does not answer: %v\n%s", err, s.log.String())
		}
	}
}

// load gives Caddy a configuration and returns its refusal, if it refuses.
func (s *server) load(contentType, config string) error {
	s.t.Helper()
	res, err := http.Post("http://"+s.admin+"/load", contentType, strings.NewReader(config))
	for range 100 { // the admin API's listener is handed over as well
		if err == nil || !isReset(err) {
			break
		}
		res, err = http.Post("http://"+s.admin+"/load", contentType, strings.NewReader(config))
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
	asCaddyfile = "text/caddyfile"
	asJSON      = "application/json"
)

// isReset reports whether a connection was closed before its request was answered.
func isReset(err error) bool {
	for _, reset := range []error{syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, reset) {
			return true
		}
	}
	return false
}

// lockedBuffer takes a process's output.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
