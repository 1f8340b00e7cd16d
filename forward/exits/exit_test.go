// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
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
	{"http", "hangs up at once", proxytest.HangUp, 502, "connection_terminated"},
	{"http", "hangs up on the request", proxytest.HangUpLater, 502, "connection_terminated"},
	{"http", "wants other credentials", proxytest.Says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"), 502, "http_request_denied"},
	{"http", "says nothing", proxytest.Hang, 504, "connection_timeout"},
	{"http", "has an endless head", proxytest.EndlessHead, 502, "http_response_header_section_size"},
	{"http", "does not speak HTTP", proxytest.Says("SSH-2.0-OpenSSH\r\n"), 502, ""},
	{"socks5", "refuses", nil, 502, "connection_refused"},
	{"socks5", "hangs up at once", proxytest.HangUp, 502, "connection_terminated"},
	{"socks5", "hangs up on the request", proxytest.SocksHangsUp, 502, "connection_terminated"},
	{"socks5", "says nothing", proxytest.Hang, 504, "connection_timeout"},
	{"socks5", "does not speak SOCKS5", proxytest.Says("HTTP/1.1 400 Bad Request\r\n\r\n"), 0, ""},
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
		p := proxytest.NewPair(t, f.scheme, timeout)
		first := p.Exit("alice-session-abc")
		p.Breaks(first, f.does)
		second := p.Exit("alice-session-abc")
		require.NotEqual(t, first, second)
		p.Mends(first, f.does)
		for range 5 {
			require.Equal(t, second, p.Exit("alice-session-abc"), "a session does not go back")
		}
	})
}

func TestRequestWithoutSessionGoesOnAtAnotherExit(t *testing.T) {
	each(t, func(t *testing.T, f failure, timeout string) {
		p := proxytest.NewPair(t, f.scheme, timeout)
		p.Breaks("127.0.0.21", f.does)
		for range 3 {
			require.Equal(t, "127.0.0.22", p.Exit("alice"))
		}
	})
}

func TestFlexSessionStaysWithItsExit(t *testing.T) {
	each(t, func(t *testing.T, f failure, timeout string) {
		p := proxytest.NewPair(t, f.scheme, timeout)
		const user = "alice-session-abc-sessionmode-flex"
		first := p.Exit(user)
		p.Breaks(first, f.does)
		res := p.Connect(user, p.Origin)
		if f.status == 0 {
			require.GreaterOrEqual(t, res.Status, 502)
		} else {
			require.Equal(t, f.status, res.Status)
		}
		require.NotEmpty(t, res.Reason())
		if f.reason != "" {
			require.Equal(t, f.reason, res.Reason())
		}
		p.Mends(first, f.does)
		require.Equal(t, first, p.Exit(user))
	})
}

func TestFlexSessionMovesAfterItsLastError(t *testing.T) {
	for user, limit := range map[string]int{
		"alice-session-abc-sessionmode-flex": 15, "alice-session-abc-sessionmode-flex-sessionerr-3": 3,
	} {
		p := proxytest.NewPair(t, "http")
		first := p.Exit(user)
		p.Breaks(first, nil)
		for i := range limit {
			require.Equal(t, http.StatusBadGateway, p.Connect(user, p.Origin).Status, "error %d", i+1)
		}
		require.NotEqual(t, first, p.Exit(user))
	}
}

func TestSuccessForgivesAFlexSessionsErrors(t *testing.T) {
	p := proxytest.NewPair(t, "http")
	const user = "alice-session-abc-sessionmode-flex-sessionerr-3"
	first := p.Exit(user)
	for range 3 {
		p.Breaks(first, proxytest.HangUp)
		for range 2 {
			require.Equal(t, http.StatusBadGateway, p.Connect(user, p.Origin).Status)
		}
		p.Mends(first, proxytest.HangUp)
		require.Equal(t, first, p.Exit(user))
	}
}

func TestNorotateSessionNeverMoves(t *testing.T) {
	p := proxytest.NewPair(t, "socks5")
	const user = "alice-session-abc-sessionmode-norotate"
	first := p.Exit(user)
	p.Breaks(first, nil)
	for range 20 {
		require.Equal(t, http.StatusBadGateway, p.Connect(user, p.Origin).Status)
	}
	p.Mends(first, nil)
	require.Equal(t, first, p.Exit(user))
	require.Equal(t, first, p.Exit("alice-session-abc"), "whatever mode comes next")
}

func TestConfiguredModeIsForThoseWhoDoNotSay(t *testing.T) {
	p := proxytest.NewPair(t, "http", "mode flex\nmax_errors 2")
	first := p.Exit("alice-session-abc")
	p.Breaks(first, proxytest.HangUp)
	require.Equal(t, http.StatusBadGateway, p.Connect("alice-session-abc", p.Origin).Status)
	p.Mends(first, proxytest.HangUp)
	require.Equal(t, first, p.Exit("alice-session-abc"))
	p.Breaks(first, proxytest.HangUp)
	require.NotEqual(t, first, p.Exit("alice-session-abc-sessionmode-strict"))
}

func TestAllExitsDeadIs502(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		for _, user := range []string{"alice", "alice-session-abc", "alice-session-flex-sessionmode-flex", "alice-session-n-sessionmode-norotate"} {
			p := proxytest.NewPair(t, scheme)
			for from := range p.Exits {
				p.Breaks(from, nil)
			}
			for range 2 {
				res := p.Connect(user, p.Origin)
				require.Equal(t, http.StatusBadGateway, res.Status, res.Body)
				require.NotEmpty(t, res.Reason())
				require.Equal(t, http.StatusBadGateway, p.Forwarded(user).Status)
			}
			for from := range p.Exits {
				p.Mends(from, nil)
			}
			// They rest for some seconds, and serve all the same if no other exit does.
			require.Equal(t, http.StatusOK, p.Connect(user, p.Origin).Status)
		}
	}
}

