// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package message

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// Body is the body of a request over HTTP/1. It records how far the body
// was read: the next request of the connection begins where the body ends, and a
// body of which a byte was read cannot be sent a second time.
//
// The transport of an exit reads it in a goroutine of its own.
type Body struct {
	io.ReadCloser

	reading sync.Mutex  // held during a Read
	stopped atomic.Bool // no further Read begins

	read   atomic.Bool // a Read was called
	ended  atomic.Bool // read to the end, a well-formed trailer included
	broken atomic.Bool // a Read failed: the client sent a malformed body, or a part of it

	trailer http.Header // the server adds its fields when the body ends
	dropped []string    // fields of the trailer that are not forwarded
}

// Watch puts a Body in the place of a request's body. It returns nil if the
// request has none.
func Watch(r *http.Request) *Body {
	if r.ContentLength == 0 {
		return nil
	}
	body := &Body{ReadCloser: r.Body}
	r.Body = body
	return body
}

// DropAtEnd says which fields of the request's trailer are not forwarded.
func (b *Body) DropAtEnd(trailer http.Header, names []string) {
	b.trailer, b.dropped = trailer, names
}

// Read implements io.Reader. net/http returns io.EOF only after it has read the
// trailer.
func (b *Body) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.stopped.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.read.Store(true)
	n, err := b.readConnection(p)
	switch {
	case err == nil, errors.Is(err, http.ErrBodyReadAfterClose):
	case errors.Is(err, io.EOF):
		DropTrailers(b.trailer, b.dropped)
		b.ended.Store(true)
	default:
		b.broken.Store(true)
	}
	return n, err
}

// Stop ends the reading of the body: when it returns, no Read is under way, and
// none begins later. Interrupt makes a Read return that waits for the client. Stop
// reports whether it called interrupt.
//
// It is called before the handler returns. net/http ends a Read that is still under
// way then, but waits for ever if the last byte of the body arrives at that moment.
func (b *Body) Stop(interrupt func() error) bool {
	if b == nil {
		return false
	}
	b.stopped.Store(true)
	if b.reading.TryLock() {
		b.reading.Unlock()
		return false
	}
	if interrupt() == nil {
		b.reading.Lock()
		b.reading.Unlock() //nolint:staticcheck // the Read is over, and that was all
	}
	return true
}

// errConcurrentRead is a body whose connection net/http is reading already.
var errConcurrentRead = errors.New("connection is read by another request")

// readConnection reads the body. net/http panics if an earlier request of the
// connection still reads it: that happens in a server with enable_full_duplex,
// where a site without a sticky_proxy left a body unread. Here the panic would be
// in a goroutine of a transport, and end the process.
func (b *Body) readConnection(p []byte) (n int, err error) {
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

// HasUnread reports whether bytes of the body may still come. A request without a
// body has a nil Body.
func (b *Body) HasUnread() bool { return b != nil && !b.ended.Load() }

// WasRead reports whether a part of the body was read.
func (b *Body) WasRead() bool { return b != nil && b.read.Load() }

// IsBroken reports whether reading the body failed.
func (b *Body) IsBroken() bool { return b != nil && b.broken.Load() }
