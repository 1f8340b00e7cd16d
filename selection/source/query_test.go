// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

// asked is a request with a query.
func asked(query string) *http.Request {
	r := request(nil)
	r.URL.RawQuery = query
	return r
}

func TestParameterNamesTheSession(t *testing.T) {
	src := ready(t, &source.Query{Name: "user id"})
	for query, want := range map[string]string{
		"":                                   "",
		"user%20id=alice":                    "alice",
		"user+id=alice":                      "alice",
		"page=2&%75ser+id=al%69ce+b&x":       "alice b",
		"user+id=first&user+id=second":       "first",
		"user+id=&user+id=second":            "",
		"user+id":                            "",
		"user+id=%zz&user+id=second":         "second",
		"user+id=a;b&user+id=second":         "second",
		"User+id=alice":                      "",
		"user+id=a=b":                        "a=b",
		"&&=&user+id=alice":                  "alice",
		strings.Repeat("a%", 99) + "user+id": "",
	} {
		require.Equal(t, want, src.SessionID(asked(query)), query)
	}
	require.Equal(t, "query user id", src.Label())
	require.Error(t, set(new(source.Query)))
}

func TestParameterIsFoundWithoutAnAllocation(t *testing.T) {
	src := ready(t, &source.Query{Name: "user"})
	r := asked("page=2&sort=price&user=alice&lang=en%20GB")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if src.SessionID(r) != "alice" {
			t.Error("not found")
		}
	}))
}

// The parameter is the one that net/url finds.
func FuzzQuery(f *testing.F) {
	for _, seed := range [][2]string{
		{"user", "user=alice"}, {"user", "a=1&user=b&user=c"}, {"a b", "a+b=1"}, {"a b", "a%20b=%31"},
		{"a%", "a%25=1&a%=2"}, {"a", "a=%4&a=;&a=2"}, {"=", "%3d=1"}, {"&", "%26=1&&=2"}, {"ä", "%c3%a4=%ff"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, name, query string) {
		if name == "" || strings.Count(query, "&") > 1000 {
			t.Skip("refused by Validate, or by net/url")
		}
		values, _ := url.ParseQuery(query) // with those that it could read
		require.Equal(t, values.Get(name), (&source.Query{Name: name}).SessionID(asked(query)))
	})
}

func BenchmarkQuery(b *testing.B) {
	src := &source.Query{Name: "user"}
	r := &http.Request{URL: &url.URL{RawQuery: "page=2&sort=price&user=alice&lang=en%20GB"}}
	b.ReportAllocs()
	for b.Loop() {
		_ = src.SessionID(r)
	}
}

// BenchmarkQueryOfNetURL is what it would be otherwise.
func BenchmarkQueryOfNetURL(b *testing.B) {
	r := &http.Request{URL: &url.URL{RawQuery: "page=2&sort=price&user=alice&lang=en%20GB"}}
	b.ReportAllocs()
	for b.Loop() {
		_ = r.URL.Query().Get("user")
	}
}
