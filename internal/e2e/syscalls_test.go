// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

// traced starts a Caddy of which moved tells the system calls that move bytes.
func traced(t *testing.T) (s *program.Server, moved func() map[string]int) {
	t.Helper()
	strace := peer.Need(t, "strace")
	if out, err := exec.Command(strace, "true").CombinedOutput(); err != nil {
		t.Skipf("skipped: nothing may be traced here: %s", out)
	}
	file := filepath.Join(t.TempDir(), "calls")
	// -D leaves the process to us: strace is a child of it.
	s = program.StartIn(t, t.TempDir(), strace, "-D", "-f", "-qq", "-s0", "-o", file, "-e", "trace=sendfile,splice,write,writev,sendto,sendmsg")
	return s, func() map[string]int {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		return bytesMoved(string(text))
	}
}

// A call may be in two lines, if another thread's was in between.
var (
	callLine    = regexp.MustCompile(`^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>)`)
	resultOfOne = regexp.MustCompile(` = (\d+)$`)
)

func bytesMoved(lines string) map[string]int {
	moved := make(map[string]int)
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(line, "\n")
		call, result := callLine.FindStringSubmatch(line), resultOfOne.FindStringSubmatch(line)
		if call != nil && result != nil {
			n, _ := strconv.Atoi(result[1])
			moved[call[1]] += n
		}
	}
	return moved
}

// The system calls of a large answer through the listener wrapper: what the
// kernel can carry does not pass through the process.
func TestFilesAreSentBySendfileThroughTheIdleTimeout(t *testing.T) {
	const size = 16 << 20
	s, moved := traced(t)
	root, port := t.TempDir(), program.FreePorts(t, 1)[0]
	content := make([]byte, size)
	_, _ = rand.Read(content)
	require.NoError(t, os.WriteFile(filepath.Join(root, "large.bin"), content, 0o600))
	// Caddy's own write_idle, which is a minute by default, wraps the file in
	// such a way that Go does not know it any more (Caddy 2.11).
	require.NoError(t, s.Load(program.AsCaddyfile, fmt.Sprintf(`{
	admin %s
	servers {
		listener_wrappers {
			idle_timeout 1m
		}
		timeouts {
			write_idle -1s
		}
	}
}
http://localhost:%d {
	root %s
	file_server
}
`, s.Admin, port, root)))
	before := moved()
	client := &http.Client{Timeout: guard}
	got, err := get(client, fmt.Sprintf("http://localhost:%d/large.bin", port))
	require.NoError(t, err)
	require.True(t, string(content) == got, "other bytes came than the file has")
	requireMoved(t, moved, before, "sendfile", size)
}

func TestTunnelsSplice(t *testing.T) {
	const size = 16 << 20
	s, moved := traced(t)
	site := newTunnelSite(t, s, "servers {\n listener_wrappers {\n idle_timeout 1m\n}\n}", "")
	tunnel := site.open(t, "plain", "alice")
	text := make([]byte, size)
	_, _ = rand.Read(text)
	for _, way := range []struct{ from, to io.ReadWriter }{{tunnel.client, tunnel.target}, {tunnel.target, tunnel.client}} {
		before := moved()
		go func() { _, _ = way.from.Write(text) }()
		got := make([]byte, size)
		_, err := io.ReadFull(way.to, got)
		require.NoError(t, err)
		require.True(t, string(text) == string(got), "other bytes came than were sent")
		requireMoved(t, moved, before, "splice", 2*size) // into a pipe and out of it
	}
}

// requireMoved requires that as many bytes were moved by one system call, but
// for what begins a burst, and few by those that take them from the process.
func requireMoved(t *testing.T, moved func() map[string]int, before map[string]int, call string, want int) {
	t.Helper()
	least := want - want/20
	var after map[string]int
	require.Eventually(t, func() bool { // strace writes a little later
		after = moved()
		return after[call]-before[call] >= least
	}, 10*time.Second, 20*time.Millisecond, "%s moved too few bytes", call)
	others := 0
	for name := range after {
		if name != "sendfile" && name != "splice" {
			others += after[name] - before[name]
		}
	}
	t.Logf("%s: %d bytes, others: %d", call, after[call]-before[call], others)
	require.Less(t, others, want/20, "%v", after)
}
