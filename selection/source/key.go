// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(Key{})
}

// Key takes the session id from placeholders.
type Key struct {
	// Text with placeholders, such as {http.request.uri.query.user}. Where the
	// result is empty, the request names no session. Required.
	Key string `json:"key,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Key) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".key",
		New: func() caddy.Module { return new(Key) },
	}
}

// Validate refuses a key without text.
func (k *Key) Validate() error {
	if open := strings.Index(k.Key, "{"); open < 0 || !strings.Contains(k.Key[open:], "}") {
		return fmt.Errorf("source key: %q has no placeholder, such as {http.request.uri.query.user}: all clients would share a session", k.Key)
	}
	return nil
}

// SessionID implements Source.
func (k *Key) SessionID(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	return repl.ReplaceAll(k.Key, "")
}

// Label implements Source.
func (k *Key) Label() string { return "key " + k.Key }

// FromAddress implements Addressed. Caddy's placeholders {http.request.remote} and
// {http.request.remote.host} are empty until the handshake is complete.
func (k *Key) FromAddress() bool { return strings.Contains(k.Key, "{http.vars.client_ip}") }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	key <placeholder>
func (k *Key) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return directive.Line(d, &k.Key)
}

// Interface guards
var (
	_ caddy.Validator       = (*Key)(nil)
	_ caddyfile.Unmarshaler = (*Key)(nil)
	_ Addressed             = (*Key)(nil)
)
