// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(ClientIP{})
}

const (
	defaultV4Prefix = 32
	// A household or an office network has a /64, and its devices change
	// their addresses in it for privacy.
	defaultV6Prefix = 64
)

// ClientIP takes the session id from the client's address: behind trusted
// proxies (Caddy's trusted_proxies) the one that they tell.
//
// A request in early data (0-RTT) does not prove its address. It uses the session
// that lives; it begins, moves and touches none.
type ClientIP struct {
	// How many leading bits of an IPv4 address make a client, 1 to 32.
	// Default: 32.
	V4Prefix int `json:"v4_prefix,omitempty"`

	// How many leading bits of an IPv6 address make a client, 1 to 128.
	// Default: 64.
	V6Prefix int `json:"v6_prefix,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (ClientIP) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".client_ip",
		New: func() caddy.Module { return new(ClientIP) },
	}
}

// Provision sets defaults.
func (c *ClientIP) Provision(caddy.Context) error {
	if c.V4Prefix == 0 {
		c.V4Prefix = defaultV4Prefix
	}
	if c.V6Prefix == 0 {
		c.V6Prefix = defaultV6Prefix
	}
	return nil
}

// Validate refuses prefixes that no address has.
func (c *ClientIP) Validate() error {
	if c.V4Prefix < 1 || c.V4Prefix > 32 {
		return fmt.Errorf("source client_ip: IPv4 prefix %d is not within 1 to 32", c.V4Prefix)
	}
	if c.V6Prefix < 1 || c.V6Prefix > 128 {
		return fmt.Errorf("source client_ip: IPv6 prefix %d is not within 1 to 128", c.V6Prefix)
	}
	return nil
}

// SessionID implements Source.
func (c *ClientIP) SessionID(r *http.Request) string {
	client, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	if !ok || client == "" {
		client = r.RemoteAddr
	}
	if host, _, err := net.SplitHostPort(client); err == nil {
		client = host
	}
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return "" // a unix socket
	}
	addr = addr.Unmap().WithZone("")
	bits := c.V6Prefix
	if addr.Is4() {
		bits = c.V4Prefix
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return ""
	}
	return prefix.String()
}

// Label implements Source.
func (c *ClientIP) Label() string { return "client_ip" }

// FromAddress implements Addressed.
func (*ClientIP) FromAddress() bool { return true }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	client_ip [<v4 prefix> [<v6 prefix>]]
func (c *ClientIP) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	for _, to := range []*int{&c.V4Prefix, &c.V6Prefix} {
		if !d.NextArg() {
			break
		}
		bits, err := strconv.Atoi(d.Val())
		if err != nil || bits <= 0 {
			return d.Errf("client_ip: %q is not a prefix length", d.Val())
		}
		*to = bits
	}
	return directive.Block(d, "client_ip", nil)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*ClientIP)(nil)
	_ caddy.Validator       = (*ClientIP)(nil)
	_ caddyfile.Unmarshaler = (*ClientIP)(nil)
	_ Addressed             = (*ClientIP)(nil)
)
