// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package networkproxy_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// A transport keeps connections of HTTP/2 by the upstream alone.
func TestNetworkProxyKeepsSessionsApartWhereTheUpstreamSpeaksHTTP2(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.HandlerFunc(proxytest.Mirror))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	e := proxytest.NewEgress(t, secure.Listener.Addr().String(), "", "tls_insecure_skip_verify", proxytest.FourProxies(t))
	seen := make(map[string]bool)
	for i := range 16 {
		_, exit := e.Get(fmt.Sprint("s", i))
		seen[exit] = true
	}
	require.GreaterOrEqual(t, len(seen), 3)
	for _, version := range []string{"3", "h2c"} {
		config := *e.Config
		config.Sites = fmt.Sprintf(":0 {\n reverse_proxy https://127.0.0.1:1 {\n transport http {\n versions %s\n network_proxy sticky {\n exit http://127.0.0.1:9\n}\n}\n}\n}", version)
		require.ErrorContains(t, e.Load(config), "the transport's version "+version+" cannot be kept on an exit")
	}
}

// E2: a socket that is no exit gets no exit's password, nor anything else.
func TestNetworkProxyLeadsToNoUnixSocket(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", file)
	require.NoError(t, err)
	dialled := make(chan struct{}, 1)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
			dialled <- struct{}{}
		}
	}()
	t.Cleanup(func() { _ = ln.Close() })
	e := proxytest.NewEgress(t, "unix/"+file, "", "", "header X-Session\nexit http://user:s3cret@127.0.0.1:9")
	status, _ := e.Get("a")
	require.Equal(t, http.StatusBadGateway, status)
	require.Empty(t, dialled)
}

// The slots of a gateway that is dead are dead together.
func TestNetworkProxyLeavesAGatewayAtOnce(t *testing.T) {
	e := proxytest.NewEgress(t, proxytest.OriginOf(t, proxytest.Mirror), "lb_retries 1", "", fmt.Sprintf("header X-Session\nexit http://u-{session}:p@%s {\n slots 8\n}\nexit http://%s",
		proxytest.DeadPort(t), proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.11"}, nil)).Address))
	for i := range 20 {
		status, exit := e.Get(fmt.Sprint("s", i))
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "127.0.0.11", exit)
	}
}
