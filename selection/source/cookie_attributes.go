// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// prefixes are beginnings of names that browsers take only with certain
// attributes, and in any case only with Secure (RFC 6265bis §4.1.3).
var prefixes = []struct {
	text     string
	hostOnly bool // no Domain, Path=/
	httpOnly bool
}{
	{text: "__Host-Http-", hostOnly: true, httpOnly: true},
	{text: "__Host-", hostOnly: true},
	{text: "__Http-", httpOnly: true},
	{text: "__Secure-"},
}

// sameSites are the words for an attribute.
var sameSites = map[string]http.SameSite{
	"lax": http.SameSiteLaxMode, "strict": http.SameSiteStrictMode, "none": http.SameSiteNoneMode,
}

// checkAttributes refuses attributes that do not go together. What browsers do
// with such a cookie is to ignore it in silence: every request would begin a
// session.
func (c *Cookie) checkAttributes() error {
	switch _, known := sameSites[c.SameSite]; {
	case !known:
		return fmt.Errorf("same_site %q is unknown (have lax, strict, none)", c.SameSite)
	case !slices.Contains([]string{"auto", "on", "off"}, c.Secure):
		return fmt.Errorf("secure is %q, it must be auto, on or off", c.Secure)
	case c.HTTPOnly != "on" && c.HTTPOnly != "off":
		return fmt.Errorf("http_only is %q, it must be on or off", c.HTTPOnly)
	case c.MaxAge != 0 && time.Duration(c.MaxAge) < time.Second:
		return fmt.Errorf("max_age is %s, it must be at least 1s", time.Duration(c.MaxAge))
	case c.SameSite == "none" && c.Secure == "off":
		return fmt.Errorf("same_site none and secure off: browsers take such a cookie only if it is Secure")
	case c.Partitioned && c.Secure == "off":
		return fmt.Errorf("partitioned and secure off: browsers take such a cookie only if it is Secure")
	}
	if err := c.checkPlace(); err != nil {
		return err
	}
	return c.checkPrefix()
}

func (c *Cookie) checkPlace() error {
	if !strings.HasPrefix(c.Path, "/") {
		return fmt.Errorf("path %q does not begin with a slash", c.Path)
	}
	probe := http.Cookie{Name: "probe", Path: c.Path} //nolint:gosec // it is never set
	if probe.Valid() != nil {
		return fmt.Errorf("path %q holds what no cookie's path can: a semicolon, a control character or one that is not ASCII", c.Path)
	}
	if c.Domain == "" {
		return nil
	}
	if _, err := netip.ParseAddr(c.Domain); err == nil {
		return fmt.Errorf("domain %s is an address: leave it out, the cookie is for the site's host then", c.Domain)
	}
	probe = http.Cookie{Name: "probe", Domain: c.Domain} //nolint:gosec // it is never set
	if probe.Valid() != nil {
		return fmt.Errorf("domain %q is not the name of a host, such as example.com", c.Domain)
	}
	return nil
}

func (c *Cookie) checkPrefix() error {
	for _, prefix := range prefixes {
		if !hasPrefixFold(c.Name, prefix.text) {
			continue
		}
		takes := func(what string) error {
			return fmt.Errorf("the prefix %s of %q takes a cookie %s", prefix.text, c.Name, what)
		}
		switch {
		case c.Secure == "off":
			return takes("that is Secure: leave secure off out")
		case prefix.hostOnly && c.Domain != "":
			return takes("without a domain: leave domain out, or use __Secure-")
		case prefix.hostOnly && c.Path != "/":
			return takes("with the path /: leave path out, or use __Secure-")
		case prefix.httpOnly && c.HTTPOnly == "off":
			return takes("that is HttpOnly: leave http_only off out")
		}
		return nil
	}
	return nil
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// prepare sets what all cookies have in common.
func (c *Cookie) prepare() {
	c.made = http.Cookie{ //nolint:gosec // Secure is settled for each client
		Domain: c.Domain, Path: c.Path, MaxAge: int(time.Duration(c.MaxAge).Seconds()),
		HttpOnly: c.HTTPOnly == "on", SameSite: sameSites[c.SameSite], Partitioned: c.Partitioned,
	}
	c.alwaysSecure = c.Secure == "on"
	for _, prefix := range prefixes {
		c.alwaysSecure = c.alwaysSecure || hasPrefixFold(c.Name, prefix.text)
	}
}

// Cookie implements Issuer. What browsers take only with Secure is left off
// where the cookie is not.
func (c *Cookie) Cookie(r *http.Request, value string) *http.Cookie {
	cookie := c.made //nolint:gosec // Secure is settled below
	cookie.Name, cookie.Value = c.Name, value
	cookie.Secure = c.alwaysSecure || c.Secure == "auto" && secure(r)
	if !cookie.Secure {
		cookie.Partitioned = false
		if cookie.SameSite == http.SameSiteNoneMode {
			cookie.SameSite = http.SameSiteDefaultMode
		}
	}
	return &cookie
}

// secure reports whether the client came by TLS, or told a trusted proxy that
// it did.
func secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted && strings.EqualFold(forwardedProto(r), "https")
}

// forwardedProto is what the proxy before this one says. It is asked of the
// replacer, which has the request as it was received: header_up may have changed
// the one that is sent.
func forwardedProto(r *http.Request) string {
	const field = "X-Forwarded-Proto"
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if values, _ := repl.GetString("http.request.header." + field); values != "" {
			return strings.TrimSpace(values[strings.LastIndexByte(values, ',')+1:])
		}
	}
	return r.Header.Get(field)
}

// Twins implements Sweeper. A cookie that was set before the configuration had
// its domain or path is one of its own to a browser, for this host alone and
// perhaps for all paths: those two can be deleted without touching the cookie as
// it is configured, or another host's. Nothing is deleted if the application has
// a cookie of that name too.
func (c *Cookie) Twins(r *http.Request) []*http.Cookie {
	for value := range cookiesNamed(r.Header["Cookie"], c.Name) {
		if !isOurs(value) {
			return nil
		}
	}
	var twins []*http.Cookie
	add := func(path string) {
		twin := c.Cookie(r, "") //nolint:gosec // as the one that it deletes
		twin.Domain, twin.Path, twin.Partitioned, twin.MaxAge = "", path, false, -1
		twins = append(twins, twin)
	}
	if c.Domain != "" || c.Partitioned {
		add(c.Path)
	}
	if c.Path != "/" {
		add("/")
	}
	return twins
}
