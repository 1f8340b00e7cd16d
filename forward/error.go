// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
)

// statuses are the answers to the errors of RFC 9209 §2.3 that occur here.
var statuses = map[string]int{
	"dns_error":                         http.StatusBadGateway,
	"dns_timeout":                       http.StatusGatewayTimeout,
	"destination_not_found":             http.StatusServiceUnavailable,
	"destination_unavailable":           http.StatusBadGateway,
	"destination_ip_prohibited":         http.StatusForbidden,
	"destination_ip_unroutable":         http.StatusBadGateway,
	"connection_refused":                http.StatusBadGateway,
	"connection_terminated":             http.StatusBadGateway,
	"connection_timeout":                http.StatusGatewayTimeout,
	"connection_limit_reached":          http.StatusServiceUnavailable,
	"tls_protocol_error":                http.StatusBadGateway,
	"http_request_error":                http.StatusBadRequest,
	"http_request_denied":               http.StatusForbidden,
	"http_upgrade_failed":               http.StatusBadGateway,
	"http_protocol_error":               http.StatusBadGateway,
	"http_response_header_section_size": http.StatusBadGateway,
	"http_response_timeout":             http.StatusGatewayTimeout,
	"proxy_loop_detected":               http.StatusBadGateway,
	"proxy_internal_error":              http.StatusInternalServerError,
	"proxy_internal_response":           http.StatusServiceUnavailable,
	"proxy_configuration_error":         http.StatusInternalServerError,
}

// refusal is an answer that the proxy gives itself.
type refusal struct {
	kind   string // of RFC 9209, a key of statuses
	status int    // 0: what kind says
	reason string // for the client: names the thing and the cure

	// private keeps the reason out of headers, which logs may show: it quotes
	// credentials.
	private bool

	// retryAfter is when the client may try again, if that is known.
	retryAfter time.Duration
}

func (e *refusal) Error() string { return e.reason }

// answer says how an error is told to a client.
func answer(err error) refusal {
	e := explain(err)
	if e.status == 0 {
		e.status = statuses[e.kind]
	}
	if e.status == 0 {
		e.status = http.StatusBadGateway
	}
	return e
}

// explain finds the words for an error. One that it does not know is not told
// in its own words, which may hold addresses.
func explain(err error) refusal {
	var (
		known  *refusal
		exit   *exitError
		remote *remoteError
	)
	switch {
	case errors.As(err, &known):
		return *known
	case errors.Is(err, destination.ErrMalformed):
		return refusal{kind: "http_request_error", reason: err.Error()}
	case errors.Is(err, destination.ErrProhibited):
		return refusal{kind: "destination_ip_prohibited", reason: err.Error()}
	case errors.As(err, &remote):
		status := 0
		if remote.kind == "http_request_denied" {
			status = http.StatusBadGateway // the exit's rules, not ours
		}
		return refusal{kind: remote.kind, status: status, reason: remote.detail}
	case errors.As(err, &exit):
		status := http.StatusBadGateway
		if exit.kind == "connection_timeout" || exit.kind == "http_response_timeout" {
			status = http.StatusGatewayTimeout
		}
		return refusal{kind: exit.kind, status: status, reason: "the exit failed: " + strings.ReplaceAll(exit.kind, "_", " ")}
	}
	kind := errorKind(err)
	return refusal{kind: kind, reason: "the destination failed: " + strings.ReplaceAll(kind, "_", " ")}
}

// refuse writes an answer of the proxy itself, with a Proxy-Status header (RFC
// 9209) and the reason as text.
func refuse(w http.ResponseWriter, e refusal) {
	header := w.Header()
	proxyStatus := "caddy; error=" + e.kind
	if !e.private {
		proxyStatus += "; details=" + quoteDetails(e.reason)
	}
	header.Set("Proxy-Status", proxyStatus)
	if e.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	body := e.reason + "\n"
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.status)
	_, _ = w.Write([]byte(body))
}

// quoteDetails makes a structured field's string of a text (RFC 8941 §3.3.3):
// ASCII, with quotes and backslashes escaped.
func quoteDetails(text string) string {
	quoted := make([]byte, 0, len(text)+2)
	quoted = append(quoted, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			quoted = append(quoted, '\\', byte(r))
		case r < ' ' || r > '~':
			quoted = append(quoted, '?')
		default:
			quoted = append(quoted, byte(r))
		}
	}
	return string(append(quoted, '"'))
}
