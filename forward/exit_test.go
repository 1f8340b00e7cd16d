// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// failure is a way in which an exit fails.
type failure struct {
	scheme, name string
	does         func(*net.TCPConn) // nil: it refuses connections
	status       int                // where the failure is told to the client
	reason       string
}

var failures = []failure{
	{"http", "refuses", nil, 502, "connection_refused"},
	{"http", "hangs up at once", hangUp, 502, "connection_terminated"},
	{"http", "hangs up on the request", hangUpLater, 502, "connection_terminated"},
	{"http", "wants other credentials", says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"), 502, "http_request_denied"},
	{"http", "says nothing", hang, 504, "connection_timeout"},
	{"http", "has an endless head", endlessHead, 502, "http_response_header_section_size"},
	{"http", "does not speak HTTP", says("SSH-2.0-OpenSSH\r\n"), 502, ""},
	{"socks5", "refuses", nil, 502, "connection_refused"},
	{"socks5", "hangs up at once", hangUp, 502, "connection_terminated"},
	{"socks5", "hangs up on the request", socksHangsUp, 502, "connection_terminated"},
	{"socks5", "says nothing", hang, 504, "connection_timeout"},
	{"socks5", "does not speak SOCKS5", says("HTTP/1.1 400 Bad Request\r\n\r\n"), 0, ""},
}

// each runs a test for each way to fail. A short dial_timeout would fail exits
// that are only slow, so it is short only where one hangs.
func each(t *testing.T, test func(t *testing.T, f failure, timeout string)) {
	t.Helper()
	for _, f := range failures {
		t.Run(f.scheme+" "+f.name, func(t *testing.T) {
			timeout := ""
			if f.status == http.StatusGatewayTimeout || f.status == 0 {
				timeout = "dial_timeout 700ms"
			}
			test(t, f, timeout)
		})
	}
}

func TestStrictSessionMovesAtOnceAndTheRequestSucceeds(t *testing.T) {
	each(t, func(t *testing.T, f failure, timeout string) {
		p := newPair(t, f.scheme, timeout)
		first := p.exit("alice-session-abc")
		p.breaks(first, f.does)
		second := p.exit("alice-session-abc")
		require.NotEqual(t, first, second)
		p.mends(first, f.does)
		for range 5 {
			require.Equal(t, second, p.exit("alice-session-abc"), "a session does not go back")
		}
	})
}

func TestRequestWithoutSessionGoesOnAtAnotherExit(t *testing.T) {
	each(t, func(t *testing.T, f failure, timeout string) {
		p := newPair(t, f.scheme, timeout)
		p.breaks("127.0.0.21", f.does)
		for range 3 {
			require.Equal(t, "127.0.0.22", p.exit("alice"))
		}
	})
}

func TestFlexSessionStaysWithItsExit(t *testing.T) {
	each(t, func(t *testing.T, f failure, timeout string) {
		p := newPair(t, f.scheme, timeout)
		const user = "alice-session-abc-sessionmode-flex"
		first := p.exit(user)
		p.breaks(first, f.does)
		res := p.connect(user, p.origin)
		if f.status == 0 {
			require.GreaterOrEqual(t, res.status, 502)
		} else {
			require.Equal(t, f.status, res.status)
		}
		require.NotEmpty(t, res.reason())
		if f.reason != "" {
			require.Equal(t, f.reason, res.reason())
		}
		p.mends(first, f.does)
		require.Equal(t, first, p.exit(user))
	})
}

func TestFlexSessionMovesAfterItsLastError(t *testing.T) {
	for user, limit := range map[string]int{
		"alice-session-abc-sessionmode-flex": 15, "alice-session-abc-sessionmode-flex-sessionerr-3": 3,
	} {
		p := newPair(t, "http")
		first := p.exit(user)
		p.breaks(first, nil)
		for i := range limit {
			require.Equal(t, http.StatusBadGateway, p.connect(user, p.origin).status, "error %d", i+1)
		}
		require.NotEqual(t, first, p.exit(user))
	}
}

func TestSuccessForgivesAFlexSessionsErrors(t *testing.T) {
	p := newPair(t, "http")
	const user = "alice-session-abc-sessionmode-flex-sessionerr-3"
	first := p.exit(user)
	for range 3 {
		p.breaks(first, hangUp)
		for range 2 {
			require.Equal(t, http.StatusBadGateway, p.connect(user, p.origin).status)
		}
		p.mends(first, hangUp)
		require.Equal(t, first, p.exit(user))
	}
}

func TestNorotateSessionNeverMoves(t *testing.T) {
	p := newPair(t, "socks5")
	const user = "alice-session-abc-sessionmode-norotate"
	first := p.exit(user)
	p.breaks(first, nil)
	for range 20 {
		require.Equal(t, http.StatusBadGateway, p.connect(user, p.origin).status)
	}
	p.mends(first, nil)
	require.Equal(t, first, p.exit(user))
	require.Equal(t, first, p.exit("alice-session-abc"), "whatever mode comes next")
}

func TestConfiguredModeIsForThoseWhoDoNotSay(t *testing.T) {
	p := newPair(t, "http", "mode flex\nmax_errors 2")
	first := p.exit("alice-session-abc")
	p.breaks(first, hangUp)
	require.Equal(t, http.StatusBadGateway, p.connect("alice-session-abc", p.origin).status)
	p.mends(first, hangUp)
	require.Equal(t, first, p.exit("alice-session-abc"))
	p.breaks(first, hangUp)
	require.NotEqual(t, first, p.exit("alice-session-abc-sessionmode-strict"))
}

func TestAllExitsDeadIs502(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		for _, user := range []string{"alice", "alice-session-abc", "alice-session-flex-sessionmode-flex", "alice-session-n-sessionmode-norotate"} {
			p := newPair(t, scheme)
			for from := range p.exits {
				p.breaks(from, nil)
			}
			for range 2 {
				res := p.connect(user, p.origin)
				require.Equal(t, http.StatusBadGateway, res.status, res.body)
				require.NotEmpty(t, res.reason())
				require.Equal(t, http.StatusBadGateway, p.forwarded(user).status)
			}
			for from := range p.exits {
				p.mends(from, nil)
			}
			// They rest for some seconds, and serve all the same if nobody else does.
			require.Equal(t, http.StatusOK, p.connect(user, p.origin).status)
		}
	}
}

