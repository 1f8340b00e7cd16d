// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

// before is a server with a handler behind a proxy.
func before(t *testing.T, next caddyhttp.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = new(Handler).serveNotProxied(w, r, next)
	}))
	t.Cleanup(server.Close)
	return server
}

func TestAnyBeginningOfAResponseIsAnAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		next   func(w http.ResponseWriter)
		status int
	}{
		"nothing":     {func(http.ResponseWriter) {}, 404},
		"fields":      {func(w http.ResponseWriter) { w.Header().Set("X-Site", "here") }, 404},
		"early hints": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints) }, 404},
		"a deadline": {func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Hour))
		}, 404},
		"a status": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) }, 202},
		"a body":   {func(w http.ResponseWriter) { _, _ = w.Write([]byte("hello")) }, 200},
		"no bytes": {func(w http.ResponseWriter) { _, _ = w.Write(nil) }, 200},
		"an empty copy": {func(w http.ResponseWriter) {
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader(""))
		}, 200},
		"a flush":         {func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }, 200},
		"a flush by type": {func(w http.ResponseWriter) { w.(http.Flusher).Flush() }, 200},
		"hijacked": {func(w http.ResponseWriter) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 299 Own\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				_ = conn.Close()
			}
		}, 299},
		"hijacked by type": {func(w http.ResponseWriter) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 299 Own\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				_ = conn.Close()
			}
		}, 299},
		"a push that HTTP/1 has not": {func(w http.ResponseWriter) { _ = w.(http.Pusher).Push("/x", nil) }, 404},
	} {
		t.Run(name, func(t *testing.T) {
			server := before(t, func(w http.ResponseWriter, _ *http.Request) error {
				c.next(w)
				return nil
			})
			res, err := server.Client().Get(server.URL)
			require.NoError(t, err)
			defer res.Body.Close()
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
			require.Equal(t, c.status, res.StatusCode)
			require.Equal(t, c.status == http.StatusNotFound, res.Header.Get("Proxy-Status") != "")
		})
	}
}

func TestErrorOfTheNextHandlerIsReturned(t *testing.T) {
	w := httptest.NewRecorder()
	err := new(Handler).serveNotProxied(w, httptest.NewRequest(http.MethodGet, "/", nil), caddyhttp.HandlerFunc(
		func(http.ResponseWriter, *http.Request) error { return io.ErrUnexpectedEOF }))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Empty(t, w.Header())
}

func TestFullDuplexAndTheWriterBelowAreReached(t *testing.T) {
	server := before(t, func(w http.ResponseWriter, r *http.Request) error {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			return err
		}
		if _, ok := w.(*answerWriter).Unwrap().(http.CloseNotifier); !ok { //nolint:staticcheck // net/http's own writer has it
			return io.ErrUnexpectedEOF
		}
		_, err := io.Copy(w, r.Body)
		return err
	})
	res, err := server.Client().Post(server.URL, "text/plain", strings.NewReader("hello"))
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "hello", string(body))
}

// The site's own requests pay one small allocation.
func TestRequestOfTheSiteCostsOneAllocation(t *testing.T) {
	var (
		h    Handler
		w    = httptest.NewRecorder()
		r    = httptest.NewRequest(http.MethodGet, "/", nil)
		next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusOK)
			return nil
		})
	)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { _ = h.serveNotProxied(w, r, next) }), 1.0)
}

// BenchmarkRequestOfTheSite is a request that the next handler answers, with a proxy
// before it and without.
func BenchmarkRequestOfTheSite(b *testing.B) {
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := w.Write([]byte("hello"))
		return err
	})
	for name, serve := range map[string]http.HandlerFunc{
		"proxy":   func(w http.ResponseWriter, r *http.Request) { _ = new(Handler).serveNotProxied(w, r, next) },
		"minimal": func(w http.ResponseWriter, r *http.Request) { _ = next(w, r) },
	} {
		b.Run(name, func(b *testing.B) {
			server := httptest.NewServer(serve)
			defer server.Close()
			b.ReportAllocs()
			for b.Loop() {
				res, err := server.Client().Get(server.URL)
				require.NoError(b, err)
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		})
	}
}
