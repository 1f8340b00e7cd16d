// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// ReadTags reads the option tags of an account: a key and its values.
func (a *Account) ReadTags(d *caddyfile.Dispenser) error {
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
