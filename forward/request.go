// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// clientKey is where a request that is forwarded finds its client.
type clientKey struct{}

// newTransport is the client of one exit. Its connections are shared by the
// exit's sessions and by nobody else.
func newTransport(dialTimeout time.Duration) *http.Transport {
	return &http.Transport{
		// Nothing is asked of the environment (HTTP_PROXY), and nothing is
		// changed on the way (compression).
		DisableCompression:     true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        30 * time.Second,
		TLSHandshakeTimeout:    dialTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
}

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
		return &refusal{
			kind:   "http_request_error",
			reason: fmt.Sprintf("a proxy request for %s:// goes through CONNECT", clip(r.URL.Scheme)),
		}
	}
	if r.URL.User != nil {
		return &refusal{kind: "http_request_error", reason: "user information in a URL is not forwarded (RFC 9110 §4.2.4)"}
	}
	d, err := parseDestination(withPort(r.URL))
	if err != nil {
		return err
	}
	if err := cmp.Or(h.rules.check(d), c.verified.check(d)); err != nil {
		return err
	}
	// The response is the origin's, who says itself what it is.
	w.Header().Del("Server")
	// Else the server would take 256 KiB of an upload for itself when an answer
	// begins before the upload ends (HTTP/1; others are always full duplex).
	_ = http.NewResponseController(w).EnableFullDuplex()
	c.nominated = nominated(r.Header)
	h.forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), clientKey{}, c)))
	return nil
}

// withPort is where a URL of http leads to.
func withPort(u *url.URL) string {
	if u.Port() == "" {
		return strings.TrimSuffix(u.Host, ":") + ":80"
	}
	return u.Host
}

func clip(s string) string { return s[:min(len(s), 32)] }

// checkLoop refuses a request that came through this proxy before.
func (h *Handler) checkLoop(r *http.Request) error {
	for _, line := range r.Header["Via"] {
		for entry := range strings.SplitSeq(line, ",") {
			// received-protocol, received-by, perhaps a comment
			if fields := strings.Fields(entry); len(fields) > 1 && fields[1] == h.pseudonym {
				return &refusal{kind: "proxy_loop_detected", reason: "this request came through this proxy before"}
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
	r.Out.Host = r.Out.URL.Host // RFC 9112 §3.2.2: whatever the Host header says
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
		if c.upload != nil && !c.upload.ended.Load() && res.StatusCode != http.StatusSwitchingProtocols {
			// The server that is full duplex would read the rest of the body as
			// the next request (HTTP/1; others have no such header).
			res.Header.Set("Connection", "close")
		}
	}
	return nil
}

// rotating sends a request through the exit of its session, and through another
// one where that fails and the request can be sent again.
type rotating struct{}

// RoundTrip implements http.RoundTripper.
func (rotating) RoundTrip(r *http.Request) (*http.Response, error) {
	c, ok := r.Context().Value(clientKey{}).(*client)
	if !ok {
		return nil, errors.New("request has no client")
	}
	body := &watchedBody{ReadCloser: r.Body, trailer: r.Trailer, names: c.nominated}
	dropTrailers(r.Trailer, c.nominated)
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context())
		r.Body = body
		c.upload = body
	}
	var res *http.Response
	err := c.attempt(r.Context(), func(ctx context.Context, t *target) (err error) {
		res, err = t.roundTrip(c.verified.client(t), t.apart(ctx, r))
		if err != nil && body.broken.Load() {
			return &refusal{kind: "http_request_error", reason: "the request's body is malformed or incomplete"}
		}
		if failure, ok := errors.AsType[*exitError](err); ok && body.read.Load() {
			// What was sent cannot be sent again.
			return &refusal{kind: failure.kind, status: http.StatusBadGateway, reason: "the exit failed while it took the request"}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	withoutHopTrailers(res)
	return res, nil
}

// watchedBody knows whether anything of it was read, and stays open for another
// attempt until then: the server closes it in the end.
type watchedBody struct {
	io.ReadCloser
	read   atomic.Bool
	ended  atomic.Bool
	broken atomic.Bool // reading it failed: what the client sent is at fault

	trailer http.Header // which the server fills in when the body ends
	names   []string    // that go no further
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
		dropTrailers(b.trailer, b.names)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, http.ErrBodyReadAfterClose) {
		b.broken.Store(true)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	if !b.read.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}
