// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"context"
	"net"
	"net/http"
	"net/netip"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

// accountRulesKey is where a dial finds the rules of its account.
type accountRulesKey struct{}

// WithRules gives a dial the rules of an account, which exits that resolve names
// here ask about each address. Nil adds none.
func WithRules(ctx context.Context, rules *destination.Rules) context.Context {
	if rules == nil {
		return ctx
	}
	return context.WithValue(ctx, accountRulesKey{}, rules)
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

// uncheckedKey marks connections that the rules about clients' destinations do
// not concern.
type uncheckedKey struct{}

// Unchecked returns the context of a dial that the rules about clients'
// destinations do not concern.
func Unchecked(ctx context.Context) context.Context {
	return context.WithValue(ctx, uncheckedKey{}, true)
}

// destinationKey is where a dial finds its destination that the pool of
// connections has under another name.
type destinationKey struct{}

// WithDestination gives a dial its destination.
func WithDestination(ctx context.Context, d destination.Destination) context.Context {
	return context.WithValue(ctx, destinationKey{}, d)
}

// viaKey is the context key of the Via lines that a CONNECT brought.
type viaKey struct{}

// WithVia gives the Via lines of a CONNECT to the exit that it goes on through. A
// proxy further on then detects a loop.
func WithVia(ctx context.Context, r *http.Request) context.Context {
	if lines := r.Header["Via"]; len(lines) > 0 {
		return context.WithValue(ctx, viaKey{}, lines)
	}
	return ctx
}

func receivedVia(ctx context.Context) []string {
	lines, _ := ctx.Value(viaKey{}).([]string)
	return lines
}

// dialExit connects to another proxy. All its errors are the exit's.
func dialExit(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, proxystatus.ExitFailure(err)
	}
	return conn, nil
}

// dialParsed lets an http.Transport connect through an exit.
func dialParsed(e Exit) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		d, known := ctx.Value(destinationKey{}).(destination.Destination)
		if !known {
			var err error
			if d, err = destination.Parse(address); err != nil {
				return nil, err
			}
		}
		return e.Connect(ctx, d)
	}
}
