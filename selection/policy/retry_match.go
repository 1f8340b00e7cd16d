// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// isError reports whether the proxy takes an answer for an error, by its
// lb_retry_match. The proxy asks that after the round trip, and after the last
// attempt it tells nobody; so the observer asks the same question first.
func (o *observer) isError(r *http.Request, res *http.Response) bool {
	if o.proxy.LoadBalancing == nil {
		return false
	}
	for _, set := range o.proxy.LoadBalancing.RetryMatch {
		if !asksForResponse(set) {
			continue
		}
		provideResponse(r, res)
		if match, err := set.MatchWithError(r); err == nil && match {
			return true
		}
	}
	return false
}

// asksForResponse reports whether a matcher looks at an answer, in the sense of
// the proxy: sets that do not are about requests, and match none.
func asksForResponse(set caddyhttp.MatcherSet) bool {
	return slices.ContainsFunc(set, func(matcher any) bool {
		expression, ok := matcher.(*caddyhttp.MatchExpression)
		return ok && slices.ContainsFunc(expression.Placeholders(), func(name string) bool {
			return name == "" || strings.HasPrefix(name, "http.reverse_proxy.status_") ||
				strings.HasPrefix(name, "http.reverse_proxy.header.")
		})
	})
}

// provideResponse sets the placeholders of an answer, as the proxy is about to.
func provideResponse(r *http.Request, res *http.Response) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.DeleteByPrefix("http.reverse_proxy.header.")
	for field, values := range res.Header {
		repl.Set("http.reverse_proxy.header."+field, strings.Join(values, ","))
	}
	repl.Set("http.reverse_proxy.status_code", res.StatusCode)
	repl.Set("http.reverse_proxy.status_text", res.Status)
}
