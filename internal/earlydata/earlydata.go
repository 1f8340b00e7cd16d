// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package earlydata is a client for tests that sends requests of HTTP/3 in early
// data (0-RTT).
//
// Its connections read no reply until the test says so. Until then the server's
// handshake cannot complete, so each request is in early data, however slow the
// machine is.
//
// Only tests import it.
package earlydata

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"
)

// guard is how long a reply may take before a test reports that it hangs.
const guard = time.Minute

// Client has a session ticket of a server, which early data needs.
type Client struct {
	t      testing.TB
	server *net.UDPAddr
	config *tls.Config
}

// NewClient connects to a server (host:port) once, for a session ticket.
func NewClient(t testing.TB, server string, config *tls.Config) *Client {
	t.Helper()
	address, err := net.ResolveUDPAddr("udp", server)
	require.NoError(t, err)
	c := &Client{t: t, server: address, config: config.Clone()}
	c.config.NextProtos = []string{http3.NextProtoH3}
	tickets := &ticket{received: make(chan struct{})}
	c.config.ClientSessionCache = tickets
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	conn, err := quic.DialAddr(ctx, server, c.config, nil)
	require.NoError(t, err)
	defer func() { _ = conn.CloseWithError(0, "") }()
	select {
	case <-tickets.received:
	case <-ctx.Done():
		t.Fatal("the server sends no session ticket")
	}
	return c
}

// ticket is a cache that keeps the first ticket for all connections.
type ticket struct {
	mu       sync.Mutex
	state    *tls.ClientSessionState
	received chan struct{}
}

// Get implements tls.ClientSessionCache.
func (c *ticket) Get(string) (*tls.ClientSessionState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.state != nil
}

// Put implements tls.ClientSessionCache.
func (c *ticket) Put(_ string, state *tls.ClientSessionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == nil && state != nil {
		c.state = state
		close(c.received)
	}
}

// Conn is a connection that reads no reply until Finish.
type Conn struct {
	t      testing.TB
	server *net.UDPAddr
	conn   *quic.Conn
	client *http3.ClientConn
	socket *socket

	replayer *net.UDPConn // what Replay sends from
}

// Dial begins a connection from an IP address.
func (c *Client) Dial(from string) *Conn {
	c.t.Helper()
	inner, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)})
	require.NoError(c.t, err)
	s := &socket{PacketConn: inner, inner: inner, open: make(chan struct{})}
	transport := &quic.Transport{Conn: s}
	ctx, cancel := context.WithTimeout(c.t.Context(), guard)
	defer cancel()
	conn, err := transport.DialEarly(ctx, c.server, c.config, nil)
	require.NoError(c.t, err)
	c.t.Cleanup(func() {
		s.read()
		_ = conn.CloseWithError(0, "")
		_ = transport.Close()
		_ = inner.Close()
	})
	return &Conn{t: c.t, server: c.server, conn: conn, client: new(http3.Transport).NewClientConn(conn), socket: s}
}

// Send sends a request, and then bytes of its body, without its end. Before Finish
// it is in early data.
func (c *Conn) Send(r *http.Request, body string) *http3.RequestStream {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), guard)
	defer cancel()
	stream, err := c.client.OpenRequestStream(ctx)
	require.NoError(c.t, err)
	require.NoError(c.t, stream.SetDeadline(time.Now().Add(guard)))
	require.NoError(c.t, stream.SendRequestHeader(r))
	if body != "" {
		_, err = io.WriteString(stream, body)
		require.NoError(c.t, err)
	}
	return stream
}

// Finish reads replies from now on, and waits for the end of the handshake.
func (c *Conn) Finish() {
	c.t.Helper()
	c.socket.read()
	select {
	case <-c.conn.HandshakeComplete():
	case <-time.After(guard):
		c.t.Fatal("the handshake does not complete")
	}
	require.True(c.t, c.conn.ConnectionState().Used0RTT, "the server rejects early data")
}

// Answer returns the answer to a request and its body. Of a tunnel it reads the
// header only.
func (c *Conn) Answer(stream *http3.RequestStream) (*http.Response, string) {
	c.t.Helper()
	res, err := stream.ReadResponse()
	require.NoError(c.t, err)
	if res.ContentLength == 0 {
		return res, ""
	}
	body, err := io.ReadAll(stream)
	require.NoError(c.t, err)
	return res, string(body)
}

// Close closes the connection.
func (c *Conn) Close() { _ = c.conn.CloseWithError(0, "") }

// Replay sends all datagrams that were sent before Finish again, in their order,
// from another socket.
func (c *Conn) Replay() {
	c.t.Helper()
	if c.replayer == nil {
		conn, err := net.DialUDP("udp", nil, c.server)
		require.NoError(c.t, err)
		c.t.Cleanup(func() { _ = conn.Close() })
		c.replayer = conn
	}
	for _, datagram := range c.socket.datagrams() {
		_, err := c.replayer.Write(datagram)
		require.NoError(c.t, err)
	}
}

// socket records what is sent until reading begins. It is no *net.UDPConn, or quic-go
// would go around it.
type socket struct {
	net.PacketConn
	inner *net.UDPConn

	open chan struct{} // closed when reading begins
	once sync.Once

	mu   sync.Mutex
	sent [][]byte
}

func (s *socket) read() { s.once.Do(func() { close(s.open) }) }

func (s *socket) datagrams() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// ReadFrom implements net.PacketConn. Until reading begins, datagrams wait in the
// system's buffer.
func (s *socket) ReadFrom(p []byte) (int, net.Addr, error) {
	<-s.open
	return s.PacketConn.ReadFrom(p)
}

// WriteTo implements net.PacketConn.
func (s *socket) WriteTo(p []byte, to net.Addr) (int, error) {
	select {
	case <-s.open:
	default:
		s.mu.Lock()
		s.sent = append(s.sent, bytes.Clone(p))
		s.mu.Unlock()
	}
	return s.PacketConn.WriteTo(p, to)
}

// SetReadBuffer is for quic-go, which else logs a warning.
func (s *socket) SetReadBuffer(size int) error { return s.inner.SetReadBuffer(size) }

// SetWriteBuffer is for quic-go, as SetReadBuffer.
func (s *socket) SetWriteBuffer(size int) error { return s.inner.SetWriteBuffer(size) }
