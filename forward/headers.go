// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"net/http"
	"time"
)

// Headers of session_headers.
const (
	exitHeader    = "X-Exit"
	expiresHeader = "X-Session-Expires"
)

// tell notes in an answer's header where its request left, and when its session
// ends. What an origin says under these names is not passed on: it would be
// taken for ours.
func (c *client) tell(header http.Header) {
	if !c.handler.SessionHeaders {
		return
	}
	header.Set(exitHeader, c.decision.Target.String())
	header.Del(expiresHeader)
	if session := c.decision.Session; !c.key.IsZero() && !session.Expires.IsZero() {
		header.Set(expiresHeader, session.Expires.UTC().Format(time.RFC3339))
	}
}

const established = "HTTP/1.1 200 Connection established\r\n"

var plainlyEstablished = []byte(established + "\r\n")

// established is the answer to a CONNECT over HTTP/1 that became a tunnel.
func (c *client) established() []byte {
	if !c.handler.SessionHeaders {
		return plainlyEstablished
	}
	var head bytes.Buffer
	head.WriteString(established)
	header := make(http.Header)
	c.tell(header)
	_ = header.Write(&head) // a buffer's never fails
	head.WriteString("\r\n")
	return head.Bytes()
}
