// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// Redis starts a redis-server that keeps nothing on disk, with further options
// such as "--requirepass", "x".
func Redis(t testing.TB, options ...string) *Process {
	t.Helper()
	program := Need(t, "redis-server")
	dir := t.TempDir()
	return Run(t, func(port int) *exec.Cmd { return redis(program, dir, port, options) })
}

// RedisAt is Redis on a port that was one's before: it starts again.
func RedisAt(t testing.TB, port int, options ...string) *Process {
	t.Helper()
	program := Need(t, "redis-server")
	dir := t.TempDir()
	return Run(t, func(int) *exec.Cmd { return redis(program, dir, port, options) }, port)
}

func redis(program, dir string, port int, options []string) *exec.Cmd {
	args := append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no",
	}, options...)
	return exec.Command(program, args...)
}

// Signal sends the program a signal, such as SIGSTOP.
func (p *Process) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the program without giving it time to do anything.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}
