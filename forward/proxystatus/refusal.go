// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxystatus

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

// Refusal is an answer that the proxy gives itself.
type Refusal struct { //nolint:errname // it is an answer first
	Kind   string // of RFC 9209 §2.3
	Status int    // 0: that of the kind in statuses, or 502
	Reason string // for the client: names the thing and the cure

	// Private keeps the reason out of headers, which logs may show: it quotes
	// credentials.
	Private bool

	// RetryAfter is when the client may try again, if that is known.
	RetryAfter time.Duration
}

func (e *Refusal) Error() string { return e.Reason }

// Answer says how an error is told to a client.
func Answer(err error) Refusal {
	e := explain(err)
	if e.Status == 0 {
		e.Status = statuses[e.Kind]
	}
	if e.Status == 0 {
		e.Status = http.StatusBadGateway
	}
	return e
}

// explain finds the words for an error. One that it does not know is not told
// in its own words, which may hold addresses.
func explain(err error) Refusal {
	var (
		known  *Refusal
		exit   *ExitError
		remote *RemoteError
	)
	switch {
	case errors.As(err, &known):
		return *known
	case errors.Is(err, destination.ErrMalformed):
		return Refusal{Kind: "http_request_error", Reason: err.Error()}
	case errors.Is(err, destination.ErrProhibited):
		return Refusal{Kind: "destination_ip_prohibited", Reason: err.Error()}
	case errors.As(err, &remote):
		status := 0
		if remote.Kind == "http_request_denied" {
			status = http.StatusBadGateway // the exit's rules, not ours
		}
		return Refusal{Kind: remote.Kind, Status: status, Reason: remote.Detail}
	case errors.As(err, &exit):
		status := http.StatusBadGateway
		if exit.Kind == "connection_timeout" || exit.Kind == "http_response_timeout" {
			status = http.StatusGatewayTimeout
		}
		return Refusal{Kind: exit.Kind, Status: status, Reason: "the exit failed: " + strings.ReplaceAll(exit.Kind, "_", " ")}
	}
	kind := KindOf(err)
	return Refusal{Kind: kind, Reason: "the destination failed: " + strings.ReplaceAll(kind, "_", " ")}
}

// Write writes an answer of the proxy itself, with a Proxy-Status header (RFC
// 9209) and the reason as text.
func Write(w http.ResponseWriter, e Refusal) {
	header := w.Header()
	proxyStatus := "caddy; error=" + e.Kind
	if !e.Private {
		proxyStatus += "; details=" + quoteDetails(e.Reason)
	}
	header.Set("Proxy-Status", proxyStatus)
	if e.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	body := e.Reason + "\n"
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
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
