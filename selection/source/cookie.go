// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
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
	// The cookie's name. A name that begins with __Host-, __Secure-, __Http- or
	// __Host-Http- has the attributes that browsers ask of it, or is refused:
	// such a cookie is always Secure, so no browser takes it from a site without
	// TLS. Default: sticky_ and the policy's name.
	Name string `json:"name,omitempty"`

	// The host that the cookie is for, with all hosts below it: the site's host
	// or one above it. A browser refuses the cookie of another one. Default: the
	// site's host alone.
	Domain string `json:"domain,omitempty"`

	// The path that the cookie is for, with all paths below it. Requests
	// elsewhere do not bring it and get sessions of their own. Default: /.
	Path string `json:"path,omitempty"`

	// Whether browsers send the cookie with requests that other sites cause: lax
	// (links only), strict (never) or none (always, which takes Secure). Where none
	// meets a client without TLS, the attribute is left off, and the browser's
	// default holds. Default: lax.
	SameSite string `json:"same_site,omitempty"`

	// Whether browsers send the cookie over TLS only: auto (where the client came
	// by TLS, or told a trusted proxy that it did), on or off. Default: auto.
	Secure string `json:"secure,omitempty"`

	// Whether the cookie is hidden from scripts: on or off. Default: on.
	HTTPOnly string `json:"http_only,omitempty"`

	// Whether a site that is embedded in others has a cookie, and so a session,
	// for each of those. It takes Secure, and is left off where a client comes
	// without TLS. Default: false.
	Partitioned bool `json:"partitioned,omitempty"`

	// How long browsers keep the cookie, in whole seconds. The session ends by the
	// policy's ttl all the same. Default: until the browser is closed.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// Honours the cookies of Caddy's own policy named cookie, which this one
	// takes the place of: a client that brings one and no cookie of ours begins its
	// session at the upstream where it was. Default: none.
	FromCookiePolicy *CookiePolicy `json:"from_cookie_policy,omitempty"`

	made         http.Cookie // what all cookies have in common
	alwaysSecure bool
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

// Provision sets defaults.
func (c *Cookie) Provision(caddy.Context) error {
	for _, option := range []struct {
		to       *string
		standard string
	}{{&c.Path, "/"}, {&c.SameSite, "lax"}, {&c.Secure, "auto"}, {&c.HTTPOnly, "on"}} {
		if *option.to == "" {
			*option.to = option.standard
		}
	}
	c.prepare()
	return nil
}

// Validate refuses what no browser would take.
func (c *Cookie) Validate() error {
	if err := checkCookieName("cookie", c.Name); err != nil {
		return err
	}
	if err := c.checkAttributes(); err != nil {
		return fmt.Errorf("source cookie: %w", err)
	}
	if c.FromCookiePolicy != nil {
		return c.FromCookiePolicy.validate()
	}
	return nil
}

// SessionID implements Source: what the cookie says is not to be read without
// the keys.
func (*Cookie) SessionID(*http.Request) string { return "" }

// Label implements Source.
func (c *Cookie) Label() string { return "cookie " + c.Name }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	cookie [<name>] {
//		domain             <host>
//		path               <path>
//		same_site          lax|strict|none
//		secure             [auto|on|off]
//		http_only          [on|off]
//		partitioned
//		max_age            <duration>
//		from_cookie_policy <name> [<secret>]
//	}
//
// An option of on and off without an argument is on.
func (c *Cookie) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		c.Name = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return directive.Block(d, "cookie", directive.Options{
		"domain":             directive.String(&c.Domain),
		"path":               directive.String(&c.Path),
		"same_site":          directive.String(&c.SameSite),
		"secure":             directive.Switch(&c.Secure),
		"http_only":          directive.Switch(&c.HTTPOnly),
		"partitioned":        directive.Flag(&c.Partitioned),
		"max_age":            directive.Duration(&c.MaxAge),
		"from_cookie_policy": directive.Func(c.readFromCookiePolicy),
	})
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Cookie)(nil)
	_ caddy.Validator       = (*Cookie)(nil)
	_ caddyfile.Unmarshaler = (*Cookie)(nil)
	_ Issuer                = (*Cookie)(nil)
	_ Sweeper               = (*Cookie)(nil)
	_ Proposer              = (*Cookie)(nil)
)
