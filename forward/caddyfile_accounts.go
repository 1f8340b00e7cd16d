// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
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
	if d.CountRemainingArgs() != 1 {
		return d.Err("credentials takes one argument, the name of a preset or a template")
	}
	h.Credentials = new(credential.Config)
	return source.ReadDialect(d, h.Credentials)
}
