// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(Query{})
}

// Query takes the session id from a parameter of the URL's query.
type Query struct {
	// The parameter's name. Of several parameters of that name the first one
	// counts. Required.
	Name string `json:"name,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Query) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".query",
		New: func() caddy.Module { return new(Query) },
	}
}

// Validate refuses a parameter without a name.
func (q *Query) Validate() error {
	if q.Name == "" {
		return errors.New("source query: it needs the name of a parameter")
	}
	return nil
}

// SessionID implements Source.
func (q *Query) SessionID(r *http.Request) string { return parameter(r.URL.RawQuery, q.Name) }

// parameter returns what url.ParseQuery(query).Get(name) does: the first
// parameter of that name without a bad escape or a semicolon. It reads no others.
func parameter(query, name string) string {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if strings.Contains(pair, ";") || !isEscaped(key, name) {
			continue
		}
		if value, err := url.QueryUnescape(value); err == nil {
			return value
		}
	}
	return ""
}

// isEscaped reports whether text is the name, escaped or as it is.
func isEscaped(text, name string) bool {
	if !strings.ContainsAny(text, "%+") {
		return text == name
	}
	if len(text) > 3*len(name) {
		return false // an escape takes three bytes at most
	}
	unescaped, err := url.QueryUnescape(text)
	return err == nil && unescaped == name
}

// Label implements Source.
func (q *Query) Label() string { return "query " + q.Name }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	query <name>
func (q *Query) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return directive.Line(d, &q.Name)
}

// Interface guards
var (
	_ caddy.Validator       = (*Query)(nil)
	_ caddyfile.Unmarshaler = (*Query)(nil)
	_ Source                = (*Query)(nil)
)
