// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

// Egress is a site whose reverse_proxy leaves through sticky exits.
type Egress struct {
	*World
	Site string // host:port
	// Reconfigure gives the network proxy another block.
	Reconfigure func(block string) error
}

// NewEgress starts a site in front of an upstream. The lines are the block of
// its network_proxy, options are those of its reverse_proxy and transport.
func NewEgress(t *testing.T, upstream, options, transport, block string) *Egress {
	t.Helper()
	port := peer.Port(t)
	sites := func(block string) string {
		return fmt.Sprintf(`:%d {
	bind 127.0.0.1
	log {
		output sticky_test
		format json
	}
	log_append target {http.sticky.target}
	log_append outcome {http.sticky.outcome}
	reverse_proxy %s {
		%s
		transport http {
			%s
			network_proxy sticky outbound {
				%s
			}
		}
	}
}`, port, upstream, options, transport, block)
	}
	e := &Egress{Site: fmt.Sprintf("127.0.0.1:%d", port)}
	s := Site{Block: "open\nexit direct://", Sites: sites(block), Global: "order log_append before reverse_proxy"}
	e.World = NewWorldWith(t, upstream, s)
	e.Reconfigure = func(block string) error {
		config := *e.Config
		config.Sites = sites(block)
		return e.Load(config)
	}
	return e
}

// Get asks the site for the address that the upstream sees, in a connection of
// its own.
func (e *Egress) Get(session string) (int, string) {
	e.T.Helper()
	r, err := http.NewRequestWithContext(e.T.Context(), http.MethodGet, "http://"+e.Site+"/", nil)
	require.NoError(e.T, err)
	if session != "" {
		r.Header.Set("X-Session", session)
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	require.NoError(e.T, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(e.T, err)
	return res.StatusCode, string(body)
}

// FourProxies are two HTTP and two SOCKS5 proxies, each with an address of its own.
func FourProxies(t *testing.T) (block string) {
	t.Helper()
	block = "header X-Session\n"
	for i := range 2 {
		block += fmt.Sprintf("exit http://user:s3cret@%s\n", NewPuppet(t, HTTPProxy(Away{From: fmt.Sprintf("127.0.0.1%d", i+1)}, nil)).Address)
		block += fmt.Sprintf("exit socks5://%s\n", NewPuppet(t, SocksProxy(Away{From: fmt.Sprintf("127.0.0.1%d", i+3)})).Address)
	}
	return block
}
