// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"net/http"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

// maxForeign bounds how many cookies of Caddy's policy are looked at: a client
// may send thousands.
const maxForeign = 4

// CookiePolicy is Caddy's own selection policy cookie, as it was configured
// before this one took its place.
type CookiePolicy struct {
	// The name of its cookie, which is lb unless it was given. Required.
	Name string `json:"name,omitempty"`

	// Its secret. Without one, clients could make such cookies up, and so choose
	// the upstream at which their session begins. Default: none, as there.
	Secret string `json:"secret,omitempty"`
}

func (p *CookiePolicy) validate() error {
	if p.Name == "" {
		return errors.New("source cookie: from_cookie_policy needs the name of the cookie, which is lb unless it was given")
	}
	return checkCookieName("cookie: from_cookie_policy", p.Name)
}

// Proposal implements Proposer. The value of such a cookie is the upstream's
// address under HMAC-SHA-256, in hexadecimal digits.
func (c *Cookie) Proposal(r *http.Request, identities iter.Seq[string]) string {
	if c.FromCookiePolicy == nil {
		return ""
	}
	n := 0
	for value := range cookiesNamed(r.Header["Cookie"], c.FromCookiePolicy.Name) {
		if len(value) != hex.EncodedLen(sha256.Size) {
			continue
		}
		sum, err := hex.DecodeString(value)
		if err != nil {
			continue
		}
		if identity := c.FromCookiePolicy.find(sum, identities); identity != "" {
			return identity
		}
		if n++; n == maxForeign {
			break
		}
	}
	return ""
}

// find returns the identity that a sum is of.
func (p *CookiePolicy) find(sum []byte, identities iter.Seq[string]) string {
	mac := hmac.New(sha256.New, []byte(p.Secret))
	var text, made []byte
	for identity := range identities {
		mac.Reset()
		text = append(text[:0], identity...)
		_, _ = mac.Write(text)
		if made = mac.Sum(made[:0]); hmac.Equal(made, sum) {
			return identity
		}
	}
	return ""
}

// readFromCookiePolicy reads the arguments of from_cookie_policy.
func (c *Cookie) readFromCookiePolicy(d *caddyfile.Dispenser) error {
	name, err := directive.Argument(d)
	if err != nil {
		return err
	}
	c.FromCookiePolicy = &CookiePolicy{Name: name}
	if d.NextArg() {
		c.FromCookiePolicy.Secret = d.Val()
	}
	return nil
}
