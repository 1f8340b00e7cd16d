// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"testing"
	"time"
)

// account is who asks the sticky proxy here, with a session and with a password
// whose hash is of bcrypt's lowest cost: it is verified once.
const (
	account  = "account alice $2a$04$K3kKau3IwHX47oTO8W6OeelqRLY4teCn.uodCrc9tubUx1xZD2O6O"
	password = "alice-session-abc-sessionttl-30:secret"
)

var withAccount = "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(password)) + "\r\n"

// origin is a web server that answers with two bytes and does little else.
func origin(address string) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
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
				if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
					return
				}
			}
		}()
	}
}

// twoIdle is a proxy for requests in absolute form that keeps as many connections
// to a host as net/http does by itself.
var twoIdle = &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, Transport: &http.Transport{}}

// askers are the contestants that know accounts or need none; haproxy is no
// forward proxy.
func askers() []contestant {
	list := []contestant{{"sticky", func(b *testing.B, _ string, as []string) *proxy {
		b.Helper()
		p := startCaddy(b, account, as)
		p.credentials = withAccount
		return p
	}}}
	for _, c := range contestants {
		if c.name != "sticky" && c.name != "haproxy" {
			list = append(list, c)
		}
	}
	return list
}

// BenchmarkOpenTunnels opens tunnels and closes them, 16 at a time: what counts is
// the proxy's CPU time. Of sticky, with credentials that it remembers.
func BenchmarkOpenTunnels(b *testing.B) {
	round := 2000
	if testing.Short() {
		round = 100
	}
	for _, c := range askers() {
		b.Run(c.name, func(b *testing.B) {
			target := startSource(b)
			p := c.start(b, target, nil)
			opens := func(n int) {
				for _, conn := range open(b, p, target, n) {
					_ = conn.Close()
				}
			}
			opens(round / 2)
			cpu, n := p.cpu(b), 0
			for b.Loop() {
				opens(round)
				n += round
			}
			b.ReportMetric(float64((p.cpu(b)-cpu).Microseconds())/float64(n), "cpu-us/tunnel")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkGet sends requests in absolute form over 64 connections.
func BenchmarkGet(b *testing.B) {
	const connections = 64
	round := 200 // of each connection
	if testing.Short() {
		round = 5
	}
	for _, c := range askers() {
		b.Run(c.name, func(b *testing.B) {
			address := startRole(b, "origin", nil).address
			p := c.start(b, address, nil)
			clients := make([]*asker, connections)
			for i := range clients {
				clients[i] = &asker{
					address: p.address,
					request: fmt.Sprintf("GET http://%s/%d HTTP/1.1\r\nHost: %[1]s\r\n%[3]s\r\n", address, i, p.credentials),
				}
				b.Cleanup(clients[i].close)
			}
			all := func() {
				var wg sync.WaitGroup
				for _, client := range clients {
					wg.Go(func() {
						for range round {
							if err := client.ask(); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
			all()
			cpu, begin, n := p.cpu(b), time.Now(), 0
			for b.Loop() && !b.Failed() {
				all()
				n += round * connections
			}
			b.ReportMetric(float64(n)/time.Since(begin).Seconds(), "req/s")
			b.ReportMetric(float64((p.cpu(b)-cpu).Microseconds())/float64(n), "cpu-us/req")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// asker is a client with a connection, and with another one where the proxy keeps
// none.
type asker struct {
	address, request string

	conn net.Conn
	r    *bufio.Reader
}

// ask asks once more where the proxy closed the connection after the request
// before, which tinyproxy does and does not say.
func (a *asker) ask() error {
	kept := a.conn != nil
	err := a.once()
	if err != nil && kept {
		a.close()
		err = a.once()
	}
	return err
}

func (a *asker) once() error {
	if a.conn == nil {
		conn, err := net.Dial("tcp", a.address)
		if err != nil {
			return err
		}
		a.conn, a.r = conn, bufio.NewReader(conn)
	}
	if _, err := io.WriteString(a.conn, a.request); err != nil {
		return err
	}
	res, err := http.ReadResponse(a.r, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	_, err = io.Copy(io.Discard, res.Body)
	if res.Close {
		a.close()
	}
	return err
}

func (a *asker) close() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}
