// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// counted is a proxy with three http exits that all do the same, and count how
// often each request in absolute form was sent.
type counted struct {
	*proxytest.World
	sends atomic.Int64

	mu       sync.Mutex
	requests map[string]int64 // by path
}

// newCounted makes exits that read a request with its body and then do this.
func newCounted(t *testing.T, exits string, does func(*net.TCPConn), lines ...string) *counted {
	t.Helper()
	c := &counted{requests: make(map[string]int64)}
	exit := func(conn *net.TCPConn) {
		reader := bufio.NewReader(conn)
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.requests[r.URL.Path]++
		c.mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		does(conn)
	}
	block := append([]string{proxytest.Alice, proxytest.Loopback}, lines...)
	for range strings.Count(exits, "%s") {
		exits = strings.Replace(exits, "%s", proxytest.NewPuppet(t, exit).Address, 1)
	}
	c.World = proxytest.NewWorld(t, append(block, exits)...)
	return c
}

// outcome is the status of a request, its reason, and how often it was sent.
type outcome struct {
	status int
	reason string
	sent   int64
}

// send sends one request. It may run on any goroutine.
func (c *counted) send(method, user, lines, body string) (outcome, error) {
	path := fmt.Sprint("/pay/", c.sends.Add(1))
	conn, err := net.Dial("tcp", c.Proxy)
	if err != nil {
		return outcome{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(proxytest.Guard)); err != nil {
		return outcome{}, err
	}
	head := method + " http://shop.example" + path + " HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials(user) + lines + "\r\n"
	if _, err := io.WriteString(conn, head+body); err != nil {
		return outcome{}, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return outcome{}, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return outcome{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return outcome{res.StatusCode, proxytest.Reply{Header: res.Header}.Reason(), c.requests[path]}, nil
}

const (
	threeHTTP = "exit http://%s\nexit http://%s\nexit http://%s"
	gateway   = "exit http://u-{session}:secret@%s {\n slots 100\n}"

	wantsCredentials = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
)

// requestKinds are kinds of requests, and whether they may be sent twice.
var requestKinds = []struct {
	method, lines, body string
	repeatable          bool
}{
	{"POST", "Content-Length: 0\r\n", "", false},
	{"POST", "", "", false},
	{"POST", "Content-Length: 3\r\n", "abc", false},
	{"POST", "Content-Length: 0\r\nIdempotency-Key: 1\r\n", "", false},
	{"PATCH", "Content-Length: 0\r\n", "", false},
	{"BREW", "", "", false},
	{"GET", "Content-Length: 3\r\n", "abc", false},
	{"PUT", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", false},
	{"GET", "", "", true},
	{"HEAD", "", "", true},
	{"OPTIONS", "", "", true},
	{"TRACE", "", "", true},
	{"PUT", "Content-Length: 0\r\n", "", true},
	{"DELETE", "", "", true},
}

var sessionModes = []string{"alice", "alice-session-p", "alice-session-n-sessionmode-norotate", "alice-session-f-sessionmode-flex"}

// C15: a slow response is one 504. It is not repeated, and says nothing about the
// exit.
func TestSlowResponseIsOne504(t *testing.T) {
	for name, exits := range map[string]string{"http exits": threeHTTP, "gateway": gateway} {
		t.Run(name, func(t *testing.T) {
			c := newCounted(t, exits, proxytest.Hang, "response_timeout 80ms", "idle_timeout 50ms")
			want := outcome{http.StatusGatewayTimeout, "http_response_timeout", 1}
			var wg sync.WaitGroup
			for i, what := range requestKinds {
				for _, user := range []string{sessionModes[i%len(sessionModes)], sessionModes[(i+1)%len(sessionModes)]} {
					wg.Go(func() { // all wait for the timeout at the same time
						got, err := c.send(what.method, user, what.lines, what.body)
						if err != nil || got != want {
							t.Errorf("%s %q %s: got %+v and %v, want %+v", what.method, what.lines, user, got, err, want)
						}
					})
				}
			}
			wg.Wait()
			require.Empty(t, c.Logs.Lines("exit failed"))
			require.Empty(t, c.Logs.Lines("", proxytest.Fields{"outcome": "moved"}))
		})
	}
}

// C15, RFC 9110 §9.2.2: a request that an exit may have got goes to a second
// one only if it is idempotent and has no body, and only once.
func TestRequestThatAnExitGotIsRepeatedOnceAtMost(t *testing.T) {
	for name, does := range map[string]func(*net.TCPConn){
		"hangs up": proxytest.HangUp,
		"answers 407": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, wantsCredentials)
			_ = conn.CloseWrite()
			proxytest.Hang(conn)
		},
		"resets":        func(conn *net.TCPConn) { _ = conn.SetLinger(0) },
		"half a header": func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: y\r\n") },
	} {
		for kind, exits := range map[string]string{"http exits": threeHTTP, "gateway": gateway} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				c := newCounted(t, exits, does)
				for _, what := range requestKinds {
					for _, user := range sessionModes {
						got, err := c.send(what.method, user, what.lines, what.body)
						require.NoError(t, err)
						require.Equal(t, http.StatusBadGateway, got.status, "%s %q %s", what.method, what.lines, user)
						want := int64(1)
						if what.repeatable && !strings.Contains(user, "mode") && name != "half a header" {
							want = 2
						}
						require.Equal(t, want, got.sent, "%s %q %s", what.method, what.lines, user)
					}
				}
			})
		}
	}
}

