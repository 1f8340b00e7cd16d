// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

// tunnel is a relay between two peers that the test plays.
type tunnel struct {
	t              *testing.T
	client, target net.Conn // the peers' ends
	done           chan Result
}

func start(ctx context.Context, t *testing.T, timeout time.Duration, pair func(*testing.T) (peer, proxy net.Conn)) *tunnel {
	t.Helper()
	client, clientSide := pair(t)
	target, targetSide := pair(t)
	w := &tunnel{t: t, client: client, target: target, done: make(chan Result, 1)}
	go func() {
		w.done <- Run(ctx, Tunnel{Client: clientSide, Target: targetSide, IdleTimeout: timeout})
	}()
	return w
}

func (w *tunnel) send(from, to net.Conn, text string) {
	w.t.Helper()
	_, err := io.WriteString(from, text)
	require.NoError(w.t, err)
	got := make([]byte, len(text))
	_, err = io.ReadFull(to, got)
	require.NoError(w.t, err)
	require.Equal(w.t, text, string(got))
}

func TestSilentTunnelEndsAtItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t.Context(), t, 30*time.Second, conntest.Pipes)
		w.send(w.client, w.target, "hello")
		time.Sleep(30*time.Second - time.Millisecond)
		synctest.Wait()
		select {
		case <-w.done:
			t.Fatal("the tunnel ended too early")
		default:
		}
		time.Sleep(time.Millisecond)
		require.Equal(t, Result{Sent: 5, Reason: idle.Idle}, <-w.done)
		_, err := w.client.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		_, err = w.target.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestTunnelStaysOpenDuringOneWayTraffic(t *testing.T) {
	for name, swap := range map[string]bool{"upload": false, "download": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t.Context(), t, 30*time.Second, conntest.Pipes)
				from, to := w.client, w.target
				if swap {
					from, to = to, from
				}
				for range 100 { // a byte each 29 s
					time.Sleep(29 * time.Second)
					w.send(from, to, "x")
				}
				time.Sleep(30 * time.Second)
				result := <-w.done
				require.Equal(t, idle.Idle, result.Reason)
				require.EqualValues(t, 100, result.Sent+result.Received)
			})
		})
	}
}

func TestTunnelWithoutTimeoutStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t.Context(), t, 0, conntest.Pipes)
		time.Sleep(1000 * time.Hour)
		w.send(w.target, w.client, "still here")
		_ = w.client.Close()
		require.Equal(t, idle.Finished, (<-w.done).Reason)
	})
}

func TestTunnelEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := start(ctx, t, time.Hour, conntest.Sockets)
	w.send(w.client, w.target, "hello")
	cancel()
	require.Equal(t, idle.Canceled, (<-w.done).Reason)
	_, err := w.client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestHalfCloseKeepsTheOtherDirection(t *testing.T) {
	w := start(t.Context(), t, time.Hour, conntest.Sockets)
	w.send(w.client, w.target, "request")
	require.NoError(t, w.client.(*net.TCPConn).CloseWrite())
	_, err := w.target.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "the client's FIN must arrive")
	w.send(w.target, w.client, "an answer that comes late")
	require.NoError(t, w.target.Close())
	_, err = w.client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, Result{Sent: 7, Received: 25, Reason: idle.Finished}, <-w.done)
}

func TestEverythingArrivesBeforeTheEnd(t *testing.T) {
	w := start(t.Context(), t, time.Hour, conntest.Sockets)
	sent := make([]byte, 4<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = w.target.Write(sent)
		_ = w.target.Close()
	}()
	got, err := io.ReadAll(w.client)
	require.NoError(t, err, "a FIN must end the stream, no RST")
	require.True(t, bytes.Equal(sent, got))
	_ = w.client.Close()
	require.EqualValues(t, len(sent), (<-w.done).Received)
}

func TestEarlyBytesComeFirstAndOnce(t *testing.T) {
	client, clientSide := conntest.Sockets(t)
	target, targetSide := conntest.Sockets(t)
	done := make(chan Result)
	go func() {
		done <- Run(context.Background(), Tunnel{
			Client: clientSide, Target: targetSide,
			FromClient: []byte("ab"), FromTarget: []byte("12"),
		})
	}()
	_, _ = io.WriteString(client, "cd")
	_, _ = io.WriteString(target, "34")
	_ = client.(*net.TCPConn).CloseWrite()
	_ = target.(*net.TCPConn).CloseWrite()
	up, err := io.ReadAll(target)
	require.NoError(t, err)
	down, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, []string{"abcd", "1234"}, []string{string(up), string(down)})
	require.Equal(t, Result{Sent: 4, Received: 4, Reason: idle.Finished}, <-done)
}

func TestResetOfOneSideEndsTheOther(t *testing.T) {
	w := start(t.Context(), t, time.Hour, conntest.Sockets)
	w.send(w.target, w.client, "hello")
	require.NoError(t, w.target.(*net.TCPConn).SetLinger(0))
	require.NoError(t, w.target.Close()) // RST
	_, err := w.client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_ = w.client.Close()
	require.Equal(t, idle.TargetFailed, (<-w.done).Reason)
}

func TestPeerThatNeverClosesIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, side := net.Pipe()
		defer peer.Close()
		done := make(chan Result)
		go func() {
			done <- Run(context.Background(), Tunnel{Client: conntest.Broken{}, Target: &conntest.HalfPipe{Conn: side}})
		}()
		begin := time.Now()
		require.Equal(t, idle.ClientFailed, (<-done).Reason)
		require.Equal(t, drainTimeout, time.Since(begin))
	})
}

// BenchmarkRelay is beside a plain io.Copy, which splices on Linux.
func BenchmarkRelay(b *testing.B) {
	ways := map[string]func(client, target net.Conn){
		"relay": func(client, target net.Conn) {
			Run(context.Background(), Tunnel{Client: client, Target: target, IdleTimeout: time.Minute})
		},
		"io.Copy": func(client, target net.Conn) {
			done := make(chan struct{})
			go func() {
				_, _ = io.Copy(target, client)
				_ = target.(*net.TCPConn).CloseWrite()
				close(done)
			}()
			_, _ = io.Copy(client, target)
			_ = client.(*net.TCPConn).CloseWrite()
			<-done
			_ = client.Close()
			_ = target.Close()
		},
	}
	for name, carry := range ways {
		b.Run(name, func(b *testing.B) {
			t := new(testing.T)
			client, clientSide := conntest.Sockets(t)
			target, targetSide := conntest.Sockets(t)
			defer client.Close()
			defer target.Close()
			done := make(chan struct{})
			go func() { carry(clientSide, targetSide); close(done) }()
			chunk, sink := make([]byte, 1<<20), make([]byte, 1<<20)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				go func() { _, _ = target.Write(chunk) }()
				if _, err := io.ReadFull(client, sink); err != nil {
					b.Fatal(err)
				}
			}
			_ = client.Close()
			_ = target.Close()
			<-done
		})
	}
}
