// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

func init() {
	caddy.RegisterModule(Cookie{})
}

// Cookie takes the session from a cookie that the load balancer sets itself. The
// cookie is the session: signed, so that nobody can make one up, and without an
// address that a client could read. It costs no memory until it comes back. The
// session's end is the policy's ttl, kept by the load balancer and not by the
// browser. The application never sees the cookie.
type Cookie struct {
	// The cookie's name. Default: sticky_ and the policy's name.
	Name string `json:"name,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Cookie) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".cookie",
		New: func() caddy.Module { return new(Cookie) },
	}
}

// SetDefaultName names the cookie after the policy, if it has no name yet.
func (c *Cookie) SetDefaultName(policy string) {
	if c.Name == "" {
		c.Name = "sticky_" + policy
	}
}

// Validate refuses a name that no cookie can have (RFC 6265 §4.1.1), or that a
// browser takes only with attributes that are not settable yet.
func (c *Cookie) Validate() error {
	if err := checkCookieName("cookie", c.Name); err != nil {
		return err
	}
	for _, prefix := range []string{"__Host-", "__Secure-"} {
		if len(c.Name) >= len(prefix) && strings.EqualFold(c.Name[:len(prefix)], prefix) {
			return fmt.Errorf("source cookie: the prefix %s of %q is not supported yet", prefix, c.Name)
		}
	}
	return nil
}

// SessionID implements Source: what the cookie says is not to be read without
// the keys.
func (*Cookie) SessionID(*http.Request) string { return "" }

// Values implements Issuer.
func (c *Cookie) Values(r *http.Request) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range r.Header["Cookie"] {
			for line != "" {
				var pair string
				pair, line, _ = strings.Cut(line, ";")
				if value, ok := c.parse(pair); ok && !yield(value) {
					return
				}
			}
		}
	}
}

// parse returns the value of one name=value pair, if it is ours.
func (c *Cookie) parse(pair string) (string, bool) {
	name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
	return value, ok && name == c.Name && strings.HasPrefix(value, sessionstore.TokenPrefix)
}

// Cookie implements Issuer. The cookie is Secure where the client came by TLS,
// or told a trusted proxy that it did.
func (c *Cookie) Cookie(r *http.Request, value string) *http.Cookie {
	return &http.Cookie{ //nolint:gosec // Secure where the client came by TLS
		Name:     c.Name,
		Value:    value,
		Path:     "/",
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
		Secure:   secure(r),
	}
}

func secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
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

// inLine reports whether a line has a pair of ours.
func (c *Cookie) inLine(line string) bool {
	for line != "" {
		var pair string
		pair, line, _ = strings.Cut(line, ";")
		if _, ours := c.parse(pair); ours {
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
		if _, ours := c.parse(pair); !ours {
			kept = append(kept, strings.TrimSpace(pair))
		}
	}
	return strings.Join(kept, "; ")
}

// Label implements Source.
func (c *Cookie) Label() string { return "cookie " + c.Name }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	cookie [<name>]
func (c *Cookie) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		c.Name = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return directive.Block(d, "cookie", directive.Options{
		"domain":             directive.NotYet(),
		"path":               directive.NotYet(),
		"same_site":          directive.NotYet(),
		"secure":             directive.NotYet(),
		"http_only":          directive.NotYet(),
		"partitioned":        directive.NotYet(),
		"max_age":            directive.NotYet(),
		"from_cookie_policy": directive.NotYet(),
	})
}

// Interface guards
var (
	_ caddy.Validator       = (*Cookie)(nil)
	_ caddyfile.Unmarshaler = (*Cookie)(nil)
	_ Issuer                = (*Cookie)(nil)
)
