// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

// early returns the refusal of a request that was sent in early data, nil for all
// others. It is called before the credentials are read: a replay must not reach the
// destination a second time, and a wrong password from a forged address must not
// count against the owner of the address. The client repeats the request after the
// handshake (RFC 8470 §5.2).
func early(r *http.Request) error {
	if !source.InEarlyData(r) {
		return nil
	}
	return &proxystatus.Refusal{
		Kind: "http_request_denied", Status: http.StatusTooEarly,
		Reason: "the request was sent in early data, which can be replayed: send it again after the TLS handshake",
	}
}
