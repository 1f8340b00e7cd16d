// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package message

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRequestTarget holds that the request line that is sent has the target of
// the one that was received, in each form.
func FuzzRequestTarget(f *testing.F) {
	for _, raw := range []string{
		"", "?", "/", "/a|b%2Fc", "//a|b", "//", "//a?b", "/?q=100%&page=2", "?a;b", "/a#b", "//[::1]/", "/\xff", "//a/b?", "/%zz", "/a b",
	} {
		f.Add(raw, false)
		f.Add(raw, true)
	}
	f.Fuzz(func(t *testing.T, raw string, options bool) {
		method := http.MethodGet
		if options {
			method = http.MethodOptions
		}
		const authority = "shop.example:8080"
		text := method + " http://" + authority + raw + " HTTP/1.1\r\nHost: x\r\n\r\n"
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil || r.RequestURI != "http://"+authority+raw || r.URL.Host != authority {
			return // another request
		}
		target, err := TargetOf(r)
		require.NoError(t, err, "%q", raw)
		require.Equal(t, raw, target.raw)
		path := raw
		if !strings.HasPrefix(raw, "/") {
			path = "/" + raw
		}
		absolute, origin := "http://"+authority+path, path
		if options && raw == "" {
			absolute, origin = "http://"+authority, "*"
		}
		lineOf := func(write func(r *http.Request, to *bytes.Buffer) error, r *http.Request) string {
			var sent bytes.Buffer
			require.NoError(t, write(r, &sent))
			line, _, _ := strings.Cut(sent.String(), "\r\n")
			return line
		}
		out := &http.Request{Method: method, URL: target.ToProxy(method), Host: target.Authority, Header: make(http.Header)}
		require.Equal(t, method+" "+absolute+" HTTP/1.1", lineOf(func(r *http.Request, to *bytes.Buffer) error { return r.WriteProxy(to) }, out))
		out.URL = target.ToOrigin(method)
		line := lineOf(func(r *http.Request, to *bytes.Buffer) error { return r.Write(to) }, out)
		if strings.HasPrefix(raw, "//") && line == method+" "+absolute+" HTTP/1.1" {
			return // each server accepts this form
		}
		require.Equal(t, method+" "+origin+" HTTP/1.1", line)
	})
}
