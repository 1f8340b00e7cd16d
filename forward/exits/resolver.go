// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// NewResolver asks one DNS server, nil where none is given. It is reached by UDP,
// and by TCP for answers that are too long for that.
func NewResolver(address string) (*net.Resolver, error) {
	if address == "" {
		return nil, nil //nolint:nilnil // nil is the system's
	}
	const port = 53
	server, err := netip.ParseAddrPort(address)
	if err != nil {
		var addr netip.Addr
		addr, err = netip.ParseAddr(address)
		server = netip.AddrPortFrom(addr, port)
	}
	if err != nil || server.Port() == 0 {
		return nil, fmt.Errorf("resolver %q is not an IP address, with a port or without, such as 192.0.2.53 or [2001:db8::53]:5353", address)
	}
	return &net.Resolver{
		PreferGo: true, // the system's own would ask whom it likes
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, server.String())
		},
	}, nil
}
