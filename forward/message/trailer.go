// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package message

import (
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// hopFields are those of one connection whether or not they are nominated (RFC
// 9110 §7.6.1).
var hopFields = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Transfer-Encoding", "Upgrade",
	"Proxy-Authorization", "Proxy-Authenticate", "Proxy-Authentication-Info",
}

// Nominated returns the fields that are of one connection because Connection
// says so. Of a response that closes its connection net/http deletes that field
// before anybody sees it: what it nominated beside close is not known.
func Nominated(header http.Header) []string {
	var names []string
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			names = append(names, http.CanonicalHeaderKey(textproto.TrimString(name)))
		}
	}
	return names
}

// DropTrailers removes from a trailer the fields of one connection, and those of
// these names.
func DropTrailers(trailer http.Header, names []string) {
	for _, list := range [][]string{hopFields, names} {
		for _, name := range list {
			delete(trailer, name)
		}
	}
}

// endToEnd is the body of a response whose trailer has fields that go no further.
// They are known when the body ends: a trailer may have more than was announced.
type endToEnd struct {
	io.ReadCloser
	res   *http.Response
	names []string
}

// WithoutHopTrailers drops the fields of a response's trailer that are of one
// connection.
func WithoutHopTrailers(res *http.Response) {
	if len(res.TransferEncoding) == 0 || res.StatusCode == http.StatusSwitchingProtocols {
		return
	}
	body := &endToEnd{ReadCloser: res.Body, res: res, names: Nominated(res.Header)}
	DropTrailers(res.Trailer, body.names)
	res.Body = body
}

// Read implements io.Reader.
func (b *endToEnd) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		DropTrailers(b.res.Trailer, b.names)
	}
	return n, err
}
