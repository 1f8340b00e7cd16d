// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/selection/credential"
)

func init() {
	caddy.RegisterModule(Credentials{})
}

// Credentials takes the session id from the user of the Authorization header
// (Basic, RFC 7617): the account, and the session if the user names one, as in
// alice-session-abc. What else it may say of a session, such as its lifetime, is
// for the forward proxy and does nothing here. It checks no password: the
// application does, or a handler before the proxy.
type Credentials struct {
	credential.Config

	grammar *credential.Grammar
}

// CaddyModule returns the Caddy module information.
func (Credentials) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".credentials",
		New: func() caddy.Module { return new(Credentials) },
	}
}

// Provision compiles the grammar.
func (c *Credentials) Provision(caddy.Context) error {
	var err error
	c.grammar, err = c.Compile()
	return err
}

// SessionID implements Source. Credentials that the grammar does not take name
// no session.
func (c *Credentials) SessionID(r *http.Request) string {
	username, password, ok := r.BasicAuth()
	if !ok || len(username) > MaxID {
		return ""
	}
	header := ""
	if name := c.grammar.Header(); name != "" {
		header = r.Header.Get(name)
	}
	said, err := c.grammar.Read(username, password, header)
	switch {
	case err != nil:
		return ""
	case said.Session == "":
		return said.Account
	}
	// Neither of them holds a control character.
	return said.Account + "\x00" + said.Session
}

// Label implements Source.
func (*Credentials) Label() string { return "credentials" }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. See ReadDialect.
func (c *Credentials) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return ReadDialect(d, &c.Config)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Credentials)(nil)
	_ caddyfile.Unmarshaler = (*Credentials)(nil)
	_ Source                = (*Credentials)(nil)
)
