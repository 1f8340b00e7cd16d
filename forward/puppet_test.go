// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

// puppet is a server on 127.0.0.1 that does what the test says, from one
// connection to the next.
type puppet struct {
	t       testing.TB
	address string
	dials   atomic.Int64

	mu    sync.Mutex
	serve func(*net.TCPConn)
	ln    net.Listener
	conns map[*net.TCPConn]struct{}
	ended bool
	wg    sync.WaitGroup
}

// newPuppet starts a server whose connections are each served by serve and closed
// when it returns.
func newPuppet(t testing.TB, serve func(*net.TCPConn)) *puppet {
	t.Helper()
	// After refuse no other program gets the port.
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", peer.Port(t)))
	require.NoError(t, err)
	p := &puppet{t: t, address: ln.Addr().String(), serve: serve, ln: ln, conns: make(map[*net.TCPConn]struct{})}
	p.wg.Add(1)
	go p.accept(ln)
	t.Cleanup(func() {
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.refuse()
		p.wg.Wait()
	})
	return p
}

// accept ends when its listener is closed.
func (p *puppet) accept(ln net.Listener) {
	defer p.wg.Done()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		p.dials.Add(1)
		p.wg.Add(1)
		go p.run(conn.(*net.TCPConn))
	}
}

// run ends when serve does, which the end of the test sees to.
func (p *puppet) run(conn *net.TCPConn) {
	defer p.wg.Done()
	defer conn.Close()
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	serve := p.serve
	p.conns[conn] = struct{}{}
	p.mu.Unlock()
	serve(conn)
	p.mu.Lock()
	delete(p.conns, conn)
	p.mu.Unlock()
}

// refuse stops listening and cuts all connections.
func (p *puppet) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.ln.Close()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// listen begins again after refuse.
func (p *puppet) listen() {
	p.t.Helper()
	ln, err := net.Listen("tcp", p.address)
	require.NoError(p.t, err)
	p.mu.Lock()
	p.ln = ln
	p.mu.Unlock()
	p.wg.Add(1)
	go p.accept(ln)
}

// does changes what happens to connections from now on.
func (p *puppet) does(serve func(*net.TCPConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serve = serve
}

// What puppets do.

// hang takes everything and says nothing.
func hang(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) }

// hangUp closes at once.
func hangUp(*net.TCPConn) {}

// hangUpLater takes a request and closes.
func hangUpLater(conn *net.TCPConn) { _, _ = http.ReadRequest(bufio.NewReader(conn)) }

// says answers each request with this text, and then waits for the other side.
func says(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.CloseWrite()
		hang(conn)
	}
}

// endlessHead answers and never comes to the end of the header.
func endlessHead(conn *net.TCPConn) {
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
	for line := "X-More: " + strings.Repeat("x", 1000) + "\r\n"; err == nil; {
		_, err = io.WriteString(conn, line)
	}
}

// echo sends back what comes, and ends when the other side does.
func echo(conn *net.TCPConn) {
	if _, err := io.Copy(conn, conn); err == nil {
		_ = conn.CloseWrite()
	}
}

// away is a way from a proxy to destinations: from an address, and to another
// place than asked for if to is set.
type away struct{ from, to string }

// dial connects by this way.
func (a away) dial(destination string) (*net.TCPConn, error) {
	if a.to != "" {
		destination = a.to
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(a.from)}}
	conn, err := dialer.Dial("tcp", destination)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// httpProxy is a small HTTP proxy. A copy of each request goes to seen, if that
// is not nil.
func httpProxy(a away, seen func(*http.Request)) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		reader := bufio.NewReader(conn)
		for {
			r, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			if seen != nil {
				seen(r.Clone(r.Context()))
			}
			if r.Method != http.MethodConnect {
				if !forwardOne(conn, r, a) {
					return
				}
				continue
			}
			target, err := a.dial(r.Host)
			if err != nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
				continue
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			join(conn, reader, target)
			return
		}
	}
}

// forwardOne sends one request and its answer on; false if that was the last.
func forwardOne(conn *net.TCPConn, r *http.Request, a away) bool {
	host := r.URL.Host
	target, err := a.dial(host)
	if err != nil {
		_, err = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return err == nil
	}
	defer target.Close()
	r.Close = true
	r.Header.Del("Proxy-Authorization")
	if r.Write(target) != nil {
		return false
	}
	res, err := http.ReadResponse(bufio.NewReader(target), r)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	res.Close = false
	res.Header.Del("Connection")
	return res.Write(conn) == nil
}

// join carries a tunnel until one side ends, or the test.
func join(conn *net.TCPConn, early io.Reader, target *net.TCPConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(target, early)
		_ = target.CloseWrite()
	}()
	_, _ = io.Copy(conn, target)
	_ = conn.CloseWrite()
	<-done
	_ = target.Close()
}

// socksProxy is a small SOCKS5 proxy (RFC 1928) that asks for no password.
func socksProxy(a away) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		destination, err := socksRequest(conn)
		if err != nil {
			return
		}
		target, err := a.dial(destination)
		if err != nil {
			socksAnswer(conn, 5)
			return
		}
		socksAnswer(conn, 0)
		join(conn, conn, target)
	}
}

// socksSays answers each request with this reply (RFC 1928 §6).
func socksSays(code byte) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		if _, err := socksRequest(conn); err != nil {
			return
		}
		socksAnswer(conn, code)
		hang(conn)
	}
}

// socksHangsUp takes the request and closes.
func socksHangsUp(conn *net.TCPConn) { _, _ = socksRequest(conn) }

func socksAnswer(conn *net.TCPConn, code byte) {
	_, _ = conn.Write([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0})
}

// socksRequest reads a greeting and a request.
func socksRequest(conn *net.TCPConn) (destination string, err error) {
	read := func(n int) []byte {
		buf := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(conn, buf)
		}
		return buf
	}
	read(int(read(2)[1]))
	if err == nil {
		_, err = conn.Write([]byte{5, 0})
	}
	var host string
	switch kind := read(4)[3]; kind {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	case 4:
		host = net.IP(read(16)).String()
	default:
		return "", fmt.Errorf("address of kind %d (%w)", kind, err)
	}
	port := binary.BigEndian.Uint16(read(2))
	return net.JoinHostPort(host, fmt.Sprint(port)), err
}

// deadPort is an address that nobody listens on.
func deadPort(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", peer.Port(t))
}

// open returns how many connections are open.
func (p *puppet) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// openFrom returns how many connections from this address are open.
func (p *puppet) openFrom(address string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		if hostOf(conn.RemoteAddr().String()) == address {
			n++
		}
	}
	return n
}
