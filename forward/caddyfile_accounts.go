// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/forward/accounts"
	"github.com/caddy-sticky/caddy-sticky/internal/directive"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

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
