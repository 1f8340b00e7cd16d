// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"net"
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

// check says whether the account may reach a destination, as far as that can
// be said before a name is resolved.
func (a *account) check(d destination.Destination) error {
	if a == nil || a.rules == nil {
		return nil
	}
	return a.rules.Check(d)
}

// accountRulesKey is where a dial finds the rules of its account.
type accountRulesKey struct{}

// dialContext gives a dial the account's rules, which exits that resolve names
// here ask about each address.
func (a *account) dialContext(ctx context.Context) context.Context {
	if a == nil || a.rules == nil {
		return ctx
	}
	return context.WithValue(ctx, accountRulesKey{}, a.rules)
}

// checkAccountAddr judges an address that is about to be dialled by the rules
// of the account it is dialled for.
func checkAccountAddr(ctx context.Context, d destination.Destination, addr netip.Addr) error {
	r, ok := ctx.Value(accountRulesKey{}).(*destination.Rules)
	if !ok {
		return nil
	}
	return r.CheckAddr(d, addr)
}

// transports send the account's requests in absolute form through an exit. An
// account with rules of its own has connections of its own: those of others may
// lead to addresses that it may not reach.
func (a *account) transports(t *target) *transports {
	if a == nil || a.rules == nil {
		return t.transports
	}
	if own, ok := a.clients.Load(t.outlet); ok {
		return own.(*transports)
	}
	kept := t.transports.kept.Clone()
	if dial := kept.DialContext; dial != nil {
		kept.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			return dial(a.dialContext(ctx), network, address)
		}
	}
	actual, _ := a.clients.LoadOrStore(t.outlet, newTransports(kept))
	return actual.(*transports)
}

func (a *account) closeClients() {
	a.clients.Range(func(_, own any) bool {
		own.(*transports).closeIdleConnections()
		return true
	})
}