// A source address that this machine does not have is the exit's fault.
func TestDirectExitWithoutItsAddressFails(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit direct://192.0.2.1")
	res := w.Connect("alice", w.Origin)
	require.Equal(t, http.StatusBadGateway, res.Status, res.Body)
	w = proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit direct://192.0.2.1", proxytest.OneExit)
	for i := range 4 {
		require.Equal(t, "127.0.0.11", w.Exit(fmt.Sprint("alice-session-", i)))
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
		{"http", proxytest.Says("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), 502, ""},
		{"http", proxytest.Says("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), 502, ""},
		{"http", proxytest.Says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), 502, ""},
		{"http", proxytest.Says("HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n"), 502, ""},
		{"socks5", proxytest.SocksSays(2), 502, "http_request_denied"},
		{"socks5", proxytest.SocksSays(3), 502, "destination_ip_unroutable"},
		{"socks5", proxytest.SocksSays(4), 502, "destination_unavailable"},
		{"socks5", proxytest.SocksSays(5), 502, "connection_refused"},
		{"socks5", proxytest.SocksSays(6), 504, "connection_timeout"},
	} {
		p := proxytest.NewPair(t, test.scheme)
		first := p.Exit("alice-session-abc")
		p.Breaks(first, test.says)
		for range 3 {
			res := p.Connect("alice-session-abc", "shop.example:443")
			require.Equal(t, test.status, res.Status, res.Body)
			require.NotEmpty(t, res.Reason())
			if test.reason != "" {
				require.Equal(t, test.reason, res.Reason())
			}
		}
		p.Mends(first, test.says)
		require.Equal(t, first, p.Exit("alice-session-abc"))
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
			p := proxytest.NewPair(t, f.scheme)
			first := p.Exit("alice-session-abc") // a tunnel leaves no idle connection
			p.Breaks(first, f.does)
			res := p.Forwarded("alice-session-abc")
			require.Equal(t, http.StatusOK, res.Status, res.Body)
			require.NotEqual(t, first, res.Body)
			p.Mends(first, f.does)
			require.Equal(t, res.Body, p.Exit("alice-session-abc"))
		})
	}
}

// A body of which no byte was read can go elsewhere.
func TestUnreadBodyIsSentThroughAnotherExit(t *testing.T) {
	origin, requests := proxytest.RecordingBodies(t)
	good, bad := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.22"}, nil)), proxytest.NewPuppet(t, proxytest.HangUp)
	bad.Refuse()
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + "exit http://" + bad.Address + "\nexit http://" + good.Address})
	for i := range 4 {
		c := w.Dial()
		c.Send("POST http://" + origin + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" +
			proxytest.Credentials(fmt.Sprint("alice-session-", i)) + "\r\nhello")
		res := c.Answer(http.MethodPost)
		require.Equal(t, http.StatusOK, res.Status, res.Body)
		require.Equal(t, "hello", <-requests)
		c.Close()
	}
	require.Empty(t, requests)
}

// A body that was read may have had its effect, and cannot be read again.
func TestBodyThatWasReadIsNotSentAgain(t *testing.T) {
	origin, requests := proxytest.RecordingBodies(t)
	good := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.22"}, nil))
	// These take the request and its body, and then fail.
	for name, does := range map[string]func(*net.TCPConn){
		"407":     proxytest.Says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"),
		"hang up": proxytest.HangUpLater,
	} {
		t.Run(name, func(t *testing.T) {
			bad := proxytest.NewPuppet(t, does)
			w := proxytest.NewWorldWith(t, origin, proxytest.Site{
				Block: proxytest.Alice + proxytest.Loopback + "fallback round_robin\nexit http://" + bad.Address + "\nexit http://" + good.Address,
			})
			answers := make(map[int]int)
			for range 8 {
				c := w.Dial()
				c.Send("POST http://" + origin + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + proxytest.Credentials("alice") + "\r\nhello")
				answers[c.Answer(http.MethodPost).Status]++
				c.Close()
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
	exit := proxytest.NewPuppet(t, proxytest.Says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"))
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit http://"+exit.Address)
	for range 10 {
		c := w.Dial()
		written := make(chan struct{})
		go func() {
			defer close(written)
			_, _ = c.Conn.Write([]byte("POST http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n" +
				proxytest.Credentials("alice-session-abc") + "\r\n" + strings.Repeat("x", 200000)))
		}()
		res := c.Answer(http.MethodPost)
		require.Equal(t, http.StatusBadGateway, res.Status, res.Body)
		<-written
		c.Close()
	}
}

// Whether an exit answers may depend on the destination, and that is a client's
// choice: it must not drive other clients off the exit.
func TestOnlyTheSessionThatMetAnUnclearFailureMoves(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			p := proxytest.NewPair(t, scheme, "dial_timeout 300ms")
			first := p.Exit("alice-session-quiet")
			noisy := "alice-session-noisy"
			for i := 0; p.Exit(noisy) != first; i++ {
				noisy = fmt.Sprint("alice-session-noisy", i)
			}
			p.Breaks(first, proxytest.Hang)
			require.Equal(t, http.StatusOK, p.Connect(noisy, p.Origin).Status)
			p.Mends(first, proxytest.Hang)
			require.NotEqual(t, first, p.Exit(noisy), "it moved")
			require.Equal(t, first, p.Exit("alice-session-quiet"), "it has met no failure")
		})
	}
}
