// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// names is a DNS server whose answers are a list of lists of addresses, one list
// after the other for each question for IPv4 addresses; the last one stays.
type names struct {
	address string

	mu      sync.Mutex
	answers [][]string
	asked   int
}

func newNames(t *testing.T, network string, answers ...[]string) *names {
	t.Helper()
	n := &names{answers: answers}
	udp, tcp := bothPorts(t)
	n.address = udp.LocalAddr().String()
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
func (n *names) handler(truncate bool) dns.HandlerFunc {
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

func (n *names) next() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := min(n.asked, len(n.answers)-1)
	n.asked++
	return n.answers[i]
}

func (n *names) questions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

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
