// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"net"
	"testing"
)

// Pair is a proxy with two exits that can be told apart and told to fail.
type Pair struct {
	*World
	scheme string
	Exits  map[string]*Puppet // by the address that the origin sees
}

// NewPair starts a proxy with two exits of this scheme, and these lines in its block.
func NewPair(t *testing.T, scheme string, lines ...string) *Pair {
	t.Helper()
	p := &Pair{scheme: scheme, Exits: make(map[string]*Puppet)}
	block := append([]string{Alice, Loopback}, lines...)
	for _, from := range []string{"127.0.0.21", "127.0.0.22"} {
		exit := NewPuppet(t, p.works(from))
		p.Exits[from] = exit
		block = append(block, "exit "+scheme+"://"+exit.Address)
	}
	p.World = NewWorld(t, block...)
	return p
}

// works is what an exit does that leaves from an address.
func (p *Pair) works(from string) func(*net.TCPConn) {
	if p.scheme == "socks5" {
		return SocksProxy(Away{From: from})
	}
	return HTTPProxy(Away{From: from}, nil)
}

// Breaks lets the exit fail that leaves from an address; nil: it refuses.
func (p *Pair) Breaks(from string, how func(*net.TCPConn)) {
	if how == nil {
		p.Exits[from].Refuse()
		return
	}
	p.Exits[from].Does(how)
}

// Mends undoes Breaks.
func (p *Pair) Mends(from string, how func(*net.TCPConn)) {
	p.T.Helper()
	if how == nil {
		p.Exits[from].Listen()
		return
	}
	p.Exits[from].Does(p.works(from))
}
