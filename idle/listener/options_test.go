// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

// serve runs net/http behind a wrapper, as Caddy wires it, on connections that
// the returned function dials. Time is a bubble's, for they are in memory.
func serve(t *testing.T, w *Wrapper, handler http.HandlerFunc) (dial func() net.Conn) {
	t.Helper()
	w.logger = zap.NewNop()
	ln := &memory{conns: make(chan net.Conn)}
	last := lastAnswer{w}
	server := &http.Server{
		ConnState: w.connState, ConnContext: w.connContext,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_ = last.ServeHTTP(rw, r, caddyhttp.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) error {
				handler(rw, r)
				return nil
			}))
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(w.WrapListener(ln))
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return func() net.Conn {
		peer, side := net.Pipe()
		ln.conns <- side
		return peer
	}
}

// memory is a listener on connections in memory.
type memory struct{ conns chan net.Conn }

func (m *memory) Accept() (net.Conn, error) {
	conn, ok := <-m.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (m *memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func (m *memory) Close() error {
	defer func() { _ = recover() }() // closed twice
	close(m.conns)
	return nil
}

// ask sends a request and returns the answer.
func ask(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	return res
}

// endOf returns how long a connection stays open.
func endOf(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	return time.Since(begin)
}

func slow(after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(after)
		_, _ = io.WriteString(w, "at last")
	}
}

func TestSilenceDuringARequestIsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serve(t, &Wrapper{Timeout: caddy.Duration(time.Minute)}, slow(5*time.Minute))
		conn := dial()
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		require.Equal(t, time.Minute, endOf(t, conn))
		time.Sleep(5 * time.Minute)
	})
}

func TestExemptRequestIsLeftAloneUntilItsAnswerIsThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serve(t, &Wrapper{Timeout: caddy.Duration(time.Minute), Requests: "exempt"}, slow(5*time.Minute+10*time.Second))
		conn := dial()
		require.Equal(t, http.StatusOK, ask(t, conn).StatusCode)
		require.Equal(t, time.Minute, endOf(t, conn), "then silence is silence")
	})
}

func TestLastAnswerSaysThatItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := conntest.Closed(t, idle.ClosedCollector{}, idle.Connections, string(idle.Requests))
		dial := serve(t, &Wrapper{Timeout: caddy.Duration(time.Hour), MaxRequests: 3}, slow(0))
		conn := dial()
		for i := range 3 {
			require.Equal(t, i == 2, ask(t, conn).Close)
		}
		require.Zero(t, endOf(t, conn))
		require.Equal(t, before+1, conntest.Closed(t, idle.ClosedCollector{}, idle.Connections, string(idle.Requests)))
	})
}

func TestConnectionEndsWithItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := conntest.Closed(t, idle.ClosedCollector{}, idle.Connections, string(idle.Lifetime))
		dial := serve(t, &Wrapper{Timeout: caddy.Duration(time.Hour), MaxLifetime: caddy.Duration(10 * time.Minute)}, slow(0))
		conn := dial()
		for range 3 {
			time.Sleep(3 * time.Minute)
			require.False(t, ask(t, conn).Close)
		}
		require.Equal(t, time.Minute, endOf(t, conn))
		require.Equal(t, before+1, conntest.Closed(t, idle.ClosedCollector{}, idle.Connections, string(idle.Lifetime)))
	})
}

func TestLifetimeWaitsForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serve(t, &Wrapper{Timeout: caddy.Duration(time.Hour), MaxLifetime: caddy.Duration(10 * time.Minute)}, slow(9*time.Minute))
		conn := dial()
		require.False(t, ask(t, conn).Close) // until 9:00
		require.False(t, ask(t, conn).Close) // begun in time, until 18:00
		require.Equal(t, lastFlush, endOf(t, conn))

		conn = dial()
		require.False(t, ask(t, conn).Close)
		require.False(t, ask(t, conn).Close)
		require.True(t, ask(t, conn).Close, "a request that comes in the last moment is told")
	})
}

func TestLifetimeEndsWhatWasTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serve(t, &Wrapper{Timeout: caddy.Duration(time.Hour), MaxLifetime: caddy.Duration(10 * time.Minute)},
			func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
			})
		conn := dial()
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		require.NoError(t, err)
		require.Equal(t, 10*time.Minute, endOf(t, conn))
	})
}

func TestUpgradeKeepsItsConnectionHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serve(t, &Wrapper{Timeout: caddy.Duration(time.Hour), MaxRequests: 1}, slow(0))
		conn := dial()
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.False(t, res.Close)
		_ = conn.Close()
	})
}

// One timer is for all: it neither forgets one nor fires for one that is gone.
// A test that the path of net.TCPConn is taken: splice needs a pipe.
func TestCopyBetweenAcceptedConnectionsSplices(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("skipped: needs Linux")
	}
	from, fromSide := conntest.Accept(t, listen(t, "tcp", time.Minute))
	to, toSide := conntest.Accept(t, listen(t, "tcp", time.Minute))
	before := openPipes(t) // standard output may be one
	copied := make(chan int64)
	go func() {
		n, _ := io.Copy(toSide, fromSide)
		copied <- n
	}()
	_, err := io.WriteString(from, "ping")
	require.NoError(t, err)
	_, err = io.ReadFull(to, make([]byte, 4))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return openPipes(t) > before }, time.Minute, time.Millisecond, "io.Copy does not splice")
	_ = from.Close()
	require.EqualValues(t, 4, <-copied)
}

func openPipes(t *testing.T) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, entry := range entries {
		name, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		if strings.HasPrefix(name, "pipe:") {
			n++
		}
	}
	return n
}
