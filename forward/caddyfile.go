// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

// UnmarshalCaddyfile sets up the proxy from Caddyfile tokens. Syntax:
//
//	sticky_proxy [<name>] {
//		account      <name> <password hash>
//		open
//		credentials  massive
//		exit         <url>
//		ttl          <duration>
//		min_ttl      <duration>
//		max_ttl      <duration>
//		mode         strict|flex|norotate
//		max_errors   <n>
//		fallback     random|round_robin|least_sessions|hash
//		idle_timeout <duration>
//		dial_timeout <duration>
//		ports        <port or range…>
//		allow        <cidr, host or host:port…>
//		deny         <cidr or host…>
//		via          on|off
//		store        <name>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // sticky_proxy
	if d.NextArg() {
		h.Name = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return directive.Block(d, "sticky_proxy", directive.Options{
		"account":                  directive.Repeat(directive.FuncWithBlock(h.readAccount)),
		"accounts_file":            directive.NotYet(),
		"open":                     directive.Flag(&h.Open),
		"credentials":              directive.FuncWithBlock(h.readCredentials),
		"exit":                     directive.Repeat(directive.FuncWithBlock(h.readExit)),
		"exits_file":               directive.NotYet(),
		"ttl":                      directive.OptionalDuration(&h.TTLRaw),
		"min_ttl":                  directive.OptionalDuration(&h.MinTTLRaw),
		"max_ttl":                  directive.OptionalDuration(&h.MaxTTLRaw),
		"max_idle":                 directive.NotYet(),
		"mode":                     directive.String(&h.Mode),
		"max_errors":               directive.Int(&h.MaxErrors),
		"new_sessions":             directive.NotYet(),
		"fallback":                 directive.String(&h.Fallback),
		"idle_timeout":             directive.Duration(&h.IdleTimeout),
		"dial_timeout":             directive.Duration(&h.DialTimeout),
		"ports":                    directive.Strings(&h.Ports),
		"allow":                    directive.Strings(&h.Allow),
		"deny":                     directive.Strings(&h.Deny),
		"resolver":                 directive.NotYet(),
		"via":                      directive.String(&h.Via),
		"session_headers":          directive.NotYet(),
		"max_sessions_per_account": directive.NotYet(),
		"store":                    directive.String(&h.StoreName),
	})
}

func (h *Handler) readAccount(d *caddyfile.Dispenser) error {
	var account Account
	if !d.AllArgs(&account.Name, &account.Password) {
		return d.Err("account takes a name and a password hash: make one with caddy hash-password")
	}
	h.Accounts = append(h.Accounts, account)
	return directive.Block(d, "account", directive.Options{
		"max_sessions": directive.NotYet(),
		"tags":         directive.NotYet(),
		"allow":        directive.NotYet(),
		"deny":         directive.NotYet(),
	})
}

func (h *Handler) readCredentials(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&h.Credentials) {
		return d.Err("credentials takes one argument, the name of a preset")
	}
	if strings.ContainsAny(h.Credentials, "<>{}") {
		return d.Err("credentials: templates are not supported yet (have the preset massive)")
	}
	return directive.Block(d, "credentials", directive.Options{
		"field":          directive.NotYet(),
		"account_prefix": directive.NotYet(),
		"unit":           directive.NotYet(),
		"bounds":         directive.NotYet(),
		"id":             directive.NotYet(),
		"alias":          directive.NotYet(),
		"identity":       directive.NotYet(),
	})
}

func (h *Handler) readExit(d *caddyfile.Dispenser) error {
	var url string
	if !d.AllArgs(&url) {
		return d.Err("exit takes one argument, a URL such as direct:// or socks5://berlin.exits.example:1080")
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return d.Errf("exit %d is not a URL: write it with a scheme, such as http:// or direct://", len(h.ExitsRaw)+1)
	}
	scheme = strings.ToLower(scheme)
	if err := checkScheme(scheme); err != nil {
		return d.Errf("exit %d: %v", len(h.ExitsRaw)+1, err)
	}
	exit := struct {
		URL string `json:"url"`
	}{scheme + "://" + rest}
	h.ExitsRaw = append(h.ExitsRaw, caddyconfig.JSONModuleObject(exit, "exit", scheme, nil))
	return directive.Block(d, "exit", directive.Options{
		"weight":          directive.NotYet(),
		"max_sessions":    directive.NotYet(),
		"rate":            directive.NotYet(),
		"tag":             directive.NotYet(),
		"slots":           directive.NotYet(),
		"interface":       directive.NotYet(),
		"check":           directive.NotYet(),
		"tls_server_name": directive.NotYet(),
		"tls_trust":       directive.NotYet(),
		"tls_insecure":    directive.NotYet(),
	})
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
