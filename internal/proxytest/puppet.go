// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

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

// Puppet is a server on 127.0.0.1 that does what the test says, from one
// connection to the next.
type Puppet struct {
	t       testing.TB
	Address string
	Dials   atomic.Int64

	mu    sync.Mutex
	serve func(*net.TCPConn)
	ln    net.Listener
	conns map[*net.TCPConn]struct{}
	ended bool
	wg    sync.WaitGroup
}

// NewPuppet starts a server whose connections are each served by serve and closed
// when it returns.
func NewPuppet(t testing.TB, serve func(*net.TCPConn)) *Puppet {
	t.Helper()
	// After Refuse no other program gets the port.
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", peer.Port(t)))
	require.NoError(t, err)
	p := &Puppet{t: t, Address: ln.Addr().String(), serve: serve, ln: ln, conns: make(map[*net.TCPConn]struct{})}
	p.wg.Add(1)
	go p.accept(ln)
	t.Cleanup(func() {
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.Refuse()
		p.wg.Wait()
	})
	return p
}

// accept ends when its listener is closed.
func (p *Puppet) accept(ln net.Listener) {
	defer p.wg.Done()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		p.Dials.Add(1)
		p.wg.Add(1)
		go p.run(conn.(*net.TCPConn))
	}
}

// run ends when serve does, which the end of the test sees to.
func (p *Puppet) run(conn *net.TCPConn) {
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

// Refuse stops listening and cuts all connections.
func (p *Puppet) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.ln.Close()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// Listen begins again after Refuse.
func (p *Puppet) Listen() {
	p.t.Helper()
	ln, err := net.Listen("tcp", p.Address)
	require.NoError(p.t, err)
	p.mu.Lock()
	p.ln = ln
	p.mu.Unlock()
	p.wg.Add(1)
	go p.accept(ln)
}

// Does changes what happens to connections from now on.
func (p *Puppet) Does(serve func(*net.TCPConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serve = serve
}

// What puppets do.

// Hang takes everything and says nothing.
func Hang(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) }

// HangUp closes at once.
func HangUp(*net.TCPConn) {}

// HangUpLater takes a request and closes.
func HangUpLater(conn *net.TCPConn) { _, _ = http.ReadRequest(bufio.NewReader(conn)) }

// Says answers each request with this text, and then waits for the other side.
func Says(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.CloseWrite()
		Hang(conn)
	}
}

// EndlessHead answers and never comes to the end of the header.
func EndlessHead(conn *net.TCPConn) {
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
	for line := "X-More: " + strings.Repeat("x", 1000) + "\r\n"; err == nil; {
		_, err = io.WriteString(conn, line)
	}
}

// Echo sends back what comes, and ends when the other side does.
func Echo(conn *net.TCPConn) {
	if _, err := io.Copy(conn, conn); err == nil {
		_ = conn.CloseWrite()
	}
}

// Away is a way from a proxy to destinations: from an address, and to another
// place than asked for if To is set.
type Away struct{ From, To string }

// Dial connects by this way.
func (a Away) Dial(destination string) (*net.TCPConn, error) {
	if a.To != "" {
		destination = a.To
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(a.From)}}
	conn, err := dialer.Dial("tcp", destination)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// HTTPProxy is a small HTTP proxy. A copy of each request goes to seen, if that
// is not nil.
func HTTPProxy(a Away, seen func(*http.Request)) func(*net.TCPConn) {
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
				if !ForwardOne(conn, r, a) {
					return
				}
				continue
			}
			target, err := a.Dial(r.Host)
			if err != nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
				continue
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			Join(conn, reader, target)
			return
		}
	}
}

// ForwardOne sends one request and its answer on; false if that was the last.
func ForwardOne(conn *net.TCPConn, r *http.Request, a Away) bool {
	host := r.URL.Host
	target, err := a.Dial(host)
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

// Join carries a tunnel until one side ends, or the test.
func Join(conn *net.TCPConn, early io.Reader, target *net.TCPConn) {
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

// SocksProxy is a small SOCKS5 proxy (RFC 1928) that asks for no password.
func SocksProxy(a Away) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		destination, err := socksRequest(conn)
		if err != nil {
			return
		}
		target, err := a.Dial(destination)
		if err != nil {
			socksAnswer(conn, 5)
			return
		}
		socksAnswer(conn, 0)
		Join(conn, conn, target)
	}
}

// SocksSays answers each request with this reply (RFC 1928 §6).
func SocksSays(code byte) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		if _, err := socksRequest(conn); err != nil {
			return
		}
		socksAnswer(conn, code)
		Hang(conn)
	}
}

// SocksHangsUp takes the request and closes.
func SocksHangsUp(conn *net.TCPConn) { _, _ = socksRequest(conn) }

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

// DeadPort is an address where no program listens.
func DeadPort(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", peer.Port(t))
}

// Open returns how many connections are open.
func (p *Puppet) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// OpenFrom returns how many connections from this address are open.
func (p *Puppet) OpenFrom(address string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		if HostOf(conn.RemoteAddr().String()) == address {
			n++
		}
	}
	return n
}
