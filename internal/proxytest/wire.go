// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Wire is a connection of which a test sees each byte.
type Wire struct {
	*bufio.Reader
	t    testing.TB
	Conn *net.TCPConn
}

// Dial connects to an address.
func Dial(t testing.TB, address string) *Wire {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(Guard)))
	return &Wire{Reader: bufio.NewReader(conn), t: t, Conn: conn.(*net.TCPConn)}
}

// Send writes this text.
func (c *Wire) Send(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.Conn, text)
	require.NoError(c.t, err)
}

// Reply is an answer that was read to its end.
type Reply struct {
	Status          int
	Header, Trailer http.Header
	Body            string
	Response        *http.Response
}

// Reason returns the error of a Proxy-Status header (RFC 9209 §2.3).
func (r Reply) Reason() string {
	_, kind, _ := strings.Cut(r.Header.Get("Proxy-Status"), "; error=")
	kind, _, _ = strings.Cut(kind, ";")
	return kind
}

// Answer reads an answer. Of a tunnel's 2xx it reads the head only.
func (c *Wire) Answer(method string) Reply {
	c.t.Helper()
	res, err := http.ReadResponse(c.Reader, &http.Request{Method: method})
	require.NoError(c.t, err)
	r := Reply{Status: res.StatusCode, Header: res.Header, Response: res}
	if method == http.MethodConnect && res.StatusCode/100 == 2 || res.StatusCode/100 == 1 {
		return r
	}
	body, err := io.ReadAll(res.Body)
	require.NoError(c.t, err)
	_ = res.Body.Close()
	r.Body, r.Trailer = string(body), res.Trailer
	return r
}

// Expect reads this text.
func (c *Wire) Expect(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(c.Reader, got)
	require.NoError(c.t, err, "read %q", got[:n])
	require.Equal(c.t, text, string(got))
}

// ExpectEnd reads to the end, which must be a FIN and not a RST, and returns
// what came before.
func (c *Wire) ExpectEnd() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.Reader)
	require.NoError(c.t, err, "after %q", rest)
	return string(rest)
}

// ExpectClosed waits until the connection ends, whichever way.
func (c *Wire) ExpectClosed() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.Reader)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded, "the connection stays open")
}

// ExpectClosedAfter waits until the connection ends, whichever way, and returns
// what came before.
func (c *Wire) ExpectClosedAfter() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.Reader)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded, "the connection stays open")
	return string(rest)
}

// Alive reports whether an echo through the tunnel comes back.
func (c *Wire) Alive() bool {
	c.t.Helper()
	if _, err := c.Conn.Write([]byte("?")); err != nil {
		return false
	}
	answer, err := c.ReadByte()
	return err == nil && answer == '?'
}

// Silent reports whether nothing comes for a moment. It is for what must not
// happen: too short a moment lets a test pass, never fail.
func (c *Wire) Silent() bool {
	c.t.Helper()
	require.NoError(c.t, c.Conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err := c.Peek(1)
	require.NoError(c.t, c.Conn.SetReadDeadline(time.Now().Add(Guard)))
	return err != nil
}

// CloseWrite closes the half in which the test writes.
func (c *Wire) CloseWrite() {
	c.t.Helper()
	require.NoError(c.t, c.Conn.CloseWrite())
}

// Close closes the connection.
func (c *Wire) Close() { _ = c.Conn.Close() }

// RandomText returns this many bytes of hexadecimal digits.
func RandomText(size int) string {
	raw := make([]byte, size/2+1)
	_, _ = rand.Read(raw) // never fails
	return hex.EncodeToString(raw)[:size]
}
