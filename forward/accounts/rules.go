// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"net/netip"
	"slices"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
)

// newAccountRules compiles the destinations of one account: nil if nothing is
// said. They come on top of the proxy's own, so nothing is denied here by
// default; with an allow, whatever it does not name is.
func newAccountRules(allow, deny []string) (*destination.Rules, error) {
	if len(allow)+len(deny) == 0 {
		return nil, nil //nolint:nilnil // no rules are no error
	}
	if len(allow) > 0 && !slices.Contains(deny, "*") {
		deny = append(slices.Clip(deny), "*")
	}
	return destination.NewRules(destination.Config{
		Ports: []string{"1-65535"}, Allow: allow, Deny: deny, NothingByDefault: true,
		Own: func() ([]netip.Addr, error) { return nil, nil },
	})
}

// Check says whether the account may reach a destination, as far as that can
// be said before a name is resolved.
func (a *Entry) Check(d destination.Destination) error {
	if rules := a.Own(); rules != nil {
		return rules.Check(d)
	}
	return nil
}

// Own returns the account's rules; nil where the proxy's suffice, and where no
// account is verified.
func (a *Entry) Own() *destination.Rules {
	if a == nil {
		return nil
	}
	return a.rules
}
