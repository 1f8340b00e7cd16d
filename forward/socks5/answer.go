// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package socks5

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
)

// socksCodes are the replies to errors of RFC 9209 §2.3. Others follow from the
// status.
var socksCodes = map[string]byte{
	"dns_error":                 socksUnreachable,
	"dns_timeout":               socksUnreachable,
	"destination_unavailable":   socksUnreachable,
	"destination_not_found":     socksFailure,
	"destination_ip_prohibited": socksNotAllowed,
	"destination_ip_unroutable": socksNetUnreachable,
	"connection_refused":        socksRefused,
	"connection_timeout":        socksTTLExpired,
	"connection_limit_reached":  socksFailure,
	"connection_terminated":     socksFailure,
	"http_request_denied":       socksNotAllowed,
	"proxy_loop_detected":       socksFailure,
}

// socksCode says in a SOCKS5 reply what the head of an answer to a CONNECT says.
// One with a body of its own is none of a tunnel (RFC 9110 §9.3.6): some other
// handler gave it.
func socksCode(head []byte) byte {
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return socksFailure
	}
	_ = res.Body.Close()
	if res.StatusCode/100 == 2 {
		if res.Header.Get("Content-Length") != "" || len(res.TransferEncoding) > 0 {
			return socksFailure
		}
		return socksSucceeded
	}
	if code, ok := socksCodes[proxyError(res.Header)]; ok {
		return code
	}
	switch res.StatusCode {
	case http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusTooManyRequests:
		return socksNotAllowed
	case http.StatusBadGateway:
		return socksUnreachable
	case http.StatusGatewayTimeout:
		return socksTTLExpired
	}
	return socksFailure
}

// proxyError returns the error of our own Proxy-Status (RFC 9209 §2.1.1), which
// is the last one.
func proxyError(header http.Header) string {
	_, after, _ := strings.Cut(header.Get("Proxy-Status"), "; error=")
	kind, _, _ := strings.Cut(after, ";")
	return kind
}

// interim reports whether the head is that of a 1xx, which another one follows.
func interim(head []byte) bool {
	return bytes.HasPrefix(head, []byte("HTTP/1.1 1")) && !bytes.HasPrefix(head, []byte("HTTP/1.1 101"))
}
