// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// deadlining is what others do: it sets a deadline at each read and write.
type deadlining struct{ net.Listener }

func (l deadlining) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return deadlined{conn}, nil
}

type deadlined struct{ net.Conn }

func (c deadlined) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	return c.Conn.Read(p)
}

func (c deadlined) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(time.Minute))
	return c.Conn.Write(p)
}

// beside runs a benchmark with no wrapper, with this package's and with one that
// sets deadlines. Serve has an accepted connection, which is closed after it.
func beside(b *testing.B, serve func(conn net.Conn), client func(b *testing.B, conn net.Conn)) {
	b.Helper()
	for _, c := range []struct {
		name string
		wrap func(net.Listener) net.Listener
	}{
		{"bare", func(ln net.Listener) net.Listener { return ln }},
		{"idle_timeout", func(ln net.Listener) net.Listener { return &Listener{Listener: ln, Timeout: time.Minute} }},
		{"deadlines", func(ln net.Listener) net.Listener { return deadlining{ln} }},
	} {
		b.Run(c.name, func(b *testing.B) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(b, err)
			ln := c.wrap(inner)
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				serve(conn)
			}()
			conn, err := net.Dial("tcp", inner.Addr().String())
			require.NoError(b, err)
			client(b, conn)
			_ = conn.Close()
			_ = ln.Close()
			<-done
		})
	}
}

func BenchmarkEcho(b *testing.B) {
	beside(b, func(conn net.Conn) {
		buf := make([]byte, 64)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			_, _ = conn.Write(buf[:n])
		}
	}, func(b *testing.B, conn net.Conn) {
		b.Helper()
		buf := make([]byte, 64)
		for b.Loop() {
			_, _ = conn.Write(buf)
			if _, err := io.ReadFull(conn, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDownload(b *testing.B) {
	const piece = 32 << 10
	beside(b, func(conn net.Conn) {
		buf := make([]byte, piece)
		for {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	}, func(b *testing.B, conn net.Conn) {
		b.Helper()
		b.SetBytes(piece)
		buf := make([]byte, piece)
		for b.Loop() {
			if _, err := io.ReadFull(conn, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
