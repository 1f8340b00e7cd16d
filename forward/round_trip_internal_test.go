// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/forward/pool"
)

// net/http repeats a GET by itself if a kept connection was closed. Where no new
// connection can be made, nothing was sent to the exit.
func TestConnectionThatNetHTTPGaveUpDoesNotCount(t *testing.T) {
	client, server := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer server.Close()
		reader := bufio.NewReader(server)
		if _, err := http.ReadRequest(reader); err == nil {
			_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
		_, _ = http.ReadRequest(reader) // and closes instead of an answer
	}()
	dials := 0
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		if dials++; dials > 1 {
			return nil, syscall.ECONNREFUSED
		}
		return &pool.Conn{Conn: client}, nil
	}}
	t.Cleanup(transport.CloseIdleConnections)
	var states [2]sending
	for i := range states {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop.example/", http.NoBody)
		require.NoError(t, err)
		res, err := transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(t.Context(), states[i].trace())))
		if i == 1 {
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			break
		}
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
	}
	<-served
	require.Equal(t, 2, dials)
	require.True(t, states[0].given)
	require.True(t, states[0].fresh)
	require.False(t, states[1].given)
	require.Nil(t, states[1].conn)
}
