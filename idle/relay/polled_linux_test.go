// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/idle/listener"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

// pipesOf returns how many pipes there are, and how many wait for a receiver.
func pipesOf() (open, held int) {
	shared.mu.Lock()
	p := shared.poller
	shared.mu.Unlock()
	if p == nil {
		return 0, 0
	}
	p.pipes.mu.Lock()
	defer p.pipes.mu.Unlock()
	return p.pipes.open, len(p.pipes.held)
}

func heldPipes() int {
	_, held := pipesOf()
	return held
}

func noPipe() bool {
	open, _ := pipesOf()
	return open == 0
}

func TestStalledReceiversGivePipesBackAndLoseNothing(t *testing.T) {
	const size, stalled = 12 << 20, maxPipes + 4
	sent := make([]byte, size)
	_, _ = rand.Read(sent)
	tunnels := make([]*tunnel, stalled)
	for i := range tunnels {
		w := start(t.Context(), t, time.Minute, conntest.Sockets)
		tunnels[i] = w
		go func() {
			_, _ = w.target.Write(sent)
			_ = w.target.(*net.TCPConn).CloseWrite()
		}()
	}
	require.Eventually(t, func() bool { return heldPipes() > 0 }, time.Minute, time.Millisecond, "nobody stalls")
	require.Eventually(t, func() bool { return heldPipes() == 0 }, time.Minute, time.Millisecond, "pipes stay with those who stall")
	other := start(t.Context(), t, time.Minute, conntest.Sockets)
	other.send(other.target, other.client, "I am not stalled")
	for _, w := range tunnels {
		got, err := io.ReadAll(w.client)
		require.NoError(t, err)
		require.True(t, bytes.Equal(sent, got), "other bytes arrived than were sent")
		_ = w.client.Close()
		require.Equal(t, idle.Finished, (<-w.done).Reason)
	}
}

func TestIdleTunnelHoldsNothing(t *testing.T) {
	const many = 50
	warm := start(t.Context(), t, time.Minute, conntest.Sockets)
	warm.send(warm.client, warm.target, "so that the poller is there")
	goroutines := runtime.NumGoroutine()
	tunnels := make([]*tunnel, many)
	for i := range tunnels {
		client, clientSide := conntest.Sockets(t)
		target, targetSide := conntest.Sockets(t)
		tunnels[i] = &tunnel{t: t, client: client, target: target, done: make(chan Result, 1)}
		Start(t.Context(), Tunnel{Client: clientSide, Target: targetSide, IdleTimeout: time.Minute}, func(r Result) { tunnels[i].done <- r })
	}
	sent := make([]byte, 1<<20)
	for _, w := range tunnels {
		go func() { _, _ = w.client.Write(sent) }()
		_, err := io.ReadFull(w.target, make([]byte, len(sent)))
		require.NoError(t, err)
	}
	// Not require.Eventually, which asks in a goroutine of its own.
	eventually(t, "goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "no pipe is kept", noPipe)
	for _, w := range tunnels {
		_ = w.client.Close()
		_ = w.target.Close()
		require.EqualValues(t, len(sent), (<-w.done).Sent)
	}
}

// eventually asks again and again until the answer is yes, for a minute at most.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !yes(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after a minute", what)
		}
	}
}

func TestVanishedPeerIsNoticedWhileTheOtherSideStalls(t *testing.T) {
	w := start(t.Context(), t, time.Hour, conntest.Sockets)
	go func() { _, _ = w.client.Write(make([]byte, 64<<20)) }()
	require.Eventually(t, func() bool { return heldPipes() > 0 }, time.Minute, time.Millisecond)
	require.NoError(t, w.client.(*net.TCPConn).SetLinger(0))
	require.NoError(t, w.client.Close()) // RST
	require.Equal(t, idle.ClientFailed, (<-w.done).Reason)
}

func TestRelayWithoutSpliceCopies(t *testing.T) {
	w := start(t.Context(), t, time.Hour, conntest.Sockets)
	w.send(w.client, w.target, "hello")
	require.Eventually(t, noPipe, time.Minute, time.Millisecond) // of other tunnels
	shared.mu.Lock()
	shared.poller.pipes.refused.Store(true)
	shared.mu.Unlock()
	defer func() {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		if shared.poller != nil {
			shared.poller.pipes.refused.Store(false)
		}
	}()
	sent := make([]byte, 8<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = w.target.Write(sent)
		_ = w.target.Close()
	}()
	got, err := io.ReadAll(w.client)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
	require.True(t, noPipe())
	_ = w.client.Close()
	require.EqualValues(t, len(sent), (<-w.done).Received)
}

