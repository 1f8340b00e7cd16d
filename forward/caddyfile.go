// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/forward/accounts"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
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
//		exit         <url> {
//			weight       <n>
//			max_sessions <n>
//			rate         <n>/<duration>
//			tag          <key> <value>
//			slots        <n>
//			check        <url> <interval>
//			interface    <name>
//			tls_server_name <name>
//			tls_trust    <file…>
//			tls_insecure
//		}
//		exits_file   <file>
//		ttl          <duration>
//		min_ttl      <duration>
//		max_ttl      <duration>
//		max_idle     <duration>
//		mode         strict|flex|norotate
//		max_errors   <n>
//		fallback     random|round_robin|least_sessions|hash
//		idle_timeout <duration>
//		response_timeout <duration>|off
//		dial_timeout <duration>
//		ports        <port or range…>
//		allow        <cidr, host or host:port…>
//		deny         <cidr or host…>
//		resolver     <address>
//		via          on|off
//		session_headers
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
		"exit":                     exits.Reader(&h.ExitsRaw),
		"exits_file":               directive.String(&h.ExitsFile),
		"ttl":                      directive.OptionalDuration(&h.TTLRaw),
		"min_ttl":                  directive.OptionalDuration(&h.MinTTLRaw),
		"max_ttl":                  directive.OptionalDuration(&h.MaxTTLRaw),
		"max_idle":                 directive.OptionalDuration(&h.MaxIdleRaw),
		"mode":                     directive.String(&h.Mode),
		"max_errors":               directive.Int(&h.MaxErrors),
		"new_sessions":             directive.String(&h.NewSessions),
		"fallback":                 directive.String(&h.Fallback),
		"idle_timeout":             directive.Duration(&h.IdleTimeout),
		"response_timeout":         directive.DurationOrOff(&h.ResponseTimeoutRaw),
		"dial_timeout":             directive.Duration(&h.DialTimeout),
		"ports":                    directive.Strings(&h.Ports),
		"allow":                    directive.Strings(&h.Allow),
		"deny":                     directive.Strings(&h.Deny),
		"resolver":                 directive.String(&h.ResolverRaw),
		"via":                      directive.String(&h.Via),
		"session_headers":          directive.Flag(&h.SessionHeaders),
		"max_sessions_per_account": directive.Int(&h.MaxSessionsPerAccount),
		"store":                    directive.String(&h.StoreName),
	})
}

func (h *Handler) readAccount(d *caddyfile.Dispenser) error {
	var account accounts.Account
	if !d.AllArgs(&account.Name, &account.Password) {
		return d.Err("account takes a name and a password hash: make one with caddy hash-password")
	}
	err := directive.Block(d, "account", directive.Options{
		"max_sessions": directive.Int(&account.MaxSessions),
		"tags":         directive.Repeat(directive.Func(account.ReadTags)),
		"allow":        directive.Strings(&account.Allow),
		"deny":         directive.Strings(&account.Deny),
	})
	h.Accounts = append(h.Accounts, account)
	return err
}

func (h *Handler) readCredentials(d *caddyfile.Dispenser) error {
	if d.CountRemainingArgs() != 1 {
		return d.Err("credentials takes one argument, the name of a preset or a template")
	}
	h.Credentials = new(credential.Config)
	return source.ReadDialect(d, h.Credentials)
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
