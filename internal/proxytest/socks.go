// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/proxy"
)

// Wrapped is a site whose server has these listener wrappers.
func Wrapped(block string, wrappers ...string) Site {
	return Site{
		Block:  block,
		Global: "servers {\n listener_wrappers {\n" + strings.Join(wrappers, "\n") + "\n}\n}\n",
	}
}

// NewSocksWorld is NewWorld with a server that speaks SOCKS5 too.
func NewSocksWorld(t *testing.T, lines ...string) *World {
	t.Helper()
	origin := OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, HostOf(r.RemoteAddr))
	})
	return NewWorldWith(t, origin, Wrapped(strings.Join(lines, "\n"), "sticky_socks5"))
}

// SocksDialer is golang.org/x/net's client, here by way of dial.
func (w *World) SocksDialer(user string, dial proxy.Dialer) proxy.Dialer {
	w.T.Helper()
	dialer, err := proxy.SOCKS5("tcp", w.Proxy, &proxy.Auth{User: user, Password: PasswordOf(user)}, dial)
	require.NoError(w.T, err)
	return dialer
}

// SocksText returns what a client says up to its request.
func SocksText(user, password, address string) string {
	return "\x05\x01\x02\x01" + string(rune(len(user))) + user + string(rune(len(password))) + password + "\x05\x01\x00" + address
}

// SocksDomain returns a destination by its name as it is in a request.
func SocksDomain(name string, port uint16) string {
	return "\x03" + string([]byte{byte(len(name))}) + name + string([]byte{byte(port >> 8), byte(port)})
}
