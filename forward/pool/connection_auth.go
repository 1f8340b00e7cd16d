// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"io"
	"net/http"
	"strings"
)

// AuthenticatesConnection reports whether one of the values of Authorization or
// WWW-Authenticate has a scheme that authenticates a connection instead of a
// request: NTLM and Negotiate (RFC 4559 §6). Any other client that uses such a
// connection would be taken for the one that logged in.
func AuthenticatesConnection(values []string) bool {
	for _, value := range values {
		// One field may list several challenges.
		for challenge := range strings.SplitSeq(value, ",") {
			scheme := strings.TrimSpace(challenge)
			if end := strings.IndexAny(scheme, " \t"); end >= 0 {
				scheme = scheme[:end]
			}
			if strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate") {
				return true
			}
		}
	}
	return false
}

// Spend lets no further request use the connection of a response, and closes it
// behind the response.
func Spend(res *http.Response, conn *Conn) {
	conn.spent.Store(true)
	res.Body = &lastBody{res.Body, conn}
}

// lastBody is the body of the last response on a connection.
type lastBody struct {
	io.ReadCloser
	conn *Conn
}

// Close implements io.Closer.
func (b *lastBody) Close() error {
	err := b.ReadCloser.Close()
	_ = b.conn.Close()
	return err
}
