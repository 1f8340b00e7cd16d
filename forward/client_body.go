// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// clientBody is the body of a request over HTTP/1. It records how far the body
// was read: the next request of the connection begins where the body ends, and a
// body of which a byte was read cannot be sent a second time.
//
// The transport of an exit reads it in a goroutine of its own.
type clientBody struct {
	io.ReadCloser

	read   atomic.Bool // a Read was called
	ended  atomic.Bool // read to the end, a well-formed trailer included
	broken atomic.Bool // a Read failed: the client sent a malformed body, or a part of it

	trailer http.Header // the server adds its fields when the body ends
	dropped []string    // fields of the trailer that are not forwarded
}

// watch puts a clientBody in the place of a request's body. It returns nil if the
// request has none.
func watch(r *http.Request) *clientBody {
	if r.ContentLength == 0 {
		return nil
	}
	body := &clientBody{ReadCloser: r.Body}
	r.Body = body
	return body
}

// dropAtEnd says which fields of the request's trailer are not forwarded.
func (b *clientBody) dropAtEnd(trailer http.Header, names []string) {
	b.trailer, b.dropped = trailer, names
}

// Read implements io.Reader. net/http returns io.EOF only after it has read the
// trailer.
func (b *clientBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	n, err := b.readConnection(p)
	switch {
	case err == nil, errors.Is(err, http.ErrBodyReadAfterClose):
	case errors.Is(err, io.EOF):
		dropTrailers(b.trailer, b.dropped)
		b.ended.Store(true)
	default:
		b.broken.Store(true)
	}
	return n, err
}

// errConcurrentRead is a body whose connection net/http is reading already.
var errConcurrentRead = errors.New("connection is read by another request")

// readConnection reads the body. net/http panics if an earlier request of the
// connection still reads it: that happens in a server with enable_full_duplex,
// where a site without a sticky_proxy left a body unread. Here the panic would be
// in a goroutine of a transport, and end the process.
func (b *clientBody) readConnection(p []byte) (n int, err error) {
	defer func() {
		switch reason := recover(); reason {
		case nil:
		case "invalid concurrent Body.Read call":
			n, err = 0, errConcurrentRead
		default:
			panic(reason)
		}
	}()
	return b.ReadCloser.Read(p)
}

// hasUnread reports whether bytes of the body may still come. A request without a
// body has a nil clientBody.
func (b *clientBody) hasUnread() bool { return b != nil && !b.ended.Load() }

// wasRead reports whether a part of the body was read.
func (b *clientBody) wasRead() bool { return b != nil && b.read.Load() }

// isBroken reports whether reading the body failed.
func (b *clientBody) isBroken() bool { return b != nil && b.broken.Load() }
