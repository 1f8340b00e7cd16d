// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package networkproxy

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

// UnmarshalCaddyfile sets up the network proxy from Caddyfile tokens. Syntax:
//
//	network_proxy sticky [<name>] {
//		header     <name>
//		query      <name>
//		client_ip  [<v4 prefix> [<v6 prefix>]]
//		credentials [<preset>|<template>] {
//			…
//		}
//		jwt        <claim> [header <name>|cookie <name>]
//		key        <placeholder>
//		exit       <url> {
//			…
//		}
//		exits_file <file>
//		ttl        <duration>
//		max_idle   <duration>
//		mode       strict|norotate
//		fallback   random|round_robin|least_sessions|hash
//		store      <name>
//	}
//
// Sources (the first six) are asked in the order in which they stand; each may be
// given several times.
func (n *Proxy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		n.Name = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	sourceOption := directive.Repeat(directive.FuncWithBlock(n.readSource))
	return directive.Block(d, "network_proxy sticky", directive.Options{
		"header":      sourceOption,
		"query":       sourceOption,
		"client_ip":   sourceOption,
		"jwt":         sourceOption,
		"key":         sourceOption,
		"credentials": sourceOption,
		"exit":        exits.Reader(&n.ExitsRaw),
		"exits_file":  directive.String(&n.ExitsFile),
		"ttl":         directive.OptionalDuration(&n.TTLRaw),
		"max_idle":    directive.Duration(&n.MaxIdle),
		"mode":        directive.String(&n.Mode),
		"fallback":    directive.String(&n.Fallback),
		"store":       directive.String(&n.StoreName),
	})
}

func (n *Proxy) readSource(d *caddyfile.Dispenser) error {
	name := d.Val()
	mod, err := caddyfile.UnmarshalModule(d, source.Namespace+"."+name)
	if err != nil {
		return err
	}
	n.SourcesRaw = append(n.SourcesRaw, caddyconfig.JSONModuleObject(mod, "source", name, nil))
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Proxy)(nil)
