// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

// Many tunnels at once whose peers do at random what peers do. Every byte must
// arrive, both sides must hear of the end, and nothing may be left.
func TestRandomTunnelsLoseNothingAndLeaveNothing(t *testing.T) {
	tunnels := 250
	if testing.Short() {
		tunnels = 60
	}
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"polled": func(conn net.Conn) net.Conn { return conn },
		"copied": func(conn net.Conn) net.Conn { return opaque{conn} },
	} {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			warm := start(t.Context(), t, time.Minute, conntest.Sockets)
			warm.send(warm.client, warm.target, "so that the poller is there")
			files, goroutines := filesOf(t), runtime.NumGoroutine()
			var wg sync.WaitGroup
			slots := make(chan struct{}, 80)
			for i := range tunnels {
				wg.Go(func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					plan := newPlan(rand.New(rand.NewPCG(seed, uint64(i))))
					if err := plan.run(t, wrap); err != nil {
						t.Errorf("tunnel %d of seed %d, %s: %v", i, seed, plan, err)
					}
				})
			}
			wg.Wait()
			require.Len(t, live.list(), 1)
			// The poller keeps workers and pipes for a while, not so many as there
			// were tunnels.
			const kept = 40
			require.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+kept }, 20*time.Second, 10*time.Millisecond, "goroutines are left")
			require.Eventually(t, func() bool { return filesOf(t) <= files+kept }, 20*time.Second, 10*time.Millisecond, "files are left")
			warm.send(warm.target, warm.client, "and still lives")
			_ = warm.client.Close()
			_ = warm.target.Close()
			require.EqualValues(t, len("and still lives"), (<-warm.done).Received)
		})
	}
}

// opaque hides what a connection is, but not that half of it can be closed.
type opaque struct{ inner net.Conn }

func (o opaque) Read(p []byte) (int, error)         { return o.inner.Read(p) }
func (o opaque) Write(p []byte) (int, error)        { return o.inner.Write(p) }
func (o opaque) Close() error                       { return o.inner.Close() }
func (o opaque) CloseWrite() error                  { return o.inner.(*net.TCPConn).CloseWrite() }
func (o opaque) LocalAddr() net.Addr                { return o.inner.LocalAddr() }
func (o opaque) RemoteAddr() net.Addr               { return o.inner.RemoteAddr() }
func (o opaque) SetDeadline(at time.Time) error     { return o.inner.SetDeadline(at) }
func (o opaque) SetReadDeadline(at time.Time) error { return o.inner.SetReadDeadline(at) }
func (o opaque) SetWriteDeadline(at time.Time) error {
	return o.inner.SetWriteDeadline(at)
}

// plan is what the peers of one tunnel do.
type plan struct {
	rough  string // "": everything must arrive
	client part
	target part
}

// part is what one peer does.
type part struct {
	seed    uint64
	early   int // of the bytes, what was read before the relay began
	size    int // of all bytes
	chunk   int
	pauses  float64 // how many chunks are followed by a pause
	stall   time.Duration
	patient bool // hears all before it says that it has said all
	leaves  int  // how many bytes it takes before it breaks off; -1: never
}

func (p *plan) String() string {
	return fmt.Sprintf("%q, client %+v, target %+v", p.rough, p.client, p.target)
}

func newPlan(r *rand.Rand) *plan {
	p := &plan{client: newPart(r), target: newPart(r)}
	if p.client.patient {
		p.target.patient = false // or both wait for ever
	}
	who := &p.client
	if r.IntN(2) == 0 {
		who = &p.target
	}
	switch r.IntN(8) {
	case 0:
		p.rough = "reset"
		who.leaves = r.IntN(200 << 10)
	case 1:
		p.rough = "close"
		who.leaves = r.IntN(200 << 10)
	case 2:
		p.rough = "cancel"
	}
	return p
}

func newPart(r *rand.Rand) part {
	p := part{seed: r.Uint64(), chunk: 1 + r.IntN(1<<uint(1+r.IntN(18))), leaves: -1, patient: r.IntN(3) == 0}
	p.size = r.IntN(1 << uint(1+r.IntN(23))) // up to 8 MiB, most far less
	if p.size/p.chunk > 2000 {
		p.chunk = p.size / 2000
	}
	p.early = r.IntN(min(p.size, 5000) + 1)
	if r.IntN(3) == 0 {
		p.pauses = min(1, 20*float64(p.chunk)/float64(p.size+1))
	}
	if r.IntN(5) == 0 {
		p.stall = time.Duration(r.IntN(2000)) * time.Millisecond // longer than pipes are left to it
	}
	return p
}

