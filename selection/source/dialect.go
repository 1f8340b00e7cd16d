// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
)

// ReadDialect reads what follows the word credentials, in all doors. Syntax:
//
//	credentials [<preset>|<template>] {
//		field          username|password|header <name>
//		account_prefix <text>
//		unit           s|m|ms|suffix
//		bounds         reject|clamp
//		id             <characters> <min> <max>
//		alias          <key> <mode>
//		identity       <tag…>
//	}
func ReadDialect(d *caddyfile.Dispenser, cfg *credential.Config) error {
	if d.NextArg() {
		if form := d.Val(); strings.ContainsAny(form, "<>[]") {
			cfg.Template = form
		} else {
			cfg.Preset = form
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return directive.Block(d, "credentials", directive.Options{
		"field": directive.Func(func(d *caddyfile.Dispenser) error {
			field, err := directive.Argument(d)
			cfg.Field = credential.Field(field)
			if err == nil && cfg.Field == credential.Header {
				cfg.Header, err = directive.Argument(d)
			}
			return err
		}),
		"account_prefix": directive.Func(func(d *caddyfile.Dispenser) error {
			if !d.NextArg() {
				return d.Err(`option account_prefix needs an argument, "" for none`)
			}
			cfg.AccountPrefix = new(d.Val())
			return nil
		}),
		"unit":   directive.String(&cfg.Unit),
		"bounds": directive.String(&cfg.Bounds),
		"id": directive.Func(func(d *caddyfile.Dispenser) error {
			var shortest, longest string
			cfg.ID = new(credential.ID)
			if !d.Args(&cfg.ID.Characters, &shortest, &longest) {
				return d.Err("id takes the characters, a smallest and a largest length, such as id A-Za-z0-9 1 25")
			}
			for text, to := range map[*string]*int{&shortest: &cfg.ID.Min, &longest: &cfg.ID.Max} {
				n, err := strconv.Atoi(*text)
				if err != nil {
					return d.Errf("id: %q is not a whole number", *text)
				}
				*to = n
			}
			return nil
		}),
		"alias": directive.Repeat(directive.Func(func(d *caddyfile.Dispenser) error {
			var alias credential.Alias
			if !d.Args(&alias.Key, &alias.Mode) {
				return d.Err("alias takes a key and a mode, such as alias pinned norotate")
			}
			cfg.Aliases = append(cfg.Aliases, alias)
			return nil
		})),
		"identity": directive.Strings(&cfg.Identity),
	})
}
