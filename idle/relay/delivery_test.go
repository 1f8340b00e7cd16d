// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

// A server that answers early (413, say) and closes with the upload unread
// sends its answer, a FIN and then RSTs.
func TestAnswerArrivesThoughTheTargetRefusesTheUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := bytes.Repeat([]byte("answer "), 20_000)
		client := &script{reads: [][]byte{[]byte("upload")}, block: true}
		target := &script{
			reads:    [][]byte{answer[:32<<10], answer[32<<10 : 64<<10], answer[64<<10:]},
			pause:    10 * time.Millisecond,
			writeErr: syscall.EPIPE,
		}
		result := Run(t.Context(), Tunnel{Client: client, Target: target, IdleTimeout: time.Minute})
		require.Equal(t, idle.TargetFailed, result.Reason)
		require.Equal(t, len(answer), client.wrote.Len(), "all that the target had said must arrive")
		require.False(t, client.finTooEarly, "the FIN must come behind the answer")
	})
}

func TestAnswerArrivesFromATargetThatCannotBeHalfClosedAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &script{reads: [][]byte{[]byte("request")}}
		target := &script{reads: [][]byte{[]byte("answer")}, pause: time.Second, closeWriteErr: syscall.ENOTCONN}
		Run(t.Context(), Tunnel{Client: client, Target: target, IdleTimeout: time.Minute})
		require.Equal(t, "answer", client.wrote.String())
	})
}

// script is one side of a tunnel: it says what it is told to, and hears.
type script struct {
	net.Conn
	reads         [][]byte
	pause         time.Duration // before each read
	block         bool          // after the reads: silence, not EOF
	writeErr      error
	closeWriteErr error

	wrote       bytes.Buffer
	fin         atomic.Bool
	finTooEarly bool
	closed      atomic.Bool
}

func (s *script) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	if len(s.reads) == 0 {
		if !s.block {
			return 0, io.EOF
		}
		for !s.closed.Load() {
			time.Sleep(time.Second)
		}
		return 0, net.ErrClosed
	}
	n := copy(p, s.reads[0])
	if s.reads[0] = s.reads[0][n:]; len(s.reads[0]) == 0 {
		s.reads = s.reads[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	if s.writeErr != nil {
		return 0, s.writeErr
	}
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	if s.fin.Load() {
		s.finTooEarly = true
		return 0, syscall.EPIPE
	}
	return s.wrote.Write(p)
}

func (s *script) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

func (s *script) CloseWrite() error { s.fin.Store(true); return s.closeWriteErr }
func (s *script) Close() error      { s.closed.Store(true); return nil }

// Bytes flow between the kernel's buffers though no Write returns.
func TestTunnelStaysOpenForASlowReader(t *testing.T) {
	const timeout = time.Second
	w := start(t.Context(), t, timeout, conntest.Sockets)
	const size = 24 << 20
	go func() {
		_, _ = w.target.Write(make([]byte, size))
		_ = w.target.(*net.TCPConn).CloseWrite()
	}()
	tick := time.NewTicker(timeout / 8)
	defer tick.Stop()
	got := 0
	buf := make([]byte, 64<<10)
	for range 24 { // 3 timeouts at a snail's pace
		<-tick.C
		n, err := io.ReadFull(w.client, buf)
		got += n
		require.NoError(t, err)
	}
	rest, err := io.Copy(io.Discard, w.client)
	require.NoError(t, err)
	require.Equal(t, size, got+int(rest), "the tunnel was cut while bytes flowed")
}

// An exit bills by the byte.
func TestAbortedDownloadIsNotReadToTheEnd(t *testing.T) {
	w := start(t.Context(), t, time.Minute, conntest.Sockets)
	_ = w.target.(*net.TCPConn).SetWriteBuffer(64 << 10)
	pulled := make(chan int, 1)
	go func() {
		n, chunk := 0, make([]byte, 1<<20)
		for {
			m, err := w.target.Write(chunk)
			n += m
			if err != nil {
				pulled <- n
				return
			}
		}
	}()
	_, err := io.ReadFull(w.client, make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, w.client.(*net.TCPConn).SetLinger(0))
	require.NoError(t, w.client.Close())
	result := <-w.done
	require.Equal(t, idle.ClientFailed, result.Reason)
	require.Less(t, <-pulled-int(result.Received), 64<<20)
}

// Without CloseWrite the side is closed, but only behind what was written.
func TestSideThatCannotBeHalfClosedIsClosedBehindItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t.Context(), t, time.Minute, conntest.Pipes)
		go func() {
			_, _ = io.WriteString(w.client, "all I have to say")
			_ = w.client.Close()
		}()
		got, err := io.ReadAll(w.target)
		require.NoError(t, err)
		require.Equal(t, "all I have to say", string(got))
		require.Equal(t, Result{Sent: 17, Reason: idle.Finished}, <-w.done)
	})
}
