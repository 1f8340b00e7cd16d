// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// D1 and D2: where an answer begins before the request's body ends, the rest of
// that body is no request.
func TestBodyBehindAnEarlyAnswerIsNoRequest(t *testing.T) {
	origin := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		}
	})
	target := proxytest.NewPuppet(t, proxytest.Echo)
	body := proxytest.Connect("alice", target.Address)
	for name, lines := range map[string]string{
		"length": fmt.Sprintf("Content-Length: %d\r\n", len(body)), "chunks": "Transfer-Encoding: chunked\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := oneProxy(t, origin)
			c := w.Dial()
			res := w.Ask(c, http.MethodPost, "/", lines, "")
			require.Equal(t, "ok", res.Body)
			require.True(t, res.Response.Close, "the client is told that its connection ends")
			_, _ = io.WriteString(c.Conn, body)
			require.Empty(t, c.ExpectClosedAfter())
			require.Len(t, w.Logs.Lines("decided"), 1)
			require.Zero(t, target.Dials.Load())
		})
	}
}
