// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// An HTTP/1 server takes some of an upload for itself when its answer begins,
// unless it is told that both go on.
func TestUploadSurvivesAnAnswerThatBeginsEarly(t *testing.T) {
	type upload struct {
		text string
		err  error
	}
	uploads := make(chan upload, 1)
	w := oneProxy(t, proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		var got strings.Builder
		_, err := io.CopyN(&got, r.Body, 8)
		if err == nil {
			_, _ = io.WriteString(w, "early")
			_ = http.NewResponseController(w).Flush()
			_, err = io.Copy(&got, r.Body)
		}
		uploads <- upload{got.String(), err}
	}))
	var text strings.Builder
	for i := 0; text.Len() < 4<<20; i++ {
		fmt.Fprintf(&text, "%08d", i)
	}
	for range 5 {
		// A pipe has no length: the upload is chunked.
		reader, writer := io.Pipe()
		go func() {
			_, err := io.WriteString(writer, text.String())
			_ = writer.CloseWithError(err)
		}()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.Origin+"/", reader)
		require.NoError(t, err)
		res, err := w.Client("alice").Do(r)
		require.NoError(t, err)
		got := <-uploads
		require.NoError(t, got.err)
		require.True(t, got.text == text.String(), "another upload arrived")
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
}

// RFC 9110 §6.5.
func TestRequestTrailersArriveWithTheirValues(t *testing.T) {
	trailers := make(chan http.Header, 1)
	w := oneProxy(t, proxytest.OriginOf(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		trailers <- r.Trailer
	}))
	c := w.Dial()
	c.Send("POST http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") +
		"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: here\r\n\r\n")
	require.Equal(t, http.StatusOK, c.Answer(http.MethodPost).Status)
	require.Equal(t, http.Header{"X-Sum": {"here"}}, <-trailers)
}

// D2, RFC 9112 §7.1.
func TestBadChunkingIsTheClientsFault(t *testing.T) {
	w := oneProxy(t, proxytest.OriginOf(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	c := w.Dial()
	c.Send("POST http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") +
		"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n")
	require.Equal(t, http.StatusBadRequest, c.Answer(http.MethodPost).Status)
}

func TestForwardedRequestDialsNoLongerThanTheDialTimeout(t *testing.T) {
	exit := proxytest.NewPuppet(t, proxytest.Hang)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit socks5://"+exit.Address, "dial_timeout 300ms")
	require.Equal(t, http.StatusGatewayTimeout, w.Forwarded("alice-session-abc").Status)
}

// C5: another server of the process is a legal exit. The inner proxy is its own exit by
// way of a mapped port: at load that is another address.
func TestTunnelThatLeadsToItselfIsNoticed(t *testing.T) {
	port := fmt.Sprint(peer.Port(t))
	exit := "exit http://alice:secret@127.0.0.1:" + port
	mapped := proxytest.ServerOf(t, func(client *net.TCPConn) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return
		}
		defer conn.Close()
		go func() {
			_, _ = io.Copy(conn, client)
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(client, conn)
	})
	w := proxytest.NewWorldWith(t, "", proxytest.Site{
		Block: proxytest.Alice + proxytest.Loopback + exit,
		Sites: ":" + port + " {\n bind 127.0.0.1\n sticky_proxy inner {\n" + proxytest.Alice + proxytest.Loopback + "exit http://alice:secret@" + mapped + "\n}\n}",
	})
	require.Equal(t, http.StatusBadGateway, w.Connect("alice", "127.0.0.1:9").Status)
	require.Len(t, w.Logs.Lines("decided"), 2, "one of the outer proxy, one of the inner one")
}

// An origin that answers without reading the body must not be asked to close the
// connection: net/http's server, for one, resets it then, and the RST may overtake
// the answer.
func TestAnswerToABodyThatTheOriginDoesNotReadArrives(t *testing.T) {
	closes := make(chan bool, 200)
	origin := proxytest.OriginOf(t, func(_ http.ResponseWriter, r *http.Request) { closes <- r.Close })
	w := oneProxy(t, origin)
	for range 100 {
		c := w.Dial()
		c.Send(post(origin, framing{lines: "Content-Length: 100000\r\n", body: strings.Repeat("x", 100_000)}))
		require.Equal(t, http.StatusOK, c.Answer(http.MethodPost).Status)
		require.False(t, <-closes)
		c.Close()
	}
}
