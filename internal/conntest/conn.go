// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package conntest has connections for tests: pairs of which a test plays one end,
// and those that fail or can be half closed as a test needs it.
package conntest

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Pipes are connections in memory, for synctest. Half of one cannot be closed.
func Pipes(t *testing.T) (peer, proxy net.Conn) {
	t.Helper()
	peer, proxy = net.Pipe()
	t.Cleanup(func() { _ = peer.Close() })
	return peer, proxy
}

// Sockets are TCP connections on the loopback.
func Sockets(t *testing.T) (peer, proxy net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	peer, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	proxy, err = ln.Accept()
	require.NoError(t, err)
	// A guard against hanging, not part of any test.
	require.NoError(t, peer.SetDeadline(time.Now().Add(time.Minute)))
	t.Cleanup(func() { _ = peer.Close() })
	return peer, proxy
}

// Accept dials a listener. Both ends of the connection are closed with the test.
func Accept(t *testing.T, ln net.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	require.NoError(t, client.SetDeadline(time.Now().Add(time.Minute)))
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	return client, server
}

// Broken is a connection that fails at once.
type Broken struct{ net.Conn }

// Read implements net.Conn.
func (Broken) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

// Write implements net.Conn.
func (Broken) Write(p []byte) (int, error) { return 0, syscall.EPIPE }

// Close implements net.Conn.
func (Broken) Close() error { return nil }

// HalfPipe is a connection whose sending half can be closed. Its peer does not see
// that.
type HalfPipe struct{ net.Conn }

// CloseWrite closes nothing.
func (*HalfPipe) CloseWrite() error { return nil }
