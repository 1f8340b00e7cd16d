// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

// The whole program as a load balancer: one Caddy that serves the same upstreams
// with each policy, on a port of its own. The policies are asked in turn, a few
// thousand requests each, so that whatever else the machine does meets them all.
// Reported are requests per second, beside the header policy of Caddy the median
// of what the turns that followed one another gave, and how often a session was
// answered by another upstream than before.
const (
	benchConnections = 64
	benchSessions    = 1000
	benchRequests    = 64 // of each connection, in one turn
	benchTurn        = benchConnections * benchRequests
)

var benchPolicies = []struct{ name, policy string }{
	{"header", "header X-Session"},
	{"header_again", "header X-Session"}, // how far apart two are that are the same
	{"sticky_header", "sticky by_header {\nheader X-Session\n}"},
	{"sticky_cookie", "sticky by_cookie"},
	{"cookie", "cookie lb secret"},
	{"uri_hash", "uri_hash"},
	{"ip_hash", "ip_hash"},
}

func BenchmarkBalancer(b *testing.B) {
	counts := []int{3, 100, 1000}
	if testing.Short() {
		counts = counts[:1]
	}
	for _, upstreams := range counts {
		b.Run(fmt.Sprintf("upstreams=%d", upstreams), func(b *testing.B) {
			line := benchUpstreams(b, upstreams)
			s := program.Start(b)
			config := fmt.Sprintf("{\n\tadmin %s\n\tauto_https off\n\tlog {\n\t\toutput discard\n\t}\n}\n", s.Admin)
			clients := make([]*benchClients, len(benchPolicies))
			for i, port := range program.FreePorts(b, len(benchPolicies)) {
				config += fmt.Sprintf("http://:%d {\n\tbind 127.0.0.1\n\treverse_proxy%s {\n\t\tlb_policy %s\n\t}\n}\n", port, line, benchPolicies[i].policy)
				clients[i] = &benchClients{address: fmt.Sprintf("127.0.0.1:%d", port)}
			}
			require.NoError(b, s.Load(program.AsCaddyfile, config))
			for _, c := range clients {
				c.open(b)
				for range 1 + benchSessions/benchConnections/benchRequests + 2 {
					c.turn(b) // sessions begin, connections open
				}
				c.took, c.moved = nil, atomic.Int64{}
			}
			for i := 0; b.Loop(); i++ {
				for j := range clients {
					clients[(i+j)%len(clients)].turn(b)
				}
			}
			b.ReportMetric(0, "ns/op")
			for i, c := range clients {
				b.ReportMetric(c.rate(), benchPolicies[i].name+"-req/s")
				b.ReportMetric(c.beside(clients[0]), benchPolicies[i].name+"/header")
				if moved := c.moved.Load(); moved > 0 && strings.HasPrefix(benchPolicies[i].name, "sticky") {
					b.Errorf("%s: %d of %d requests left their upstream", benchPolicies[i].name, moved, len(c.took)*benchTurn)
				}
			}
		})
	}
}

// benchUpstreams starts n servers that answer with their number, and do little
// else. It returns their addresses, each after a space.
func benchUpstreams(b *testing.B, n int) (addresses string) {
	b.Helper()
	for i := range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		b.Cleanup(func() { _ = ln.Close() })
		addresses += " " + ln.Addr().String()
		body := strconv.Itoa(i)
		answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go benchAnswer(conn, answer)
			}
		}()
	}
	return addresses
}

func benchAnswer(conn net.Conn, answer []byte) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) > 2 {
			continue
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// benchClients are the clients of one policy.
type benchClients struct {
	address string
	clients []*benchClient
	took    []time.Duration // of each turn
	moved   atomic.Int64
}

// benchClient has a connection, and the sessions that use it.
type benchClient struct {
	conn     net.Conn
	r        *bufio.Reader
	sessions []benchSession
	next     int
}

type benchSession struct{ request, server []byte }

func (c *benchClients) open(b *testing.B) {
	b.Helper()
	for i := range benchConnections {
		conn, err := net.Dial("tcp", c.address)
		require.NoError(b, err)
		b.Cleanup(func() { _ = conn.Close() })
		client := &benchClient{conn: conn, r: bufio.NewReader(conn)}
		for id := i; id < benchSessions; id += benchConnections {
			request := fmt.Appendf(nil, "GET /%d HTTP/1.1\r\nHost: shop\r\nX-Session: session-%d\r\n\r\n", id, id)
			client.sessions = append(client.sessions, benchSession{request: request})
		}
		c.clients = append(c.clients, client)
	}
}

// turn lets all clients make their requests.
func (c *benchClients) turn(b *testing.B) {
	b.Helper()
	var wg sync.WaitGroup
	begin := time.Now()
	for _, client := range c.clients {
		wg.Go(func() {
			for range benchRequests {
				moved, err := client.ask()
				if err != nil {
					b.Errorf("%s: %v", c.address, err)
					return
				}
				if moved {
					c.moved.Add(1)
				}
			}
		})
	}
	wg.Wait()
	c.took = append(c.took, time.Since(begin))
	if b.Failed() {
		b.FailNow()
	}
}

func (c *benchClients) rate() float64 { return benchTurn / median(c.took).Seconds() }

// beside is the median of the rate beside that of another policy in the same
// round.
func (c *benchClients) beside(other *benchClients) float64 {
	ratios := make([]float64, len(c.took))
	for i := range ratios {
		ratios[i] = other.took[i].Seconds() / c.took[i].Seconds()
	}
	return median(ratios)
}

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

var (
	benchLength = []byte("Content-Length: ")
	benchCookie = []byte("Set-Cookie: ")
)

// ask makes the next session's next request. It reports whether another server
// answered than before.
func (c *benchClient) ask() (moved bool, err error) {
	s := &c.sessions[c.next%len(c.sessions)]
	c.next++
	if _, err = c.conn.Write(s.request); err != nil {
		return false, err
	}
	length, status := 0, ""
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		if status == "" {
			status = string(line)
		} else if value, ok := bytes.CutPrefix(line, benchLength); ok {
			length, _ = strconv.Atoi(string(value))
		} else if value, ok := bytes.CutPrefix(line, benchCookie); ok {
			pair, _, _ := bytes.Cut(value, []byte(";"))
			head, _, _ := bytes.Cut(s.request, []byte("Cookie:"))
			s.request = fmt.Appendf(nil, "%s\r\nCookie: %s\r\n\r\n", bytes.TrimRight(head, "\r\n"), pair)
		}
	}
	if status != "HTTP/1.1 200 OK" {
		return false, fmt.Errorf("answered with %s", status)
	}
	var server [8]byte
	if _, err := io.ReadFull(c.r, server[:length]); err != nil {
		return false, err
	}
	if s.server == nil {
		s.server = bytes.Clone(server[:length])
	}
	return !bytes.Equal(s.server, server[:length]), nil
}