// bytes are all that a part says.
func (p *part) bytes() []byte {
	all := make([]byte, p.size)
	_, _ = rand.NewChaCha8([32]byte{byte(p.seed), byte(p.seed >> 8), byte(p.seed >> 16), byte(p.seed >> 24)}).Read(all)
	return all
}

func (p *plan) run(t *testing.T, wrap func(net.Conn) net.Conn) error {
	t.Helper()
	client, clientSide, err := socketPair()
	if err != nil {
		return err
	}
	defer client.Close()
	target, targetSide, err := socketPair()
	if err != nil {
		return err
	}
	defer target.Close()
	fromClient, fromTarget := p.client.bytes(), p.target.bytes()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan Result, 1)
	Start(ctx, Tunnel{
		Client: wrap(clientSide), Target: wrap(targetSide), IdleTimeout: 30 * time.Second,
		FromClient: slices.Clone(fromClient[:p.client.early]), FromTarget: slices.Clone(fromTarget[:p.target.early]),
	}, func(r Result) { done <- r })
	if p.rough == "cancel" {
		timer := time.AfterFunc(time.Duration(p.client.seed%300)*time.Millisecond, cancel)
		defer timer.Stop()
	}
	ends := make(chan error, 2)
	go func() { ends <- p.client.play(client, fromClient, fromTarget, p.rough) }()
	go func() { ends <- p.target.play(target, fromTarget, fromClient, p.rough) }()
	err = errors.Join(<-ends, <-ends)
	result := <-done
	switch {
	case err != nil:
		return fmt.Errorf("%w (%+v)", err, result)
	case p.rough == "" && result != Result{Sent: int64(p.client.size), Received: int64(p.target.size), Reason: idle.Finished}:
		return fmt.Errorf("the tunnel ended with %+v", result)
	case result.Reason == idle.Idle:
		return fmt.Errorf("the tunnel hung: %+v", result)
	}
	return nil
}

// play says and hears, and returns what was wrong with what it heard.
func (p *part) play(conn *net.TCPConn, say, hear []byte, rough string) error {
	heard := make(chan struct{})
	go func() {
		p.say(conn, say[p.early:], heard)
	}()
	defer conn.Close()
	got, at, err := make([]byte, 0, len(hear)), time.Now(), error(nil)
	if p.stall > 0 {
		<-time.After(p.stall)
	}
	buf := make([]byte, min(max(2*p.chunk, 16), 64<<10))
	for err == nil && (p.leaves < 0 || len(got) <= p.leaves) {
		var n int
		n, err = conn.Read(buf)
		got = append(got, buf[:n]...)
		if len(got) > len(hear) || !slices.Equal(got[len(got)-n:], hear[len(got)-n:len(got)]) {
			return fmt.Errorf("other bytes after %d", len(got)-n)
		}
	}
	defer close(heard)
	switch {
	case err == nil && rough == "reset":
		_ = conn.SetLinger(0)
		return nil
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no end after %d of %d bytes in %s", len(got), len(hear), time.Since(at))
	case rough != "":
		return nil // a part of what was said, and an end
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("after %d of %d bytes: %w", len(got), len(hear), err)
	case len(got) != len(hear):
		return fmt.Errorf("an end after %d of %d bytes", len(got), len(hear))
	}
	heard <- struct{}{} // until everything was said
	return nil
}

// say writes in pieces. Errors show at the other end.
func (p *part) say(conn *net.TCPConn, text []byte, heard <-chan struct{}) {
	r := rand.New(rand.NewPCG(p.seed, 1))
	for len(text) > 0 {
		n := min(1+r.IntN(p.chunk), len(text))
		if _, err := conn.Write(text[:n]); err != nil {
			<-heard
			return
		}
		text = text[n:]
		if r.Float64() < p.pauses {
			<-time.After(time.Duration(r.IntN(20)) * time.Millisecond)
		}
	}
	if p.patient {
		<-heard
		_ = conn.CloseWrite()
		return
	}
	_ = conn.CloseWrite()
	<-heard
}

func socketPair() (peer, proxy *net.TCPConn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	dialed, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	accepted, err := ln.Accept()
	if err != nil {
		_ = dialed.Close()
		return nil, nil, err
	}
	// A guard against hanging, not part of any test.
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn), dialed.SetDeadline(time.Now().Add(2 * time.Minute))
}

func filesOf(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
