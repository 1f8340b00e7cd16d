// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package forward_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ending is a way in which a tunnel ends.
type ending struct {
	name        string
	destination func(*net.TCPConn)       // what the destination does
	client      func(*net.TCPConn) error // what the client does in the open tunnel
}

// G7: however tunnels end, nothing is left of them.
func TestTunnelsLeaveNothingBehind(t *testing.T) {
	hear := func(conn *net.TCPConn) { _, _ = io.ReadFull(conn, make([]byte, 4)) }
	say := func(conn *net.TCPConn) error {
		_, err := io.WriteString(conn, "ping")
		return err
	}
	saySome := func(conn *net.TCPConn) error {
		_ = say(conn)
		_, _ = io.Copy(io.Discard, conn)
		return nil
	}
	exchange := func(conn *net.TCPConn) error {
		if err := say(conn); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, 4))
		return err
	}
	lecture := func(conn *net.TCPConn) {
		_, _ = conn.Write(make([]byte, 1<<20))
		hang(conn)
	}
	for _, kind := range []string{"direct", "http", "mortal"} {
		t.Run(kind, func(t *testing.T) {
			endings := []ending{
				{name: "the target closes", destination: hear, client: saySome},
				{name: "the target resets", destination: func(conn *net.TCPConn) { hear(conn); _ = conn.SetLinger(0) }, client: saySome},
				{name: "silence", destination: hang, client: func(conn *net.TCPConn) error {
					_, err := io.Copy(io.Discard, conn)
					return err
				}},
				{name: "the client closes", destination: echo, client: exchange},
				{name: "the client resets", destination: echo, client: func(conn *net.TCPConn) error {
					_ = conn.SetLinger(0)
					return exchange(conn)
				}},
				{name: "the client has heard enough", destination: lecture, client: func(conn *net.TCPConn) error {
					_, err := io.CopyN(io.Discard, conn, 100_000)
					return err
				}},
				{name: "both halves close", destination: echo, client: func(conn *net.TCPConn) error {
					if err := say(conn); err != nil {
						return err
					}
					_ = conn.CloseWrite()
					text, err := io.ReadAll(conn)
					if err == nil && string(text) != "ping" {
						err = fmt.Errorf("read %q", text)
					}
					return err
				}},
				{name: "the client never closes", destination: func(conn *net.TCPConn) { _ = conn.CloseWrite(); hang(conn) },
					client: func(conn *net.TCPConn) error {
						_, err := io.Copy(io.Discard, conn)
						return err
					}},
				{name: "nobody is there"},
			}
			perEnding := 28 // 504 in all
			switch kind {
			case "http":
				perEnding = 14
			case "mortal":
				// An exit that ends its tunnels with their first bytes.
				endings = []ending{{name: "the exit dies", destination: echo, client: saySome}}
				perEnding = 126
			}
			exit := ""
			switch kind {
			case "direct":
				exit = oneExit
			case "http":
				exit = "exit http://" + newPuppet(t, httpProxy(away{}, nil)).address
			case "mortal":
				exit = "exit http://" + newPuppet(t, func(conn *net.TCPConn) {
					if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
						_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
						hear(conn)
					}
				}).address
			}
			w := newWorld(t, alice, loopback, exit, "idle_timeout 700ms")
			destinations := make([]string, len(endings))
			for i, e := range endings {
				if e.destination == nil {
					destinations[i] = deadPort(t)
					continue
				}
				destinations[i] = serverOf(t, e.destination)
			}
			// What is made once, such as the poller's files, is no leak.
			require.NoError(t, w.end(destinations[0], endings[0]))
			files, goroutines := settled(t)
			var wg sync.WaitGroup
			for i, e := range endings {
				for range perEnding {
					wg.Go(func() {
						if err := w.end(destinations[i], e); err != nil {
							t.Errorf("%s: %v", e.name, err)
						}
					})
				}
			}
			wg.Wait()
			eventually(t, "files as before", func() bool { return openFiles(t) <= files })
			eventually(t, "goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines })
		})
	}
}

// end opens a tunnel and lets it end.
func (w *world) end(destination string, e ending) error {
	c, err := net.Dial("tcp", w.proxy)
	if err != nil {
		return err
	}
	defer c.Close()
	conn := c.(*net.TCPConn)
	if err := conn.SetDeadline(time.Now().Add(guard)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, connect("alice", destination)); err != nil {
		return err
	}
	// One byte at a time: what is behind the head is the tunnel's.
	res, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{conn}, 16), &http.Request{Method: http.MethodConnect})
	switch {
	case err != nil:
		return err
	case e.client == nil && res.StatusCode == http.StatusBadGateway:
		return nil
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("CONNECT: %s", res.Status)
	}
	return e.client(conn)
}

type oneByOne struct{ io.Reader }

func (r oneByOne) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }

// settled returns how many files and goroutines there are when nothing ends
// any more.
func settled(t *testing.T) (files, goroutines int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	calm := 0
	for deadline := time.Now().Add(guard); calm < 10; <-tick.C {
		require.True(t, time.Now().Before(deadline), "files and goroutines come and go")
		f, g := openFiles(t), runtime.NumGoroutine()
		if f == files && g == goroutines {
			calm++
		} else {
			calm = 0
		}
		files, goroutines = f, g
	}
	return files, goroutines
}

func openFiles(t *testing.T) int {
	t.Helper()
	// The pipes that io.Copy of this test's servers keeps for the next splice are
	// in a sync.Pool, which gives them up to the collector.
	runtime.GC()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
