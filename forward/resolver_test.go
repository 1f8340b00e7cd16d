// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// F2: an answer that changes between the check and the dial changes nothing, for
// there is one answer.
func TestNameIsResolvedOnceAndDialledAsChecked(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			server := newNames(t, network, []string{"127.0.0.1"}, []string{"127.0.0.2"}, []string{"127.0.0.2", "127.0.0.1"})
			w := newWorld(t, alice, oneExit, loopback, "resolver "+server.address)
			_, port, err := net.SplitHostPort(w.origin)
			require.NoError(t, err)
			destination := "rebind.shop.example:" + port

			require.Equal(t, http.StatusOK, w.connect("alice", destination).status)
			require.Equal(t, 1, server.questions(), "each further answer may be another one")
			res := w.connect("alice", destination)
			require.Equal(t, http.StatusForbidden, res.status)
			require.Equal(t, "destination_ip_prohibited", res.reason())
			require.NotContains(t, res.body, "127.0.0.2")
			require.Equal(t, 2, server.questions())
			require.Equal(t, http.StatusOK, w.connect("alice", destination).status, "one of its addresses is allowed")

			c := w.dial()
			c.send("GET http://" + destination + "/ HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n")
			require.Equal(t, "127.0.0.11", c.answer(http.MethodGet).body)
		})
	}
}

func TestNameThatTheResolverDoesNotKnow(t *testing.T) {
	w := newWorld(t, alice, oneExit, loopback, "resolver "+newNames(t, "udp", nil).address)
	res := w.connect("alice", "nowhere.shop.example:443")
	require.Equal(t, http.StatusBadGateway, res.status)
	require.Equal(t, "dns_error", res.reason())
}

func TestResolverThatIsNotThere(t *testing.T) {
	w := newWorld(t, alice, oneExit, loopback, "dial_timeout 2s\nresolver "+deadPort(t))
	require.Contains(t, []string{"dns_error", "dns_timeout", "connection_refused"}, w.connect("alice", "nowhere.shop.example:443").reason())
}
