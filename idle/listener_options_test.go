// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// serve runs net/http behind a wrapper, as Caddy wires it, on connections that
// the returned function dials. Time is a bubble's, for they are in memory.
func serve(t *testing.T, w *ListenerWrapper, handler http.HandlerFunc) (dial func() net.Conn) {
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
		dial := serve(t, &ListenerWrapper{Timeout: caddy.Duration(time.Minute)}, slow(5*time.Minute))
		conn := dial()
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		require.Equal(t, time.Minute, endOf(t, conn))
		time.Sleep(5 * time.Minute)
	})
}

func TestExemptRequestIsLeftAloneUntilItsAnswerIsThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serve(t, &ListenerWrapper{Timeout: caddy.Duration(time.Minute), Requests: "exempt"}, slow(5*time.Minute+10*time.Second))
		conn := dial()
		require.Equal(t, http.StatusOK, ask(t, conn).StatusCode)
		require.Equal(t, time.Minute, endOf(t, conn), "then silence is silence")
	})
}

func TestLastAnswerSaysThatItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := ClosedTotal(Connections, string(Requests))
		dial := serve(t, &ListenerWrapper{Timeout: caddy.Duration(time.Hour), MaxRequests: 3}, slow(0))
		conn := dial()
		for i := range 3 {
			require.Equal(t, i == 2, ask(t, conn).Close)
		}
		require.Zero(t, endOf(t, conn))
		require.Equal(t, before+1, ClosedTotal(Connections, string(Requests)))
	})
}

func TestConnectionEndsWithItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := ClosedTotal(Connections, string(Lifetime))
		dial := serve(t, &ListenerWrapper{Timeout: caddy.Duration(time.Hour), MaxLifetime: caddy.Duration(10 * time.Minute)}, slow(0))
		conn := dial()
		for range 3 {
			time.Sleep(3 * time.Minute)
			require.False(t, ask(t, conn).Close)
		}
		require.Equal(t, time.Minute, endOf(t, conn))
		require.Equal(t, before+1, ClosedTotal(Connections, string(Lifetime)))
	})
}

func TestLifetimeWaitsForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serve(t, &ListenerWrapper{Timeout: caddy.Duration(time.Hour), MaxLifetime: caddy.Duration(10 * time.Minute)}, slow(9*time.Minute))
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
		dial := serve(t, &ListenerWrapper{Timeout: caddy.Duration(time.Hour), MaxLifetime: caddy.Duration(10 * time.Minute)},
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
		dial := serve(t, &ListenerWrapper{Timeout: caddy.Duration(time.Hour), MaxRequests: 1}, slow(0))
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
func TestDeadlinesComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadlines
		begin := time.Now()
		var mu sync.Mutex
		var fired []time.Duration
		entries := make([]*deadline, 100)
		for i := range entries {
			e := &deadline{}
			e.owner = ownerFunc(func() {
				mu.Lock()
				defer mu.Unlock()
				fired = append(fired, time.Since(begin))
			})
			entries[i] = e
			d.set(e, begin.Add(time.Duration(1+(i*37)%100)*time.Second))
		}
		for i, e := range entries {
			switch i % 3 {
			case 0:
				d.stop(e)
				d.stop(e)
			case 1:
				d.set(e, begin.Add(time.Duration(200+i)*time.Second))
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, fired, 66)
		require.IsNonDecreasing(t, fired)
		require.Equal(t, 297*time.Second, fired[65])
		require.Empty(t, d.heap)
	})
}

type ownerFunc func()

func (f ownerFunc) due() { f() }

func TestClosesAreCountedForEachRegistry(t *testing.T) {
	Closed(Connections, string(Idle))
	for range 2 { // a configuration each
		registry := prometheus.NewPedanticRegistry()
		require.NoError(t, registry.Register(ClosedCollector{}))
		families, err := registry.Gather()
		require.NoError(t, err)
		require.Len(t, families, 1)
		require.Equal(t, "caddy_sticky_closed_total", families[0].GetName())
		found := false
		for _, metric := range families[0].GetMetric() {
			labels := make([]string, 0, 2)
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			if strings.Join(labels, " ") == "reason=idle what=connection" {
				found = metric.GetCounter().GetValue() >= 1
			}
		}
		require.True(t, found)
	}
}

// A test that the path of net.TCPConn is taken: splice needs a pipe.
func TestCopyBetweenAcceptedConnectionsSplices(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("skipped: needs Linux")
	}
	from, fromSide := accept(t, listen(t, "tcp", time.Minute))
	to, toSide := accept(t, listen(t, "tcp", time.Minute))
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

func TestProcessWaitsForItsTunnels(t *testing.T) {
	w := start(t.Context(), t, time.Hour, sockets)
	w.send(w.client, w.target, "hello")
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan struct{})
	go func() {
		Drain(ctx)
		close(drained)
	}()
	w.send(w.target, w.client, "still here")
	select {
	case <-drained:
		t.Fatal("the process did not wait")
	default:
	}
	cancel()
	<-drained
	require.Equal(t, Drained, (<-w.done).Reason)
	_, err := w.client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	Drain(t.Context()) // nothing is left to wait for
}
