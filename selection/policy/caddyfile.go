// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy sticky [<name>] {
//		cookie     [<name>] {
//			…
//		}
//		app_cookie <name>
//		header     <name>
//		query      <name>
//		client_ip  [<v4 prefix> [<v6 prefix>]]
//		credentials [<preset>|<template>] {
//			…
//		}
//		jwt        <claim> [header <name>|cookie <name>]
//		key        <placeholder>
//		ttl        <duration>
//		max_idle   <duration>
//		mode       strict|flex|norotate
//		max_errors <n>
//		on_full    spill|wait|move
//		max_sessions <n>
//		new_sessions <n>/<duration>
//		drain      <upstream…>
//		fallback   <policy> …
//		store      <name>
//	}
//
// Sources (the first eight) are asked in the order in which they stand; each may
// be given several times.
func (p *Policy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the policy's module name
	if d.NextArg() {
		p.Name = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	sourceOption := directive.Repeat(directive.FuncWithBlock(p.readSource))
	return directive.Block(d, "lb_policy sticky", directive.Options{
		"cookie":       sourceOption,
		"header":       sourceOption,
		"query":        sourceOption,
		"client_ip":    sourceOption,
		"jwt":          sourceOption,
		"key":          sourceOption,
		"app_cookie":   sourceOption,
		"credentials":  sourceOption,
		"ttl":          directive.OptionalDuration(&p.TTLRaw),
		"max_idle":     directive.Duration(&p.MaxIdle),
		"mode":         directive.String(&p.Mode),
		"max_errors":   directive.Int(&p.MaxErrors),
		"on_full":      directive.String(&p.OnFull),
		"max_sessions": directive.Int(&p.MaxSessions),
		"new_sessions": directive.String(&p.NewSessions),
		"drain":        directive.Repeat(directive.Func(p.readDrain)),
		"fallback":     directive.FuncWithBlock(p.readFallback),
		"store":        directive.String(&p.StoreName),
	})
}

func (p *Policy) readSource(d *caddyfile.Dispenser) error {
	name := d.Val()
	mod, err := caddyfile.UnmarshalModule(d, source.Namespace+"."+name)
	if err != nil {
		return err
	}
	p.SourcesRaw = append(p.SourcesRaw, caddyconfig.JSONModuleObject(mod, "source", name, nil))
	return nil
}

func (p *Policy) readFallback(d *caddyfile.Dispenser) error {
	name, err := directive.Argument(d)
	if err != nil {
		return err
	}
	id := "http.reverse_proxy.selection_policies." + name
	mod, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	if _, ok := mod.(reverseproxy.Selector); !ok {
		return d.Errf("fallback: %s is not a selection policy", name)
	}
	p.FallbackRaw = caddyconfig.JSONModuleObject(mod, "policy", name, nil)
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Policy)(nil)
