// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// newSite starts a site with a proxy and these lines, and returns its address.
func newSite(t *testing.T, lines string) (w *proxytest.World, address string) {
	t.Helper()
	port := peer.Port(t)
	w = proxytest.NewWorldWith(t, "", proxytest.Site{
		Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback,
		Sites: fmt.Sprintf(":%d {\nbind 127.0.0.1\nsticky_proxy second {\n%s\n}\n%s\n}", port, proxytest.Alice+proxytest.OneExit+proxytest.Loopback, lines),
	})
	return w, fmt.Sprintf("127.0.0.1:%d", port)
}

func requireNotProxied(t *testing.T, res proxytest.Reply) {
	t.Helper()
	require.Equal(t, http.StatusNotFound, res.Status)
	require.Equal(t, `caddy; error=http_request_error; details="not a proxy request"`, res.Header.Get("Proxy-Status"))
	require.Empty(t, res.Header.Get("Proxy-Authenticate"))
}

// C9: no request of the site looks as if the proxy had served it.
func TestOriginFormRequestIs404IfNoHandlerAnswers(t *testing.T) {
	for name, lines := range map[string]string{
		"nothing behind":             "",
		"a handler that sets fields": "header X-Site here",
		"a handler that encodes":     "encode gzip",
		"an access log":              "log",
		"a route for other paths":    "respond /other here",
	} {
		t.Run(name, func(t *testing.T) {
			w, address := newSite(t, lines)
			c := proxytest.Dial(t, address)
			for _, request := range []struct{ method, text string }{
				{http.MethodGet, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
				{http.MethodGet, "GET / HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n"},
				{http.MethodHead, "HEAD / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"},
				{http.MethodOptions, "OPTIONS /a HTTP/1.1\r\nHost: x\r\n\r\n"},
				{http.MethodPost, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"},
				{http.MethodGet, "GET / HTTP/1.0\r\n\r\n"},
			} {
				c.Send(request.text)
				res := c.Answer(request.method)
				requireNotProxied(t, res)
				if request.method != http.MethodHead {
					require.Equal(t, "not a proxy request\n", res.Body)
				}
			}
			for _, line := range w.Logs.Lines("") {
				require.NotContains(t, line.Text("msg"), "superfluous response.WriteHeader")
			}
		})
	}
}

// The same over HTTP/2 and HTTP/3.
func TestStreamIs404IfNoHandlerAnswers(t *testing.T) {
	for name, client := range streams {
		t.Run(name, func(t *testing.T) {
			option, config := proxytest.Certificate(t)
			_, address := newSite(t, option)
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
				r, err := http.NewRequestWithContext(t.Context(), method, "https://"+address+"/", http.NoBody)
				require.NoError(t, err)
				res, err := client(t, config).RoundTrip(r)
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				_ = res.Body.Close()
				requireNotProxied(t, proxytest.Reply{Status: res.StatusCode, Header: res.Header, Body: string(body)})
			}
		})
	}
}

// C9: the next handler comes first, whatever its answer is.
func TestAnswerOfTheNextHandlerIsUnchanged(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "empty"), nil, 0o600))
	origin := proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Path", r.URL.Path)
	})
	_, address := newSite(t, fmt.Sprintf(`
		respond /text "here"
		respond /empty-200 200
		respond /none 204
		error /teapot 418
		redir /away /text
		root * %s
		handle /empty {
			file_server
		}
		reverse_proxy /upstream %s
	`, root, origin))
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/text":      {http.StatusOK, "here"},
		"/empty-200": {http.StatusOK, ""},
		"/none":      {http.StatusNoContent, ""},
		"/teapot":    {http.StatusTeapot, ""},
		"/away":      {http.StatusFound, ""},
		"/empty":     {http.StatusOK, ""},
		"/upstream":  {http.StatusOK, ""},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			c := proxytest.Dial(t, address)
			c.Send(method + " " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
			res := c.Answer(method)
			require.Equal(t, want.status, res.Status, "%s %s", method, path)
			require.Empty(t, res.Header.Get("Proxy-Status"), "%s %s", method, path)
			if method == http.MethodGet {
				require.Equal(t, want.body, res.Body, path)
			}
		}
	}
}

func TestWebSocketOfTheSiteIsUpgradedByTheNextHandler(t *testing.T) {
	origin := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		reader := bufio.NewReader(conn)
		if _, err := http.ReadRequest(reader); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
			_, _ = io.Copy(conn, reader)
		}
	})
	_, address := newSite(t, "reverse_proxy "+origin)
	c := proxytest.Dial(t, address)
	c.Send("GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	require.Equal(t, http.StatusSwitchingProtocols, c.Answer(http.MethodGet).Status)
	c.Expect("hello")
	c.Send("and back")
	c.Expect("and back")
	c.CloseWrite()
	c.ExpectClosed()
}

func TestStreamingAnswerOfTheNextHandlerIsFlushed(t *testing.T) {
	more := make(chan struct{})
	origin := proxytest.OriginOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "one")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "two")
	})
	_, address := newSite(t, "reverse_proxy "+origin+" {\nflush_interval -1\n}")
	c := proxytest.Dial(t, address)
	c.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, http.StatusEarlyHints, c.Answer(http.MethodGet).Status)
	res, err := http.ReadResponse(c.Reader, nil)
	require.NoError(t, err)
	defer res.Body.Close()
	first := make([]byte, 3)
	_, err = io.ReadFull(res.Body, first)
	require.NoError(t, err)
	close(more)
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "onetwo", string(first)+string(rest))
}
