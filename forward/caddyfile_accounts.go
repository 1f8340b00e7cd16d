// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
)

func (h *Handler) readAccount(d *caddyfile.Dispenser) error {
	var account Account
	if !d.AllArgs(&account.Name, &account.Password) {
		return d.Err("account takes a name and a password hash: make one with caddy hash-password")
	}
	err := directive.Block(d, "account", directive.Options{
		"max_sessions": directive.Int(&account.MaxSessions),
		"tags":         directive.Repeat(directive.Func(account.readTags)),
		"allow":        directive.Strings(&account.Allow),
		"deny":         directive.Strings(&account.Deny),
	})
	h.Accounts = append(h.Accounts, account)
	return err
}

func (a *Account) readTags(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("tags takes a key and one value or more, such as tags country de fr")
	}
	if a.Tags == nil {
		a.Tags = make(map[string][]string)
	}
	if _, taken := a.Tags[args[0]]; taken {
		return d.Errf("tags %s is given twice: put all its values in one line", args[0])
	}
	a.Tags[args[0]] = args[1:]
	return nil
}

func (h *Handler) readCredentials(d *caddyfile.Dispenser) error {
	var cfg credential.Config
	var form string
	if !d.AllArgs(&form) {
		return d.Err("credentials takes one argument, the name of a preset or a template")
	}
	if strings.ContainsAny(form, "<>[]") {
		cfg.Template = form
	} else {
		cfg.Preset = form
	}
	h.Credentials = &cfg
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
