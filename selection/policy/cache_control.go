// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/http"
	"slices"
	"strings"
)

// keepPrivate keeps a response out of shared caches that sets a session's
// cookie: everybody whom a cache gave it would get the session (RFC 9111 §7.3).
func keepPrivate(method string, res *http.Response) {
	if res.StatusCode == http.StatusSwitchingProtocols || method != http.MethodGet && method != http.MethodHead {
		return
	}
	var kept []string
	said := false
	for directive := range strings.SplitSeq(strings.Join(res.Header["Cache-Control"], ","), ",") {
		directive = strings.TrimSpace(directive)
		name, _, _ := strings.Cut(strings.ToLower(directive), "=")
		switch name {
		case "private", "no-store":
			return
		case "", "public", "s-maxage": // of shared caches
		default:
			kept = append(kept, directive)
		}
		said = said || name != ""
	}
	if !said && res.Header.Get("Expires") == "" && !cacheable(res.StatusCode) {
		return
	}
	res.Header["Cache-Control"] = []string{strings.Join(append(kept, "private"), ", ")}
}

// cacheable reports whether caches may keep a response of that status that says
// nothing about it (RFC 9110 §15.1).
func cacheable(status int) bool {
	return slices.Contains([]int{200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}, status)
}
