// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-sticky/caddy-sticky/sessionstore/token"
)

// cookiesNamed yields the values of all cookies of that name in the lines of a
// request's header, in the order in which they stand.
func cookiesNamed(lines []string, name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for line != "" {
				var pair string
				pair, line, _ = strings.Cut(line, ";")
				if value, ok := valueOf(pair, name); ok && !yield(value) {
					return
				}
			}
		}
	}
}

// valueOf returns the value of a name=value pair, if it has that name.
func valueOf(pair, name string) (string, bool) {
	has, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
	return value, ok && has == name
}

// isOurs tells our values from those of an application that has a cookie of the
// same name.
func isOurs(value string) bool { return strings.HasPrefix(value, token.Prefix) }

// Values implements Issuer.
func (c *Cookie) Values(r *http.Request) iter.Seq[string] {
	return func(yield func(string) bool) {
		for value := range cookiesNamed(r.Header["Cookie"], c.Name) {
			if isOurs(value) && !yield(value) {
				return
			}
		}
	}
}

// Strip implements Issuer.
func (c *Cookie) Strip(h http.Header) http.Header {
	lines := h["Cookie"]
	if !slices.ContainsFunc(lines, c.inLine) {
		return h
	}
	kept := make([]string, 0, len(lines))
	for _, line := range lines {
		if rest := c.stripLine(line); rest != "" {
			kept = append(kept, rest)
		}
	}
	stripped := maps.Clone(h)
	if stripped["Cookie"] = kept; len(kept) == 0 {
		delete(stripped, "Cookie")
	}
	return stripped
}

// inPair reports whether a pair is ours.
func (c *Cookie) inPair(pair string) bool {
	value, ok := valueOf(pair, c.Name)
	return ok && isOurs(value)
}

// inLine reports whether a line has a pair of ours.
func (c *Cookie) inLine(line string) bool {
	for line != "" {
		var pair string
		pair, line, _ = strings.Cut(line, ";")
		if c.inPair(pair) {
			return true
		}
	}
	return false
}

// stripLine leaves a line without our pairs as it is, to the byte.
func (c *Cookie) stripLine(line string) string {
	if !c.inLine(line) {
		return line
	}
	var kept []string
	for pair := range strings.SplitSeq(line, ";") {
		if !c.inPair(pair) {
			kept = append(kept, strings.TrimSpace(pair))
		}
	}
	return strings.Join(kept, "; ")
}
