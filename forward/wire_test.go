// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

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

// wire is a connection of which a test sees each byte.
type wire struct {
	*bufio.Reader
	t    testing.TB
	conn *net.TCPConn
}

// dial connects to an address.
func dial(t testing.TB, address string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(guard)))
	return &wire{Reader: bufio.NewReader(conn), t: t, conn: conn.(*net.TCPConn)}
}

// send writes this text.
func (c *wire) send(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.conn, text)
	require.NoError(c.t, err)
}

// reply is an answer that was read to its end.
type reply struct {
	status          int
	header, trailer http.Header
	body            string
	response        *http.Response
}

// reason returns the error of a Proxy-Status header (RFC 9209 §2.3).
func (r reply) reason() string {
	_, kind, _ := strings.Cut(r.header.Get("Proxy-Status"), "; error=")
	kind, _, _ = strings.Cut(kind, ";")
	return kind
}

// answer reads an answer. Of a tunnel's 2xx it reads the head only.
func (c *wire) answer(method string) reply {
	c.t.Helper()
	res, err := http.ReadResponse(c.Reader, &http.Request{Method: method})
	require.NoError(c.t, err)
	r := reply{status: res.StatusCode, header: res.Header, response: res}
	if method == http.MethodConnect && res.StatusCode/100 == 2 || res.StatusCode/100 == 1 {
		return r
	}
	body, err := io.ReadAll(res.Body)
	require.NoError(c.t, err)
	_ = res.Body.Close()
	r.body, r.trailer = string(body), res.Trailer
	return r
}

// expect reads this text.
func (c *wire) expect(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(c.Reader, got)
	require.NoError(c.t, err, "read %q", got[:n])
	require.Equal(c.t, text, string(got))
}

// expectEnd reads to the end, which must be a FIN and not a RST, and returns
// what came before.
func (c *wire) expectEnd() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.Reader)
	require.NoError(c.t, err, "after %q", rest)
	return string(rest)
}

// expectClosed waits until the connection ends, whichever way.
func (c *wire) expectClosed() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.Reader)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded, "the connection stays open")
}

// expectClosedAfter waits until the connection ends, whichever way, and returns
// what came before.
func (c *wire) expectClosedAfter() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.Reader)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded, "the connection stays open")
	return string(rest)
}

// alive reports whether an echo through the tunnel comes back.
func (c *wire) alive() bool {
	c.t.Helper()
	if _, err := c.conn.Write([]byte("?")); err != nil {
		return false
	}
	answer, err := c.ReadByte()
	return err == nil && answer == '?'
}

// silent reports whether nothing comes for a moment. It is for what must not
// happen: too short a moment lets a test pass, never fail.
func (c *wire) silent() bool {
	c.t.Helper()
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err := c.Peek(1)
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(guard)))
	return err != nil
}

// closeWrite closes the half in which the test writes.
func (c *wire) closeWrite() {
	c.t.Helper()
	require.NoError(c.t, c.conn.CloseWrite())
}

// close closes the connection.
func (c *wire) close() { _ = c.conn.Close() }

// randomText returns this many bytes of hexadecimal digits.
func randomText(size int) string {
	raw := make([]byte, size/2+1)
	_, _ = rand.Read(raw) // never fails
	return hex.EncodeToString(raw)[:size]
}
