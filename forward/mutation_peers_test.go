// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package forward_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// mutationPeers are the origins and the http exit of the mutation test.
type mutationPeers struct {
	good      string   // reports hidden requests
	refusing  string   // no server listens here
	origins   []string // for the forward proxy: good and those that misbehave
	upstreams []string // for the load balancer
	exit      string   // an http proxy that misbehaves

	answered atomic.Uint64 // how many malformed answers were sent
	exited   atomic.Uint64 // how many requests the exit has read
}

func newMutationPeers(t *testing.T, refusing string, hidden func(path string)) *mutationPeers {
	t.Helper()
	p := &mutationPeers{refusing: refusing}
	p.good = proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(peerTimeout))
		if strings.Contains(r.RequestURI, hiddenPath) {
			hidden(r.RequestURI)
		}
		if r.URL.Path == "/early" {
			_, _ = io.WriteString(w, "early")
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, proxytest.HostOf(r.RemoteAddr))
	})
	p.upstreams = []string{p.good, p.refusing}
	for _, serve := range []func(*net.TCPConn){
		proxytest.Says("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"),
		resets, answersLate, switches, p.sendsMalformedAnswers,
	} {
		p.upstreams = append(p.upstreams, proxytest.ServerOf(t, bounded(serve)))
	}
	p.origins = append(slices.Clip(p.upstreams), p.good, p.good, p.good, proxytest.ServerOf(t, bounded(p.sendsStatusesBelow100)))
	p.exit = proxytest.ServerOf(t, bounded(p.misbehavesAsExit))
	return p
}

// peerTimeout is how long a peer waits at most. Without it a request could last
// for ever: net/http does not notice that a client left if bytes of a body or of
// another request are still unread.
const peerTimeout = 2 * time.Second

// bounded serves each connection for at most peerTimeout.
func bounded(serve func(*net.TCPConn)) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		_ = conn.SetDeadline(time.Now().Add(peerTimeout))
		serve(conn)
	}
}

// resets reads a request and resets the connection.
func resets(conn *net.TCPConn) {
	_, _ = http.ReadRequest(bufio.NewReader(conn))
	_ = conn.SetLinger(0)
}

// answersLate reads for 30 ms before it answers.
func answersLate(conn *net.TCPConn) {
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.SetReadDeadline(time.Now().Add(peerTimeout))
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate")
	_ = conn.CloseWrite()
	proxytest.Hang(conn)
}

// switches accepts each upgrade and sends back the bytes that follow.
func switches(conn *net.TCPConn) {
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		proxytest.Echo(conn)
	}
}

// malformedAnswers are answers that no origin should send.
var malformedAnswers = []string{
	"", "\n", "HTTP/1.1", "garbage\r\n\r\n", "HTTP/0.9 200 OK\r\n\r\nx", "HTTP/2.0 200 OK\r\n\r\n", "SSH-2.0-x\r\n",
	"HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 -99 X\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 10), "HTTP/1.1 199 X\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 101 Switching Protocols\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nx",
	"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nbad\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\nContent-Length: 3\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX-A: \x00\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: Content-Length, X-A\r\nX-A: b\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.0 200 OK\r\n\r\nuntil the end", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
	"HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("x", 70_000) + "\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\n",
}

// sendsMalformedAnswers answers one request with the next malformed answer.
func (p *mutationPeers) sendsMalformedAnswers(conn *net.TCPConn) {
	proxytest.Says(malformedAnswers[p.answered.Add(1)%uint64(len(malformedAnswers))])(conn)
}

// sendsStatusesBelow100 does what Caddy's reverse_proxy does not survive: its
// ResponseWriter panics.
func (p *mutationPeers) sendsStatusesBelow100(conn *net.TCPConn) {
	proxytest.Says(fmt.Sprintf("HTTP/1.1 %03d X\r\nContent-Length: 0\r\n\r\n", p.answered.Add(1)%100))(conn)
}

// misbehavesAsExit is an http proxy that serves two of three requests and fails
// at each third one.
func (p *mutationPeers) misbehavesAsExit(conn *net.TCPConn) {
	switch n := p.exited.Add(1); {
	case n%15 == 0:
		resets(conn)
	case n%15 == 3:
		proxytest.Hang(conn)
	case n%15 == 6:
		p.sendsStatusesBelow100(conn)
	case n%3 == 0:
		p.sendsMalformedAnswers(conn)
	default:
		reader := bufio.NewReader(conn)
		for p.servesAsExit(conn, reader) {
		}
	}
}

// servesAsExit serves one request. It returns false if that was the last one of
// the connection.
func (p *mutationPeers) servesAsExit(conn *net.TCPConn, reader *bufio.Reader) bool {
	r, err := http.ReadRequest(reader)
	if err != nil {
		return false
	}
	host := strings.Replace(r.URL.Host, "localhost", "127.0.0.1", 1)
	r.URL.Host = host
	if !slices.Contains(p.origins, host) {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return false
	}
	if r.Method != http.MethodConnect {
		// ForwardOne may leave a body unread, and that is no request.
		return proxytest.ForwardOne(conn, r, proxytest.Away{}) && r.ContentLength == 0
	}
	target, err := proxytest.Away{}.Dial(host)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return false
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	proxytest.Join(conn, reader, target)
	return false
}
