// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

// egress is a site whose reverse_proxy leaves through sticky exits.
type egress struct {
	*world
	site string // host:port
	// reconfigure gives the network proxy another block.
	reconfigure func(block string) error
}

// newEgress starts a site in front of an upstream. The lines are the block of
// its network_proxy, options are those of its reverse_proxy and transport.
func newEgress(t *testing.T, upstream, options, transport, block string) *egress {
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
	e := &egress{site: fmt.Sprintf("127.0.0.1:%d", port)}
	s := site{block: "open\nexit direct://", sites: sites(block), global: "order log_append before reverse_proxy"}
	e.world = newWorldWith(t, upstream, s)
	e.reconfigure = func(block string) error {
		config := *e.config
		config.sites = sites(block)
		return e.load(config)
	}
	return e
}

// get asks the site for the address that the upstream sees, in a connection of
// its own.
func (e *egress) get(session string) (int, string) {
	e.t.Helper()
	r, err := http.NewRequestWithContext(e.t.Context(), http.MethodGet, "http://"+e.site+"/", nil)
	require.NoError(e.t, err)
	if session != "" {
		r.Header.Set("X-Session", session)
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	require.NoError(e.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(e.t, err)
	return res.StatusCode, string(body)
}

// fourProxies are two HTTP and two SOCKS5 proxies, each with an address of its own.
func fourProxies(t *testing.T) (block string) {
	t.Helper()
	block = "header X-Session\n"
	for i := range 2 {
		block += fmt.Sprintf("exit http://user:s3cret@%s\n", newPuppet(t, httpProxy(away{from: fmt.Sprintf("127.0.0.1%d", i+1)}, nil)).address)
		block += fmt.Sprintf("exit socks5://%s\n", newPuppet(t, socksProxy(away{from: fmt.Sprintf("127.0.0.1%d", i+3)})).address)
	}
	return block
}
