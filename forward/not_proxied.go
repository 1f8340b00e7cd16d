// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"io"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

// serveNotProxied passes a request that is not for the proxy to the next handler.
// If no handler answers, the response is 404. Caddy would send an empty 200, which
// looks as if the proxy had done something.
func (*Handler) serveNotProxied(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	noted := &answerWriter{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	if err := next.ServeHTTP(noted, r); err != nil || noted.answered {
		return err
	}
	proxystatus.Write(w, proxystatus.Refusal{Kind: "http_request_error", Status: http.StatusNotFound, Reason: "not a proxy request"})
	return nil
}

// answerWriter notes whether a handler has begun a final response. All methods
// that send a header are here: http.ResponseController would find those of the
// underlying writer otherwise.
type answerWriter struct {
	caddyhttp.ResponseWriterWrapper
	answered bool
}

// WriteHeader implements http.ResponseWriter. After an informational response a
// final one follows, except after a 101.
func (w *answerWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.answered = true
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *answerWriter) Write(p []byte) (int, error) {
	w.answered = true
	return w.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom. An empty reader is an answer as well: its
// handler wants to send an empty body.
func (w *answerWriter) ReadFrom(r io.Reader) (int64, error) {
	w.answered = true
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError is what http.ResponseController calls to send the header.
func (w *answerWriter) FlushError() error {
	w.answered = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *answerWriter) Flush() { _ = w.FlushError() }

// Hijack implements http.Hijacker. The connection belongs to the handler then.
func (w *answerWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.answered = true
	}
	return conn, rw, err
}

// Interface guards
var (
	_ http.Flusher  = (*answerWriter)(nil)
	_ http.Hijacker = (*answerWriter)(nil)
	_ http.Pusher   = (*answerWriter)(nil)
	_ io.ReaderFrom = (*answerWriter)(nil)
)
