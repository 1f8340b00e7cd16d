// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestResponseWithACookieIsPrivate(t *testing.T) {
	for _, test := range []struct {
		name   string
		method string
		status int
		said   []string
		want   []string
	}{
		{"nothing said", "GET", 200, nil, []string{"private"}},
		{"public", "GET", 200, []string{"public, max-age=60"}, []string{"max-age=60, private"}},
		{"for shared caches", "GET", 200, []string{"S-MaxAge=60", "Public"}, []string{"private"}},
		{"several lines", "HEAD", 404, []string{"max-age=60", "must-revalidate"}, []string{"max-age=60, must-revalidate, private"}},
		{"private already", "GET", 200, []string{"Private, max-age=60"}, []string{"Private, max-age=60"}},
		{"private fields", "GET", 200, []string{"private=\"x\""}, []string{"private=\"x\""}},
		{"not stored", "GET", 200, []string{"no-store"}, []string{"no-store"}},
		{"stored and checked", "GET", 200, []string{"no-cache"}, []string{"no-cache, private"}},
		{"an answer that no cache keeps", "GET", 302, nil, nil},
		{"an answer that one may", "GET", 302, []string{"max-age=60"}, []string{"max-age=60, private"}},
		{"a POST", "POST", 200, []string{"public"}, []string{"public"}},
		{"a WebSocket", "GET", 101, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			res := &http.Response{StatusCode: test.status, Header: http.Header{}}
			if test.said != nil {
				res.Header["Cache-Control"] = test.said
			}
			keepPrivate(test.method, res)
			require.Equal(t, test.want, res.Header["Cache-Control"])
		})
	}
	res := &http.Response{StatusCode: 302, Header: http.Header{"Expires": {"Thu, 01 Jan 2037 00:00:00 GMT"}}}
	keepPrivate("GET", res)
	require.Equal(t, []string{"private"}, res.Header["Cache-Control"])
}