// Nothing was sent to an exit that refuses connections, so any request goes on.
func TestRequestThatNoExitGotGoesOn(t *testing.T) {
	origin, requests := proxytest.RecordingBodies(t)
	good := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.22"}, nil))
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback +
		"exit http://" + proxytest.DeadPort(t) + "\nexit socks5://" + proxytest.DeadPort(t) + "\nexit http://" + good.Address})
	for i, what := range requestKinds {
		conn := w.Dial()
		conn.Send(fmt.Sprintf("%s http://%s/ HTTP/1.1\r\nHost: x\r\n%s%s\r\n%s", what.method, origin, proxytest.Credentials(fmt.Sprint("alice-session-", i)), what.lines, what.body))
		require.Equal(t, http.StatusOK, conn.Answer(what.method).Status, "%s %q", what.method, what.lines)
		conn.Close()
		<-requests
	}
	require.Empty(t, requests)
}

// The limit holds for all kinds of exits, and begins when the request was sent
// with its body. It ends with the header: a body may take its time.
func TestResponseTimeoutOfEachKindOfExit(t *testing.T) {
	for kind, exitOf := range map[string]func() string{
		"direct": func() string { return proxytest.OneExit },
		"http": func() string {
			return "exit http://" + proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.21"}, nil)).Address
		},
		"socks5": func() string {
			return "exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{From: "127.0.0.21"})).Address
		},
	} {
		t.Run(kind, func(t *testing.T) {
			exit := exitOf()
			slow := proxytest.NewPuppet(t, proxytest.Hang) // it ends first, and then the exit that waits for it
			w := proxytest.NewWorldWith(t, slow.Address, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + "response_timeout 50ms\n" + exit})
			for _, what := range requestKinds {
				before := slow.Dials.Load()
				c := w.Dial()
				res := w.Ask(c, what.method, "/", what.lines, what.body)
				require.Equal(t, http.StatusGatewayTimeout, res.Status, what.method)
				require.Equal(t, "http_response_timeout", res.Reason())
				require.Equal(t, before+1, slow.Dials.Load(), what.method)
				c.Close()
			}
			require.Empty(t, w.Logs.Lines("exit failed"))
		})
	}
}

func TestUploadThatTakesLongerThanTheResponseTimeout(t *testing.T) {
	origin, requests := recording(t)
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + proxytest.OneExit + "response_timeout 100ms"})
	c := w.Dial()
	c.Send(post(origin, framing{lines: "Content-Length: 5\r\n"}))
	for range 5 {
		require.True(t, c.Silent()) // 100 ms
		c.Send("A")
	}
	require.Equal(t, http.StatusOK, c.Answer(http.MethodPost).Status)
	require.Len(t, requests, 1)
}

func TestResponseTimeoutMayBeOff(t *testing.T) {
	release := make(chan struct{})
	w := proxytest.NewWorldWith(t, proxytest.OriginOf(t, func(http.ResponseWriter, *http.Request) { <-release }),
		proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + proxytest.OneExit + "response_timeout off"})
	c := w.Dial()
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
	require.True(t, c.Silent())
	close(release)
	require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
}

// C16: an origin that closes a connection at the moment when it is used again
// costs no request: what cannot be repeated goes on a connection of its own.
func TestRequestsOnConnectionsThatTheOriginCloses(t *testing.T) {
	var served atomic.Int64
	origin := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		reader := bufio.NewReader(conn)
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		served.Add(1)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		_, _ = reader.Peek(1) // the next request finds the connection closed
	})
	w := oneProxy(t, origin)
	c := w.Dial()
	n := int64(0)
	for range 3 {
		for _, what := range requestKinds {
			require.Equal(t, http.StatusOK, w.Ask(c, http.MethodGet, "/", "", "").Status)
			require.Equal(t, http.StatusOK, w.Ask(c, what.method, "/", what.lines, what.body).Status, "%s %q", what.method, what.lines)
			n += 2
			require.Equal(t, n, served.Load())
		}
	}
}

// A slow origin moves nothing, also in mode flex where failures are counted.
func TestSlowResponseKeepsTheSession(t *testing.T) {
	p := proxytest.NewPair(t, "http", "response_timeout 300ms", "max_errors 1")
	for _, user := range []string{"alice-session-a", "alice-session-b-sessionmode-flex"} {
		first := p.Exit(user)
		p.Breaks(first, proxytest.Hang)
		begin := time.Now()
		require.Equal(t, http.StatusGatewayTimeout, p.Forwarded(user).Status)
		require.GreaterOrEqual(t, time.Since(begin), 300*time.Millisecond)
		p.Mends(first, proxytest.Hang)
		require.Equal(t, first, p.Exit(user))
	}
}
