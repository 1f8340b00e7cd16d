// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2"
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
		"exit":                     exitReader(&h.ExitsRaw),
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

// exitReader is an option that reads an exit of any kind and adds it to a list.
func exitReader(to *[]json.RawMessage) directive.Option {
	return directive.Repeat(directive.FuncWithBlock(func(d *caddyfile.Dispenser) error {
		exit, err := readExit(d, len(*to)+1)
		if err == nil {
			*to = append(*to, exit)
		}
		return err
	}))
}

// readExit reads an exit, the one of this number.
func readExit(d *caddyfile.Dispenser, number int) (json.RawMessage, error) {
	var url string
	if !d.AllArgs(&url) {
		return nil, d.Err("exit takes one argument, a URL such as direct:// or socks5://berlin.exits.example:1080")
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return nil, d.Errf("exit %d is not a URL: write it with a scheme, such as http:// or direct://", number)
	}
	scheme = strings.ToLower(scheme)
	if err := checkScheme(scheme); err != nil {
		return nil, d.Errf("exit %d: %v", number, err)
	}
	exit := exitLine{URL: scheme + "://" + rest}
	err := directive.Block(d, "exit", directive.Options{
		"weight":          directive.Int(&exit.Weight),
		"max_sessions":    directive.Int(&exit.MaxSessions),
		"rate":            directive.String(&exit.Rate),
		"tag":             directive.Repeat(directive.Func(exit.readTag)),
		"check":           directive.Func(exit.readCheck),
		"slots":           directive.Int(&exit.Slots),
		"interface":       exit.of("direct", directive.String(&exit.Interface)),
		"tls_server_name": exit.of("https", directive.String(&exit.TLSServerName)),
		"tls_trust":       exit.of("https", directive.Strings(&exit.TLSTrust)),
		"tls_insecure":    exit.of("https", directive.Flag(&exit.TLSInsecure)),
	})
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(exit, "exit", scheme, nil), nil
}

// exitLine is an exit of any kind as the Caddyfile has it.
type exitLine struct {
	URL string `json:"url"`
	ExitOptions
	Interface     string   `json:"interface,omitempty"`
	TLSServerName string   `json:"tls_server_name,omitempty"`
	TLSTrust      []string `json:"tls_trust,omitempty"`
	TLSInsecure   bool     `json:"tls_insecure,omitempty"`
}

// of is an option that exits of one kind have.
func (e *exitLine) of(scheme string, option directive.Option) directive.Option {
	if strings.HasPrefix(e.URL, scheme+"://") {
		return option
	}
	return directive.Func(func(d *caddyfile.Dispenser) error {
		return d.Errf("option %s is for %s:// exits", d.Val(), scheme)
	})
}

func (e *exitLine) readTag(d *caddyfile.Dispenser) error {
	var key, value string
	if !d.AllArgs(&key, &value) {
		return d.Err("tag takes a key and a value, such as tag country de")
	}
	if e.Tags == nil {
		e.Tags = make(map[string][]string)
	}
	e.Tags[key] = append(e.Tags[key], value)
	return nil
}

func (e *exitLine) readCheck(d *caddyfile.Dispenser) error {
	var url, interval string
	if !d.AllArgs(&url, &interval) {
		return d.Err("check takes a URL and an interval, such as check https://example.com/ 30s")
	}
	every, err := caddy.ParseDuration(interval)
	if err != nil {
		return d.Errf("check: %q is not a duration, such as 30s", interval)
	}
	e.Check = &ExitCheck{URL: url, Interval: caddy.Duration(every)}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
