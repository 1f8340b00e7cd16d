// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import "net/http"

// Addressed is a Source whose ids may be made of the client's address.
type Addressed interface {
	Source

	// FromAddress reports whether the ids are made of the client's address. A
	// request in early data does not prove that address.
	FromAddress() bool
}

// FromAddress reports whether the ids of a source are made of the client's
// address.
func FromAddress(src Source) bool {
	addressed, ok := src.(Addressed)
	return ok && addressed.FromAddress()
}

// InEarlyData reports whether a request was sent in TLS early data (0-RTT), to
// this server or to one before it. Such a request can be a replay, and over QUIC
// its source address can be forged.
//
// Over HTTP/3, r.TLS is the state of the connection when the header was read. Over
// TCP the handshake is always complete by then. A proxy that forwards such a
// request adds the field Early-Data; a malformed value means the same as "1" (RFC
// 8470 §5.1).
func InEarlyData(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || len(r.Header["Early-Data"]) > 0
}

// AfterEarlyData reports whether an earlier request of the same connection may
// have been sent in early data. Only a resumed connection has early data, and
// Caddy accepts it over HTTP/3 only.
func AfterEarlyData(r *http.Request) bool {
	return r.TLS != nil && r.TLS.DidResume && r.TLS.NegotiatedProtocol == "h3"
}
