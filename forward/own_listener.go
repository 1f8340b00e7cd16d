// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
)

// tcpListeners returns the addresses at which the server of this context accepts
// TCP connections.
func tcpListeners(ctx caddy.Context) []caddy.NetworkAddress {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil
	}
	var listeners []caddy.NetworkAddress
	for i, listen := range server.Listen {
		protocols := server.Protocols
		if i < len(server.ListenProtocols) && server.ListenProtocols[i] != nil {
			protocols = server.ListenProtocols[i]
		}
		address, err := caddy.ParseNetworkAddress(listen)
		if err != nil || !slices.ContainsFunc(protocols, isOverTCP) {
			continue // Caddy reports the error when it listens
		}
		switch address.Network {
		case "tcp", "tcp4", "tcp6":
			listeners = append(listeners, address)
		}
	}
	return listeners
}

func isOverTCP(protocol string) bool { return protocol != "h3" }

// checkOwnListener refuses an exit that is a listener of the proxy's own server.
// Each request would come back through it until no descriptor is left. Of host
// names only localhost is checked: a name may have another address later on.
func (h *Handler) checkOwnListener(exit exits.Exit) error {
	address, ok := exits.ProxyAddress(exit)
	if !ok {
		return nil
	}
	d, err := destination.Parse(address)
	if err != nil {
		return fmt.Errorf("%s: %w", exit.Identity(), err)
	}
	for _, listener := range h.listeners {
		if reaches(d, listener, h.rules.IsOwn) {
			return fmt.Errorf("%s is the listener %s of this server, so requests would come back to it: "+
				"give the exit the address of another proxy", exit.Identity(), listener)
		}
	}
	return nil
}

// reaches reports whether a connection to d is one to the listener. isOwn says
// which addresses beside loopback ones are this machine's.
func reaches(d destination.Destination, listener caddy.NetworkAddress, isOwn func(netip.Addr) bool) bool {
	if uint(d.Port) < listener.StartPort || uint(d.Port) > listener.EndPort {
		return false
	}
	for _, addr := range dialled(d) {
		switch {
		case listener.Network == "tcp4" && !addr.Is4(), listener.Network == "tcp6" && !addr.Is6():
		case isWildcard(listener.Host):
			if addr.IsLoopback() || isOwn(addr) {
				return true
			}
		case slices.Contains(listens(listener), addr):
			return true
		}
	}
	return false
}

// dialled returns the addresses that net.Dial connects to if the host is an address
// or localhost. net.Dial takes an unspecified address for this machine.
func dialled(d destination.Destination) []netip.Addr {
	if d.Addr.IsValid() && !d.Addr.IsUnspecified() {
		return []netip.Addr{d.Addr}
	}
	if d.Addr.IsValid() {
		return literal("localhost")
	}
	return literal(d.Host)
}

// literal returns the addresses that a host means without a resolver.
func literal(host string) []netip.Addr {
	if strings.EqualFold(host, "localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	return []netip.Addr{addr.WithZone("").Unmap()}
}

// listens returns the addresses at which Go listens for the host of a listener. Of
// those of localhost it is one: that of IPv4, unless the network is tcp6.
func listens(listener caddy.NetworkAddress) []netip.Addr {
	addrs := literal(listener.Host)
	switch {
	case len(addrs) < 2:
		return addrs
	case listener.Network == "tcp6":
		return addrs[1:]
	}
	return addrs[:1]
}

// isWildcard reports whether a listener's host means all addresses. Go listens at
// those of both families, unless the network is tcp4 or tcp6.
func isWildcard(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}
