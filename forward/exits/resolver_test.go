// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits_test

import (
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// F2: an answer that changes between the check and the dial changes nothing, for
// there is one answer.
func TestNameIsResolvedOnceAndDialledAsChecked(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			server := proxytest.NewNames(t, network, []string{"127.0.0.1"}, []string{"127.0.0.2"}, []string{"127.0.0.2", "127.0.0.1"})
			w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback, "resolver "+server.Address)
			_, port, err := net.SplitHostPort(w.Origin)
			require.NoError(t, err)
			destination := "rebind.shop.example:" + port

			require.Equal(t, http.StatusOK, w.Connect("alice", destination).Status)
			require.Equal(t, 1, server.Questions(), "each further answer may be another one")
			res := w.Connect("alice", destination)
			require.Equal(t, http.StatusForbidden, res.Status)
			require.Equal(t, "destination_ip_prohibited", res.Reason())
			require.NotContains(t, res.Body, "127.0.0.2")
			require.Equal(t, 2, server.Questions())
			require.Equal(t, http.StatusOK, w.Connect("alice", destination).Status, "one of its addresses is allowed")

			c := w.Dial()
			c.Send("GET http://" + destination + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
			require.Equal(t, "127.0.0.11", c.Answer(http.MethodGet).Body)
		})
	}
}

func TestNameThatTheResolverDoesNotKnow(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback, "resolver "+proxytest.NewNames(t, "udp", nil).Address)
	res := w.Connect("alice", "nowhere.shop.example:443")
	require.Equal(t, http.StatusBadGateway, res.Status)
	require.Equal(t, "dns_error", res.Reason())
}

func TestResolverThatIsNotThere(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback, "dial_timeout 2s\nresolver "+proxytest.DeadPort(t))
	require.Contains(t, []string{"dns_error", "dns_timeout", "connection_refused"}, w.Connect("alice", "nowhere.shop.example:443").Reason())
}
