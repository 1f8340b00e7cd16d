// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-sticky/caddy-sticky/forward/message"
	"github.com/caddy-sticky/caddy-sticky/forward/stream"
)

// restOfBody is how long a client has to send the rest of a body after the final
// response was sent. net/http reads up to 256 KiB of it, so that the client can
// read the response before the connection is closed.
const restOfBody = 5 * time.Second

// finalWriter writes the response of the proxy over HTTP/1. With the final status
// it decides whether the connection can serve another request: only if the
// request's body was read to its end, and never after a CONNECT was refused.
// Otherwise bytes of a body, or bytes that a client sent into its tunnel before
// the response arrived, would be parsed as a request (RFC 9112 §6.3, §9.6, RFC
// 9110 §9.3.6).
//
// net/http alone cannot decide this. In full duplex mode, it reads the rest of a
// body after the response instead of before it. It then ignores a malformed chunk,
// and at the end of the body it starts a background read that the next request
// meets: net/http panics.
type finalWriter struct {
	http.ResponseWriter

	body    *message.Body // nil: the request has no body
	connect bool
	settled bool
	closes  bool
}

// newFinalWriter wraps the response of an HTTP/1 request, and the request's body.
func newFinalWriter(w http.ResponseWriter, r *http.Request) *finalWriter {
	return &finalWriter{ResponseWriter: w, body: message.Watch(r), connect: r.Method == http.MethodConnect}
}

// Unwrap implements the interface of http.ResponseController.
func (w *finalWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *finalWriter) WriteHeader(status int) {
	if status >= http.StatusOK {
		w.settle(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *finalWriter) Write(p []byte) (int, error) {
	w.settle(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// FlushError implements the interface of http.ResponseController: a flush sends
// the header.
func (w *finalWriter) FlushError() error {
	w.settle(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// settle decides, with the first final status, whether the connection is closed
// after the response.
func (w *finalWriter) settle(status int) {
	if w.settled {
		return
	}
	w.settled = true
	refused := w.connect && status/100 != 2 && status != http.StatusProxyAuthRequired
	if !refused && !w.body.HasUnread() {
		return
	}
	w.closes = true
	w.Header().Set("Connection", "close")
	if w.connect && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable) {
		// Many such requests come at once, and a connection that waits for its
		// client holds a descriptor.
		return
	}
	closeGracefully(w.ResponseWriter)
}

// closeGracefully makes the server send FIN after the response and wait for half
// a second before it closes the connection. If it closed at once, unread bytes
// would cause a RST, and a RST may destroy the response on its way.
//
// net/http offers this to http.MaxBytesReader only.
func closeGracefully(w http.ResponseWriter) {
	limited := http.MaxBytesReader(stream.Innermost(w), io.NopCloser(strings.NewReader("x")), 0)
	_, _ = limited.Read(make([]byte, 1))
}

// finish stops the reading of the body, and bounds how long the server waits for the
// rest of it. It is called when the handler returns: until then an upload may go on.
func (w *finalWriter) finish() {
	if !w.closes {
		return
	}
	server := http.NewResponseController(stream.Innermost(w.ResponseWriter))
	rest := http.NewResponseController(w.ResponseWriter)
	if w.body.Stop(func() error { return server.SetReadDeadline(time.Unix(1, 0)) }) {
		// The Read that was interrupted ended with an error. Caddy would remove
		// a deadline now that it knows of.
		rest = server
	}
	_ = rest.SetReadDeadline(time.Now().Add(restOfBody))
}
