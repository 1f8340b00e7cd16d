// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// source listens and sends to each connection as many bytes as it asks for.
func source(address string) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return // the port was taken by somebody else, which run notices
	}
	chunk := make([]byte, 256<<10)
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go serve(conn, chunk)
	}
}

func serve(conn net.Conn, chunk []byte) {
	defer conn.Close()
	var request [8]byte
	for {
		if _, err := io.ReadFull(conn, request[:]); err != nil {
			return
		}
		for left := int(binary.BigEndian.Uint64(request[:])); left > 0; {
			n, err := conn.Write(chunk[:min(left, len(chunk))])
			if err != nil {
				return
			}
			left -= n
		}
	}
}

// ask asks the source for bytes.
func ask(conn *net.TCPConn, n int) error {
	var request [8]byte
	binary.BigEndian.PutUint64(request[:], uint64(n))
	_, err := conn.Write(request[:])
	return err
}

// swallow reads bytes and lets the kernel drop them: what a client costs is not
// measured.
func swallow(conn *net.TCPConn, n int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	var readErr error
	for n > 0 {
		err := raw.Read(func(fd uintptr) bool {
			m, _, err := syscall.Recvfrom(int(fd), buf[:min(n, len(buf))], syscall.MSG_TRUNC|syscall.MSG_DONTWAIT)
			switch {
			case err == syscall.EAGAIN || err == syscall.EINTR:
				return false
			case err != nil:
				readErr = err
			case m == 0:
				readErr = io.ErrUnexpectedEOF
			}
			n -= max(m, 0)
			return true
		})
		if err != nil {
			return err
		}
		if readErr != nil {
			return readErr
		}
	}
	return nil
}

// open opens tunnels, some at a time.
func open(b *testing.B, p *proxy, target string, n int) []*net.TCPConn {
	b.Helper()
	conns := make([]*net.TCPConn, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for range 16 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				conn, err := p.tunnel(target)
				if err != nil {
					failed.Store(&err)
					return
				}
				conns[i] = conn
			}
		})
	}
	wg.Wait()
	b.Cleanup(func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	})
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	return conns
}

// BenchmarkIdleTunnel is what a tunnel costs on which nothing moves: before and
// after 256 KiB went through each.
func BenchmarkIdleTunnel(b *testing.B) {
	sizes := []int{3000, 5000, min(10000, mostTunnels(b))}
	if testing.Short() {
		sizes = []int{100}
	}
	for _, size := range sizes {
		for _, c := range contestants {
			if size > 3000 && c.name != "sticky" {
				continue
			}
			b.Run(fmt.Sprintf("%s/%d", c.name, size), func(b *testing.B) {
				if most := mostTunnels(b); size > most {
					b.Skipf("skipped: the limit of descriptors is enough for %d tunnels", most)
				}
				target := startSource(b)
				p := c.start(b, target, nil)
				// What is made once is no tunnel's.
				for _, conn := range open(b, p, target, 50) {
					require.NoError(b, ask(conn, 256<<10))
					require.NoError(b, swallow(conn, 256<<10))
					_ = conn.Close()
				}
				memory, files, goroutines := p.memory(b), p.files(b), p.goroutines()
				begin := time.Now()
				conns := open(b, p, target, size)
				b.ReportMetric(float64(size)/time.Since(begin).Seconds(), "opened/s")
				b.ReportMetric(float64(p.memory(b)-memory)/float64(size), "fresh-B/tunnel")
				for _, conn := range conns {
					require.NoError(b, ask(conn, 256<<10))
					require.NoError(b, swallow(conn, 256<<10))
				}
				b.ReportMetric(float64(p.memory(b)-memory)/float64(size), "used-B/tunnel")
				b.ReportMetric(float64(p.files(b)-files)/float64(size), "files/tunnel")
				if goroutines >= 0 {
					b.ReportMetric(float64(p.goroutines()-goroutines)/float64(size), "goroutines/tunnel")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// mostTunnels is how many tunnels a proxy may have that holds two descriptors
// for each and is given as many as this process may have.
func mostTunnels(b *testing.B) int {
	b.Helper()
	var limit syscall.Rlimit
	require.NoError(b, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	return (int(limit.Cur) - 1000) / 2
}

// BenchmarkActiveTunnels downloads through tunnels at once: what counts is the
// proxy's CPU time.
func BenchmarkActiveTunnels(b *testing.B) {
	counts := []int{1, 4, 16}
	if testing.Short() {
		counts = counts[:1]
	}
	for _, busy := range counts {
		for _, c := range contestants {
			b.Run(fmt.Sprintf("%s/%d", c.name, busy), func(b *testing.B) {
				target := startSource(b)
				download(b, c.start(b, target, nil), target, busy)
			})
		}
	}
}

// BenchmarkActiveTunnelsOfNobody is the same for a user without capabilities,
// whose pipes the kernel counts, beside idle tunnels.
func BenchmarkActiveTunnelsOfNobody(b *testing.B) {
	if _, err := exec.LookPath(nobody[0]); err != nil || syscall.Getuid() != 0 {
		b.Skip("skipped: needs setpriv, and root to use it")
	}
	for _, busy := range []int{16, 128} {
		for _, c := range contestants[:2] {
			b.Run(fmt.Sprintf("%s/%d", c.name, busy), func(b *testing.B) {
				target := startSource(b)
				p := c.start(b, target, nobody)
				if busy < 100 {
					for _, conn := range open(b, p, target, 100) {
						require.NoError(b, ask(conn, 1))
						require.NoError(b, swallow(conn, 1))
					}
				}
				download(b, p, target, busy)
			})
		}
	}
}

// BenchmarkStalledReceivers downloads beside tunnels whose clients read nothing.
// More of them would take all that the kernel gives TCP on a small machine, and
// it would be the kernel that is measured (net.ipv4.tcp_mem; each takes 8 MiB).
func BenchmarkStalledReceivers(b *testing.B) {
	for _, c := range contestants[:2] {
		b.Run(c.name, func(b *testing.B) {
			target := startSource(b)
			p := c.start(b, target, nil)
			for _, conn := range open(b, p, target, 100) {
				require.NoError(b, ask(conn, 1<<30))
			}
			time.Sleep(3 * time.Second) // until all buffers are full
			download(b, p, target, 4)
		})
	}
}

// download measures n downloads at once of a GiB together each time.
func download(b *testing.B, p *proxy, target string, n int) {
	b.Helper()
	conns := open(b, p, target, n)
	const total = 1 << 30
	share := total / n
	cpu, begin, moved := p.cpu(b), time.Now(), 0
	for b.Loop() {
		var wg sync.WaitGroup
		for _, conn := range conns {
			wg.Go(func() {
				if err := ask(conn, share); err != nil {
					b.Error(err)
				}
				if err := swallow(conn, share); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		moved += share * n
	}
	gib := float64(moved) / (1 << 30)
	b.ReportMetric((p.cpu(b)-cpu).Seconds()/gib, "cpu-s/GiB")
	b.ReportMetric(gib/time.Since(begin).Seconds(), "GiB/s")
}
