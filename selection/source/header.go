// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(Header{})
}

// Header takes the session id from a request header.
type Header struct {
	// The header field's name. Of several fields of that name the first one
	// counts. Required.
	Name string `json:"name,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Header) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".header",
		New: func() caddy.Module { return new(Header) },
	}
}

// Provision brings the name into its canonical form.
func (h *Header) Provision(caddy.Context) error {
	h.Name = http.CanonicalHeaderKey(h.Name)
	return nil
}

// Validate refuses a header without a name.
func (h *Header) Validate() error {
	if !httpguts.ValidHeaderFieldName(h.Name) {
		return fmt.Errorf("source header: %q is not the name of a header field", h.Name)
	}
	return nil
}

// SessionID implements Source.
func (h *Header) SessionID(r *http.Request) string {
	if h.Name == "Host" { // net/http keeps it apart
		return r.Host
	}
	if values := r.Header[h.Name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Label implements Source.
func (h *Header) Label() string { return "header " + h.Name }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	header <name>
func (h *Header) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return directive.Line(d, &h.Name)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Header)(nil)
	_ caddy.Validator       = (*Header)(nil)
	_ caddyfile.Unmarshaler = (*Header)(nil)
	_ Source                = (*Header)(nil)
)
