// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/forward/message"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

// clientKey is where a request that is forwarded finds its client.
type clientKey struct{}

// pseudonym names a proxy of this process in Via headers (RFC 9110 §7.6.3), so
// that a request that comes back is noticed, and one that comes from another
// such proxy passes, be it in the same process.
func pseudonym(scope string) string {
	digest := sha256.Sum256(append(processSecret[:], scope...))
	return "caddy-" + hex.EncodeToString(digest[:4])
}

var processSecret = func() (secret [16]byte) {
	_, _ = rand.Read(secret[:]) // never fails
	return secret
}()

// forwardRequest serves a request in absolute form (RFC 9112 §3.2.2).
func (h *Handler) forwardRequest(w http.ResponseWriter, r *http.Request, c *client) error {
	if r.URL.Scheme != "http" {
		return &proxystatus.Refusal{
			Kind:   "http_request_error",
			Reason: fmt.Sprintf("a proxy request for %s:// goes through CONNECT", clip(r.URL.Scheme)),
		}
	}
	if r.URL.User != nil {
		return &proxystatus.Refusal{Kind: "http_request_error", Reason: "user information in a URL is not forwarded (RFC 9110 §4.2.4)"}
	}
	target, err := message.TargetOf(r)
	if err != nil {
		return err
	}
	if err := cmp.Or(h.rules.Check(target.Destination), c.verified.Check(target.Destination)); err != nil {
		return err
	}
	c.wanted, c.nominated = target, message.Nominated(r.Header)
	// The response is the origin's, which may send a Server field of its own.
	w.Header().Del("Server")
	if body, ok := r.Body.(*message.Body); ok {
		body.DropAtEnd(r.Trailer, c.nominated)
		c.body = body
		// Otherwise the server reads 256 KiB of an upload itself when the response
		// begins before the upload ends. finalWriter says when the connection
		// must be closed then.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	h.forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), clientKey{}, c)))
	return nil
}

func clip(s string) string { return s[:min(len(s), 32)] }

// checkLoop refuses a request that came through this proxy before.
func (h *Handler) checkLoop(r *http.Request) error {
	for _, line := range r.Header["Via"] {
		for entry := range strings.SplitSeq(line, ",") {
			// received-protocol, received-by, perhaps a comment
			if fields := strings.Fields(entry); len(fields) > 1 && fields[1] == h.pseudonym {
				return &proxystatus.Refusal{Kind: "proxy_loop_detected", Reason: "this request came through this proxy before"}
			}
		}
	}
	return nil
}

// newForwarder makes what forwards requests: the standard library's proxy,
// which knows hop-by-hop headers, trailers, upgrades and 1xx.
func (h *Handler) newForwarder() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        h.rewrite,
		Transport:      rotating{},
		ModifyResponse: h.modifyResponse,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			h.refuse(w, r, err)
		},
		ErrorLog: log.New(&debugWriter{h.logger}, "", 0),
		// What an origin sends is passed on as it comes.
		FlushInterval: -1,
		BufferPool:    bufferPool{},
	}
}

// bufferPool keeps the buffers that bodies are copied with.
type bufferPool struct{}

var bodyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Get implements httputil.BufferPool.
func (bufferPool) Get() []byte { return bodyBuffers.Get().(*[32 << 10]byte)[:] }

// Put implements httputil.BufferPool.
func (bufferPool) Put(b []byte) { bodyBuffers.Put((*[32 << 10]byte)(b)) }

// debugWriter takes the standard library's log lines: they are about peers that
// went away.
type debugWriter struct{ logger *zap.Logger }

func (d *debugWriter) Write(line []byte) (int, error) {
	if c := d.logger.Check(zap.DebugLevel, "forwarding"); c != nil {
		c.Write(zap.String("note", strings.TrimSpace(string(line))))
	}
	return len(line), nil
}

// rewrite makes the request to be sent out of the one that came.
func (h *Handler) rewrite(r *httputil.ProxyRequest) {
	// ReverseProxy takes these off because a client could forge them; a forward
	// proxy is not meant to know what they mean.
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = values
		}
	}
	// The server fills in the values of trailers when the body ends, in its own
	// map; a copy would never see them.
	r.Out.Trailer = r.In.Trailer
	if r.In.ContentLength != 0 || !r.In.ProtoAtLeast(1, 1) {
		// A transport that still sends the body would read the first bytes of
		// what the connection is upgraded to. HTTP/1.0 has no Upgrade (RFC 9110
		// §7.8).
		r.Out.Header.Del("Connection")
		r.Out.Header.Del("Upgrade")
	}
	r.Out.Header.Del("Proxy-Authorization")
	r.Out.Header.Del("Proxy-Connection")
	if name := h.grammar.Header(); name != "" {
		r.Out.Header.Del(name)
	}
	if h.Via == "on" {
		r.Out.Header["Via"] = append(slices.Clip(r.Out.Header["Via"]),
			fmt.Sprintf("%d.%d %s", r.In.ProtoMajor, r.In.ProtoMinor, h.pseudonym))
	}
}

func (h *Handler) modifyResponse(res *http.Response) error {
	if h.Via == "on" {
		res.Header.Add("Via", fmt.Sprintf("%d.%d %s", res.ProtoMajor, res.ProtoMinor, h.pseudonym))
	}
	if c, ok := res.Request.Context().Value(clientKey{}).(*client); ok {
		c.tell(res.Header)
	}
	return nil
}
