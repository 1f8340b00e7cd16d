// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/proxy"
)

// wrapped is a site whose server has these listener wrappers.
func wrapped(block string, wrappers ...string) site {
	return site{
		block:  block,
		global: "servers {\n listener_wrappers {\n" + strings.Join(wrappers, "\n") + "\n}\n}\n",
	}
}

// newSocksWorld is newWorld with a server that speaks SOCKS5 too.
func newSocksWorld(t *testing.T, lines ...string) *world {
	t.Helper()
	origin := originOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, hostOf(r.RemoteAddr))
	})
	return newWorldWith(t, origin, wrapped(strings.Join(lines, "\n"), "sticky_socks5"))
}

// socksDialer is golang.org/x/net's client, here by way of dial.
func (w *world) socksDialer(user string, dial proxy.Dialer) proxy.Dialer {
	w.t.Helper()
	dialer, err := proxy.SOCKS5("tcp", w.proxy, &proxy.Auth{User: user, Password: passwordOf(user)}, dial)
	require.NoError(w.t, err)
	return dialer
}

// socksText returns what a client says up to its request.
func socksText(user, password, address string) string {
	return "\x05\x01\x02\x01" + string(rune(len(user))) + user + string(rune(len(password))) + password + "\x05\x01\x00" + address
}

// socksDomain returns a destination by its name as it is in a request.
func socksDomain(name string, port uint16) string {
	return "\x03" + string([]byte{byte(len(name))}) + name + string([]byte{byte(port >> 8), byte(port)})
}
