// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(AppCookie{})
}

// AppCookie takes the session id from a cookie that the application sets, such
// as JSESSIONID, PHPSESSID or connect.sid. The session is bound to the upstream
// that set the cookie, from the head of its response on. It lives as long as the
// application says (Max-Age, Expires), or for the policy's ttl where it says
// nothing, and ends when the application deletes the cookie. A new id that
// another upstream gives out is a session there.
type AppCookie struct {
	// The cookie's name, as the application spells it. Required.
	Name string `json:"name,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (AppCookie) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".app_cookie",
		New: func() caddy.Module { return new(AppCookie) },
	}
}

// Validate refuses a name that no cookie can have (RFC 6265 §4.1.1).
func (c *AppCookie) Validate() error {
	if c.Name == "" {
		return fmt.Errorf("source app_cookie: the name of the application's cookie is missing (JSESSIONID, PHPSESSID, connect.sid …)")
	}
	return checkCookieName("app_cookie", c.Name)
}

// checkCookieName refuses what is no token.
func checkCookieName(source, name string) error {
	for i := range len(name) {
		if !httpguts.IsTokenRune(rune(name[i])) {
			return fmt.Errorf("source %s: %q is not a cookie name (letters, digits and !#$%%&'*+-.^_`|~)", source, name)
		}
	}
	return nil
}

// SessionID implements Source: the first cookie of that name that has a value.
func (c *AppCookie) SessionID(r *http.Request) string {
	for value := range cookiesNamed(r.Header["Cookie"], c.Name) {
		if value != "" {
			return unquote(value)
		}
	}
	return ""
}

// unquote takes off the quotes that some applications put around a value; a
// browser sends them back, other clients may not.
func unquote(value string) string {
	if n := len(value); n > 2 && value[0] == '"' && value[n-1] == '"' {
		return value[1 : n-1]
	}
	return value
}

// Learn implements Learner. The last of several cookies of that name counts, as
// it does for a browser.
func (c *AppCookie) Learn(res *http.Response, now time.Time) (Lesson, bool) {
	var lesson Lesson
	learned := false
	for _, line := range res.Header["Set-Cookie"] {
		if name, _, _ := strings.Cut(line, "="); strings.TrimSpace(name) != c.Name {
			continue
		}
		cookie, err := http.ParseSetCookie(line)
		if err != nil || len(cookie.Value) > MaxID {
			continue
		}
		lesson, learned = Lesson{ID: cookie.Value}, true
		switch {
		case cookie.Value == "" || cookie.MaxAge < 0:
			lesson.ID = ""
		case cookie.MaxAge > 0:
			lesson.Lifetime = time.Duration(min(int64(cookie.MaxAge), maxLifetime)) * time.Second
		case !cookie.Expires.IsZero():
			if lesson.Lifetime = cookie.Expires.Sub(now); lesson.Lifetime <= 0 {
				lesson.ID = ""
			}
		}
	}
	return lesson, learned
}

// maxLifetime is what browsers take at most (RFC 6265bis §5.5: 400 days), in
// seconds.
const maxLifetime = 400 * 24 * 60 * 60

// Label implements Source.
func (c *AppCookie) Label() string { return "app_cookie " + c.Name }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	app_cookie <name>
func (c *AppCookie) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return directive.Line(d, &c.Name)
}

// Interface guards
var (
	_ caddy.Validator       = (*AppCookie)(nil)
	_ caddyfile.Unmarshaler = (*AppCookie)(nil)
	_ Learner               = (*AppCookie)(nil)
)