// A source address that this machine does not have is the exit's fault.
func TestDirectExitWithoutItsAddressFails(t *testing.T) {
	w := newWorld(t, alice, loopback, "exit direct://192.0.2.1")
	res := w.connect("alice", w.origin)
	require.Equal(t, http.StatusBadGateway, res.status, res.body)
	w = newWorld(t, alice, loopback, "exit direct://192.0.2.1", oneExit)
	for i := range 4 {
		require.Equal(t, "127.0.0.11", w.exit(fmt.Sprint("alice-session-", i)))
	}
}

// What an exit says about the destination is the destination's.
func TestAnswersAboutTheDestinationCostTheSessionNothing(t *testing.T) {
	for _, test := range []struct {
		scheme string
		says   func(*net.TCPConn)
		status int
		reason string
	}{
		{"http", says("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), 502, ""},
		{"http", says("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), 502, ""},
		{"http", says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), 502, ""},
		{"http", says("HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n"), 502, ""},
		{"socks5", socksSays(2), 502, "http_request_denied"},
		{"socks5", socksSays(3), 502, "destination_ip_unroutable"},
		{"socks5", socksSays(4), 502, "destination_unavailable"},
		{"socks5", socksSays(5), 502, "connection_refused"},
		{"socks5", socksSays(6), 504, "connection_timeout"},
	} {
		p := newPair(t, test.scheme)
		first := p.exit("alice-session-abc")
		p.breaks(first, test.says)
		for range 3 {
			res := p.connect("alice-session-abc", "shop.example:443")
			require.Equal(t, test.status, res.status, res.body)
			require.NotEmpty(t, res.reason())
			if test.reason != "" {
				require.Equal(t, test.reason, res.reason())
			}
		}
		p.mends(first, test.says)
		require.Equal(t, first, p.exit("alice-session-abc"))
	}
}

func TestForwardedRequestGoesOnAtAnotherExit(t *testing.T) {
	for _, f := range failures {
		if f.status != http.StatusBadGateway {
			continue
		}
		if f.scheme == "http" && f.name != "refuses" && f.name != "wants other credentials" {
			continue // here the exit's answer is the origin's as well
		}
		t.Run(f.scheme+" "+f.name, func(t *testing.T) {
			p := newPair(t, f.scheme)
			first := p.exit("alice-session-abc") // a tunnel leaves no idle connection
			p.breaks(first, f.does)
			res := p.forwarded("alice-session-abc")
			require.Equal(t, http.StatusOK, res.status, res.body)
			require.NotEqual(t, first, res.body)
			p.mends(first, f.does)
			require.Equal(t, res.body, p.exit("alice-session-abc"))
		})
	}
}

// A body that nobody has read can go elsewhere.
func TestUnreadBodyIsSentThroughAnotherExit(t *testing.T) {
	origin, requests := recordingBodies(t)
	good, bad := newPuppet(t, httpProxy(away{from: "127.0.0.22"}, nil)), newPuppet(t, hangUp)
	bad.refuse()
	w := newWorldWith(t, origin, site{block: alice + loopback + "exit http://" + bad.address + "\nexit http://" + good.address})
	for i := range 4 {
		c := w.dial()
		c.send("POST http://" + origin + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" +
			credentials(fmt.Sprint("alice-session-", i)) + "\r\nhello")
		res := c.answer(http.MethodPost)
		require.Equal(t, http.StatusOK, res.status, res.body)
		require.Equal(t, "hello", <-requests)
		c.close()
	}
	require.Empty(t, requests)
}

// A body that was read may have had its effect, and cannot be read again.
func TestBodyThatWasReadIsNotSentAgain(t *testing.T) {
	origin, requests := recordingBodies(t)
	good := newPuppet(t, httpProxy(away{from: "127.0.0.22"}, nil))
	// These take the request and its body, and then fail.
	for name, does := range map[string]func(*net.TCPConn){
		"407":     says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"),
		"hang up": hangUpLater,
	} {
		t.Run(name, func(t *testing.T) {
			bad := newPuppet(t, does)
			w := newWorldWith(t, origin, site{
				block: alice + loopback + "fallback round_robin\nexit http://" + bad.address + "\nexit http://" + good.address,
			})
			answers := make(map[int]int)
			for range 8 {
				c := w.dial()
				c.send("POST http://" + origin + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + credentials("alice") + "\r\nhello")
				answers[c.answer(http.MethodPost).status]++
				c.close()
			}
			require.Positive(t, answers[http.StatusBadGateway], "answers: %v", answers)
			require.Equal(t, 8, answers[http.StatusBadGateway]+answers[http.StatusOK], "answers: %v", answers)
			require.Len(t, requests, answers[http.StatusOK], "each body arrived once or not at all")
			for len(requests) > 0 {
				require.Equal(t, "hello", <-requests)
			}
		})
	}
}

// An exit that answers while the body is still on its way.
func TestExitThatRefusesDuringAnUploadIs502(t *testing.T) {
	exit := newPuppet(t, says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"))
	w := newWorld(t, alice, loopback, "exit http://"+exit.address)
	for range 10 {
		c := w.dial()
		written := make(chan struct{})
		go func() {
			defer close(written)
			_, _ = c.conn.Write([]byte("POST http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n" +
				credentials("alice-session-abc") + "\r\n" + strings.Repeat("x", 200000)))
		}()
		res := c.answer(http.MethodPost)
		require.Equal(t, http.StatusBadGateway, res.status, res.body)
		<-written
		c.close()
	}
}

// Whether an exit answers may depend on the destination, and that is a client's
// choice: it must not drive other clients off the exit.
func TestOnlyTheSessionThatMetAnUnclearFailureMoves(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			p := newPair(t, scheme, "dial_timeout 300ms")
			first := p.exit("alice-session-quiet")
			noisy := "alice-session-noisy"
			for i := 0; p.exit(noisy) != first; i++ {
				noisy = fmt.Sprint("alice-session-noisy", i)
			}
			p.breaks(first, hang)
			require.Equal(t, http.StatusOK, p.connect(noisy, p.origin).status)
			p.mends(first, hang)
			require.NotEqual(t, first, p.exit(noisy), "it moved")
			require.Equal(t, first, p.exit("alice-session-quiet"), "it has met no failure")
		})
	}
}
