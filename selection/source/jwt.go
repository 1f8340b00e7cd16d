// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(JWT{})
}

// maxToken is the longest JWT that is decoded. Longer ones do not fit into a
// cookie by far, and hardly into the headers that servers take.
const maxToken = 16 << 10

// JWT takes the session id from a claim of a JSON Web Token (RFC 7519), for
// routing only. It verifies nothing: neither the signature nor the token's
// times. Whoever may make up a token may choose a session; that lets nobody in
// anywhere, because the application still checks the token.
type JWT struct {
	// The claim, such as sub or sid: a string, a number or a boolean. Its name is
	// taken as it is, so a dot in it names no claim within another one. Required.
	Claim string `json:"claim,omitempty"`

	// The header field that has the token, by itself or after "Bearer". Of several
	// fields the first one counts. Default: Authorization.
	Header string `json:"header,omitempty"`

	// The cookie that has the token, instead of a header field. Of several cookies
	// the first one counts. Default: none.
	Cookie string `json:"cookie,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (JWT) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".jwt",
		New: func() caddy.Module { return new(JWT) },
	}
}

// Provision sets defaults.
func (j *JWT) Provision(caddy.Context) error {
	if j.Header == "" && j.Cookie == "" {
		j.Header = "Authorization"
	}
	j.Header = http.CanonicalHeaderKey(j.Header)
	return nil
}

// Validate refuses a source that finds no claim.
func (j *JWT) Validate() error {
	switch {
	case j.Claim == "":
		return errors.New("source jwt: it needs the name of a claim, such as sub")
	case j.Header != "" && j.Cookie != "":
		return fmt.Errorf("source jwt: the token is in the header %s or in the cookie %s: leave one of them out", j.Header, j.Cookie)
	case j.Header != "" && !httpguts.ValidHeaderFieldName(j.Header):
		return fmt.Errorf("source jwt: %q is not the name of a header field", j.Header)
	}
	return checkCookieName("jwt", j.Cookie)
}

// SessionID implements Source.
func (j *JWT) SessionID(r *http.Request) string {
	if j.Cookie == "" {
		if values := r.Header[j.Header]; len(values) > 0 {
			return claim(bearer(values[0]), j.Claim)
		}
		return ""
	}
	for value := range cookiesNamed(r.Header["Cookie"], j.Cookie) {
		return claim(value, j.Claim)
	}
	return ""
}

// bearer returns a field's value without the scheme Bearer.
func bearer(value string) string {
	const scheme = "Bearer "
	if hasPrefixFold(value, scheme) {
		value = value[len(scheme):]
	}
	return strings.TrimSpace(value)
}

// claim returns the text of a token's claim; empty if there is no such token or
// no such claim, or if it is an object, an array or null.
func claim(token, name string) string {
	if len(token) > maxToken || strings.Count(token, ".") != 2 || strings.Contains(token, " ") {
		return "" // not header.payload.signature, or of another scheme
	}
	_, payload, _ := strings.Cut(token, ".")
	payload, _, _ = strings.Cut(payload, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return ""
	}
	var claims map[string]json.RawMessage
	if json.Unmarshal(text, &claims) != nil {
		return ""
	}
	raw := claims[name]
	if len(raw) == 0 {
		return ""
	}
	switch raw[0] {
	case '"':
		var value string
		_ = json.Unmarshal(raw, &value) // it is valid: it was a part of what was
		return value
	case '{', '[', 'n':
		return ""
	}
	return string(raw) // a number, as it is written, or a boolean
}

// Label implements Source.
func (j *JWT) Label() string {
	if j.Cookie != "" {
		return "jwt " + j.Claim + " cookie " + j.Cookie
	}
	return "jwt " + j.Claim + " header " + j.Header
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	jwt <claim> [header <name>|cookie <name>]
func (j *JWT) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.NextArg() || d.Val() == "" {
		return d.Err("jwt needs an argument")
	}
	j.Claim = d.Val()
	if d.NextArg() {
		places := map[string]*string{"header": &j.Header, "cookie": &j.Cookie}
		place, ok := places[d.Val()]
		if !ok {
			return d.Errf("jwt: %q is not where a token is (have header <name>, cookie <name>)", d.Val())
		}
		var err error
		if *place, err = directive.Argument(d); err != nil {
			return err
		}
	}
	return directive.Block(d, "jwt", nil)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*JWT)(nil)
	_ caddy.Validator       = (*JWT)(nil)
	_ caddyfile.Unmarshaler = (*JWT)(nil)
	_ Source                = (*JWT)(nil)
)
