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
//		account <name> <password hash> {
//			max_sessions <n>
//			tags  <key> <value…>
//			allow <cidr, host or host:port…>
//			deny  <cidr or host…>
//		}
//		accounts_file <htpasswd>
//		max_sessions_per_account <n>
//		open
//		credentials <preset>|<template> {
//			field username|password|header <name>
//			account_prefix <text>
//			unit   s|m|ms|suffix
//			bounds reject|clamp
//			id <characters> <min> <max>
//			alias <key> <mode>
//			identity <tag…>
//		}
//		new_sessions <n>/<duration>
//		exit         <url>
//		ttl          <duration>
//		min_ttl      <duration>
//		max_ttl      <duration>
//		max_idle     <duration>
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
		"accounts_file":            directive.String(&h.AccountsFile),
		"open":                     directive.Flag(&h.Open),
		"credentials":              directive.FuncWithBlock(h.readCredentials),
		"exit":                     directive.Repeat(directive.FuncWithBlock(h.readExit)),
		"exits_file":               directive.NotYet(),
		"ttl":                      directive.OptionalDuration(&h.TTLRaw),
		"min_ttl":                  directive.OptionalDuration(&h.MinTTLRaw),
		"max_ttl":                  directive.OptionalDuration(&h.MaxTTLRaw),
		"max_idle":                 directive.OptionalDuration(&h.MaxIdleRaw),
		"mode":                     directive.String(&h.Mode),
		"max_errors":               directive.Int(&h.MaxErrors),
		"new_sessions":             directive.String(&h.NewSessions),
		"fallback":                 directive.String(&h.Fallback),
		"idle_timeout":             directive.Duration(&h.IdleTimeout),
		"dial_timeout":             directive.Duration(&h.DialTimeout),
		"ports":                    directive.Strings(&h.Ports),
		"allow":                    directive.Strings(&h.Allow),
		"deny":                     directive.Strings(&h.Deny),
		"resolver":                 directive.NotYet(),
		"via":                      directive.String(&h.Via),
		"session_headers":          directive.NotYet(),
		"max_sessions_per_account": directive.Int(&h.MaxSessionsPerAccount),
		"store":                    directive.String(&h.StoreName),
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
