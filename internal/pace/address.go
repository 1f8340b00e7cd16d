// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pace

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ipv6Site is how much of an IPv6 address names one client: whoever has an
// address has all of its /64.
const ipv6Site = 64

var errNoAddr = errors.New("no address")

// ClientAddr is the address that limits are about: the client's, as Caddy knows
// it (behind trusted proxies the one that they name). An IPv6 address stands for
// its /64. It is invalid where there is none, as on a Unix socket.
func ClientAddr(r *http.Request) netip.Addr {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	var addr netip.Addr
	err := errNoAddr
	if text != "" {
		addr, err = netip.ParseAddr(text)
	}
	if err != nil {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return netip.Addr{}
		}
		addr = from.Addr()
	}
	addr = addr.WithZone("").Unmap()
	if addr.Is6() {
		prefix, _ := addr.Prefix(ipv6Site) // fits
		return prefix.Addr()
	}
	return addr
}
