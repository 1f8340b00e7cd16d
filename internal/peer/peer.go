// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package peer starts real programs for tests to talk to.
//
// A test that needs a program which is not installed is skipped, unless the
// environment says STICKY_NEED_PEERS=1: then it fails, so that a CI run cannot
// pass by not testing. Proxies listen on a free port of 127.0.0.1, allow
// connections to the loopback, and end with the test.
//
// Only tests import it.
package peer

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// guard is how long a program may take to accept its first connection.
	guard = time.Minute
	// attempts is how often a program is started. Another program, which does
	// not reserve its ports, may take the port before ours listens on it.
	attempts = 3
	// stopTimeout is how long a program has to end by itself.
	stopTimeout = 10 * time.Second
)

// Need returns the path of a program. Without it the test is skipped, or fails
// if STICKY_NEED_PEERS=1.
func Need(t testing.TB, program string) string {
	t.Helper()
	path := find(program)
	if path == "" {
		missing(t, program)
	}
	return path
}

// missing skips a test, or lets it fail where peers are needed.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("STICKY_NEED_PEERS") == "1" {
		t.Fatalf("needs %s, which is not installed", what)
		return // only in a test of this
	}
	t.Skip("skipped: needs " + what)
}

// find looks into PATH, and where daemons are, which a user's PATH may lack.
func find(program string) string {
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	return ""
}

// Process is a program that runs until its test ends.
type Process struct {
	// Address is where it listens, host:port.
	Address string

	cmd    *exec.Cmd
	output *output
	exited chan struct{}
	once   sync.Once
}

// Run starts a program that is to listen on a free port of 127.0.0.1, and waits
// until it accepts. Command returns the command for a port; it is called again
// if the program ended before it accepted. A port may be given that is to be
// taken instead.
func Run(t testing.TB, command func(port int) *exec.Cmd, ports ...int) *Process {
	t.Helper()
	var last *Process
	for range attempts {
		if len(ports) == 0 {
			ports = []int{Port(t)}
		}
		port := ports[0]
		ports = ports[1:]
		p := &Process{
			Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
			cmd:     command(port), output: new(output), exited: make(chan struct{}),
		}
		p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
		if err := p.cmd.Start(); err != nil {
			t.Fatalf("%s does not start: %v", p.cmd.Path, err)
		}
		go p.wait()
		t.Cleanup(func() {
			p.Stop()
			if t.Failed() {
				t.Logf("%s said:\n%s", p.cmd.Path, p.output)
			}
		})
		if p.accepts() {
			return p
		}
		p.Stop()
		last = p
	}
	t.Fatalf("%s does not accept connections:\n%s", last.cmd.Path, last.output)
	return nil
}

// wait ends with the program.
func (p *Process) wait() {
	_ = p.cmd.Wait()
	close(p.exited)
}

// accepts waits until the program takes connections; false if it ended before.
func (p *Process) accepts() bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(guard)
	defer deadline.Stop()
	for {
		if conn, err := net.DialTimeout("tcp", p.Address, time.Second); err == nil {
			_ = conn.Close()
			return true
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return false
		case <-deadline.C:
			return false
		}
	}
}

// Stop ends the program before its test does. It may be called again.
func (p *Process) Stop() {
	p.once.Do(func() {
		// Asked first: a program that is killed leaves its children behind.
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() })
		<-p.exited
		timer.Stop()
	})
}

// output collects what a program says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// configFile writes a program's configuration into the test's directory.
func configFile(t testing.TB, dir, name, format string, args ...any) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
