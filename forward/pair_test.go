// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net"
	"strings"
	"testing"
)

// pair is a proxy with two exits that can be told apart and told to fail.
type pair struct {
	*world
	scheme string
	exits  map[string]*puppet // by the address that the origin sees
}

// newPair starts a proxy with two exits of this scheme, and these lines in its block.
func newPair(t *testing.T, scheme string, lines ...string) *pair {
	t.Helper()
	p := &pair{scheme: scheme, exits: make(map[string]*puppet)}
	block := alice + loopback + strings.Join(lines, "\n")
	for _, from := range []string{"127.0.0.21", "127.0.0.22"} {
		exit := newPuppet(t, p.works(from))
		p.exits[from] = exit
		block += "\nexit " + scheme + "://" + exit.address
	}
	p.world = newWorld(t, block)
	return p
}

// works is what an exit does that leaves from an address.
func (p *pair) works(from string) func(*net.TCPConn) {
	if p.scheme == "socks5" {
		return socksProxy(away{from: from})
	}
	return httpProxy(away{from: from}, nil)
}

// breaks lets the exit fail that leaves from an address; nil: it refuses.
func (p *pair) breaks(from string, how func(*net.TCPConn)) {
	if how == nil {
		p.exits[from].refuse()
		return
	}
	p.exits[from].does(how)
}

// mends undoes breaks.
func (p *pair) mends(from string, how func(*net.TCPConn)) {
	p.t.Helper()
	if how == nil {
		p.exits[from].listen()
		return
	}
	p.exits[from].does(p.works(from))
}
