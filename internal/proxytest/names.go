// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"net"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// Names is a DNS server whose answers are a list of lists of addresses, one list
// after the other for each question for IPv4 addresses; the last one stays.
type Names struct {
	Address string

	mu      sync.Mutex
	answers [][]string
	asked   int
}

// NewNames starts a DNS server with these answers. If network is "tcp", its answers
// over UDP are truncated.
func NewNames(t *testing.T, network string, answers ...[]string) *Names {
	t.Helper()
	n := &Names{answers: answers}
	udp, tcp := bothPorts(t)
	n.Address = udp.LocalAddr().String()
	for _, server := range []*dns.Server{
		{PacketConn: udp, Handler: n.handler(network == "tcp")}, {Listener: tcp, Handler: n.handler(false)},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		ended := make(chan error, 1)
		go func() { ended <- server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			require.NoError(t, server.Shutdown())
			require.NoError(t, <-ended)
		})
	}
	return n
}

// bothPorts listens on a port that is free in both protocols.
func bothPorts(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return udp, tcp
		}
		require.NoError(t, tcp.Close())
	}
	t.Fatal("no port is free in both protocols")
	return nil, nil
}

// handler answers, or says that the answer is too long.
func (n *Names) handler(truncate bool) dns.HandlerFunc {
	return func(w dns.ResponseWriter, question *dns.Msg) {
		reply := new(dns.Msg).SetReply(question)
		reply.Truncated = truncate
		if question.Question[0].Qtype == dns.TypeA && !truncate {
			for _, addr := range n.next() {
				reply.Answer = append(reply.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: question.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
					A:   net.ParseIP(addr),
				})
			}
		}
		_ = w.WriteMsg(reply)
	}
}

func (n *Names) next() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := min(n.asked, len(n.answers)-1)
	n.asked++
	return n.answers[i]
}

// Questions returns how many questions for IPv4 addresses came.
func (n *Names) Questions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}