func TestTunnelTakesItsListenersLimitsOver(t *testing.T) {
	client, side := conntest.Accept(t, listenWith(t, func(ln *listener.Listener) { ln.MaxLifetime = 500 * time.Millisecond }))
	target, targetSide := conntest.Sockets(t)
	begin := time.Now()
	result := Run(t.Context(), Tunnel{Client: side, Target: targetSide, IdleTimeout: time.Hour})
	require.Equal(t, idle.Lifetime, result.Reason)
	require.GreaterOrEqual(t, time.Since(begin), 400*time.Millisecond)
	for _, conn := range []net.Conn{client, target} {
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	}
}

func listenWith(t *testing.T, set func(*listener.Listener)) *listener.Listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = inner.Close() })
	ln := &listener.Listener{Listener: inner, Timeout: time.Hour}
	set(ln)
	return ln
}

// A side with TLS is copied: its buffers are given back, and what is read in
// pieces over time is whole.
func TestTunnelWithATLSSideIsWhole(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	certified.Close()
	client, clientSide := conntest.Sockets(t)
	target, targetSide := conntest.Sockets(t)
	done := make(chan Result, 1)
	go func() {
		done <- Run(t.Context(), Tunnel{Client: tls.Server(clientSide, certified.TLS), Target: targetSide, IdleTimeout: time.Minute})
	}()
	secure := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	tick := time.NewTicker(bufferPatience * 3 / 2) // once the buffer is given back, once not
	defer tick.Stop()
	got := make([]byte, len(sent))
	for _, pause := range []bool{true, false} {
		go func() { _, _ = secure.Write(sent) }()
		_, err := io.ReadFull(target, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(sent, got))
		if pause {
			<-tick.C
		}
	}
	_, err := io.WriteString(target, "bye")
	require.NoError(t, err)
	_ = target.(*net.TCPConn).CloseWrite()
	text, err := io.ReadAll(secure)
	require.NoError(t, err, "a close_notify must come before the FIN")
	require.Equal(t, "bye", string(text))
	_ = secure.Close()
	require.Equal(t, Result{Sent: int64(2 * len(sent)), Received: 3, Reason: idle.Finished}, <-done)
}

// In a network namespace of the test's thread, the loopback is taken down: no
// packet arrives, and none says so.
func TestVanishedPeerIsFoundByKeepAlive(t *testing.T) {
	result := make(chan string, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		result <- vanish()
	}()
	text := <-result
	if reason, skipped := strings.CutPrefix(text, "skip: "); skipped {
		t.Skipf("skipped: needs network namespaces (%s)", reason)
	}
	require.Equal(t, string(idle.ClientFailed), text)
}

func vanish() string {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return "skip: " + err.Error()
	}
	if err := loopback(true); err != nil {
		return "skip: " + err.Error()
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err.Error()
	}
	defer inner.Close()
	ln := &listener.Listener{Listener: inner, Timeout: time.Hour, KeepAlive: &listener.KeepAlive{
		Idle: caddy.Duration(time.Second), Interval: caddy.Duration(time.Second), Count: 2,
	}}
	// What was accepted belongs to the namespace, whichever thread uses it.
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		return err.Error()
	}
	defer client.Close()
	clientSide, err := ln.Accept()
	if err != nil {
		return err.Error()
	}
	target, targetSide := net.Pipe()
	defer target.Close()
	done := make(chan Result, 1)
	begin := time.Now()
	Start(context.Background(), Tunnel{Client: clientSide, Target: targetSide}, func(r Result) { done <- r })
	if err := loopback(false); err != nil {
		return err.Error()
	}
	_, _ = target.Read(make([]byte, 1)) // until this side is closed, too
	select {
	case r := <-done:
		// Idle and two probes; a probe is a timer of the kernel's.
		if took := time.Since(begin); took < 2*time.Second || took > drainTimeout+15*time.Second {
			return fmt.Sprintf("found after %s", took)
		}
		return string(r.Reason)
	case <-time.After(time.Minute):
		return "not found"
	}
}

// loopback sets the loopback of this thread's namespace up or down.
func loopback(up bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if up {
		request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	}
	return os.NewSyscallError("ioctl", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request))
}
