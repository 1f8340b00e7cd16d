// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package message is about what of a request or a response travels on: the target,
// the body and the trailer.
package message

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

// Target is where a request in absolute form leads (RFC 9112 §3.2.2).
type Target struct {
	// Destination is the host and port, as they are checked and dialled.
	Destination destination.Destination

	// Authority is the destination in the form of a Host header: without port 80.
	Authority string

	// raw is the path and the query, byte for byte as the client sent them. A
	// proxy must not change them (RFC 9110 §7.7), and net/url does: it escapes
	// some bytes of a path, and ReverseProxy removes what it cannot parse from a
	// query. It is empty or begins with a slash or a question mark.
	raw string
}

// TargetOf reads the target of a request in absolute form.
func TargetOf(r *http.Request) (Target, error) {
	d, err := destination.Parse(destination.WithPort(r.URL))
	if err != nil {
		return Target{}, err
	}
	raw := r.RequestURI
	if _, rest, absolute := strings.Cut(raw, "://"); absolute && !strings.HasPrefix(raw, "/") {
		raw = rest[min(strings.IndexAny(rest+"/", "/?"), len(rest)):]
	}
	for i := range len(raw) {
		// Written as it is, such a byte would end the request line.
		if raw[i] <= ' ' || raw[i] == 0x7F {
			return Target{}, &proxystatus.Refusal{Kind: "http_request_error", Reason: "the URL has a space or a control character: write it percent-encoded"}
		}
	}
	if raw != "" && raw[0] != '/' && raw[0] != '?' {
		return Target{}, &proxystatus.Refusal{Kind: "http_request_error", Reason: "the URL has no path that begins with a slash"}
	}
	return Target{Destination: d, Authority: authorityOf(d), raw: raw}, nil
}

// authorityOf returns the destination of an http URL as a Host header has it.
func authorityOf(d destination.Destination) string {
	if d.Port != 80 {
		return d.String()
	}
	return strings.TrimSuffix(d.String(), ":"+strconv.Itoa(80))
}

// ToOrigin returns a URL that net/http writes in origin-form, with the bytes of
// the client (RFC 9112 §3.2.1).
func (t *Target) ToOrigin(method string) *url.URL {
	u := &url.URL{Scheme: "http", Host: t.Authority}
	switch {
	case t.raw == "" && method == http.MethodOptions:
		u.Opaque = "*" // RFC 9112 §3.2.4
	case strings.HasPrefix(t.raw, "//"):
		// net/http would write such an Opaque as http://…: another authority.
		parsed, err := url.ParseRequestURI(t.raw)
		path, _, _ := strings.Cut(t.raw, "?")
		if err != nil || parsed.EscapedPath() != path {
			// Each server must accept the absolute form (RFC 9112 §3.2.2).
			return t.ToProxy(method)
		}
		u.Path, u.RawPath = parsed.Path, parsed.RawPath
		u.RawQuery, u.ForceQuery = parsed.RawQuery, parsed.ForceQuery
	default:
		u.Opaque = withSlash(t.raw)
	}
	return u
}

// ToProxy returns a URL that net/http writes in absolute form, with the bytes of
// the client. From OPTIONS without a path the last proxy makes the form of
// RFC 9112 §3.2.4.
func (t *Target) ToProxy(method string) *url.URL {
	u := &url.URL{Scheme: "http", Host: t.Authority, Opaque: "http://" + t.Authority}
	if t.raw != "" || method != http.MethodOptions {
		u.Opaque += withSlash(t.raw)
	}
	return u
}

// withSlash adds the path that an empty one stands for (RFC 9110 §4.2.3).
func withSlash(raw string) string {
	if strings.HasPrefix(raw, "/") {
		return raw
	}
	return "/" + raw
}
