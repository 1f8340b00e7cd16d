// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// A destination that no test reaches: the exits do not answer, or fail.
const anywhere = "198.51.100.9:443"

// users are a client that names a session and one that does not.
var users = []string{"alice-session-abc", "alice"}

// gatewayOf returns the lines of a gateway with this many slots.
func gatewayOf(scheme, address string, slots int) string {
	return fmt.Sprintf("exit %s://me-{session}:pw@%s {\n slots %d\n tag country de\n}\n", scheme, address, slots)
}

// hangsUp is an exit that takes a request of its protocol and closes.
func hangsUp(scheme string) func(*net.TCPConn) {
	if scheme == "socks5" {
		return func(conn *net.TCPConn) { _, _ = conn.Read(make([]byte, 1)) }
	}
	return proxytest.HangUpLater
}

// One CONNECT becomes two at a gateway, however many slots it has.
func TestGatewayThatHangsUpIsTriedTwice(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		for _, slots := range []int{1, 2, 10, 10_000} {
			t.Run(fmt.Sprint(scheme, " ", slots), func(t *testing.T) {
				p := proxytest.NewPuppet(t, hangsUp(scheme))
				w := proxytest.NewWorld(t, proxytest.Alice, gatewayOf(scheme, p.Address, slots))
				for _, user := range append(users, "alice-country-de", "alice-country-de-session-abc") {
					before := p.Dials.Load()
					res := w.Connect(user, anywhere)
					require.Equal(t, http.StatusBadGateway, res.Status)
					require.Equal(t, "connection_terminated", res.Reason())
					require.Equal(t, int64(min(slots, 2)), p.Dials.Load()-before, user)
				}
			})
		}
	}
}

// A failure of the gateway itself is the same in all of its slots.
func TestGatewayThatIsDeadIsTriedOnce(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, gatewayOf("http", proxytest.DeadPort(t), 10_000))
	for _, user := range users {
		require.Equal(t, http.StatusBadGateway, w.Connect(user, anywhere).Status)
	}
	require.Len(t, w.Logs.Lines("exit failed"), len(users))
}

// A gateway's 407 may be about the session in the credentials: another slot is
// tried, and the gateway does not rest.
func TestGatewayThatRefusesASessionIsTriedAtAnotherSlot(t *testing.T) {
	p := proxytest.NewHTTPProvider(t)
	var refused atomic.Int64
	p.Does(func(conn *net.TCPConn) {
		if refused.Add(1)%2 == 1 {
			proxytest.Says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")(conn)
			return
		}
		proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.21"}, nil)(conn)
	})
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, gatewayOf("http", p.Address, 10))
	for i := range 4 {
		require.Equal(t, "127.0.0.21", w.Exit(fmt.Sprint("alice-session-", i)))
	}
	require.Len(t, w.Logs.Lines("exit failed"), 4)
}

// Sessions that do not move make one attempt, as before.
func TestFlexAndNorotateMakeOneAttempt(t *testing.T) {
	p := proxytest.NewPuppet(t, proxytest.HangUpLater)
	w := proxytest.NewWorld(t, proxytest.Alice, gatewayOf("http", p.Address, 50))
	for i, mode := range []string{"flex", "norotate"} {
		res := w.Connect("alice-session-"+mode+"-sessionmode-"+mode, anywhere)
		require.Equal(t, http.StatusBadGateway, res.Status)
		require.Equal(t, int64(i+1), p.Dials.Load())
	}
}

// sixExits returns the lines of six exits that do the same.
func sixExits(t *testing.T, serve func(*net.TCPConn)) (lines string) {
	t.Helper()
	for range 6 {
		lines += "exit http://" + proxytest.NewPuppet(t, serve).Address + "\n"
	}
	return lines
}

func TestFiveOfSixExitsAreTried(t *testing.T) {
	for _, user := range users {
		var n atomic.Int64
		w := proxytest.NewWorld(t, proxytest.Alice, sixExits(t, func(conn *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			if n.Add(1) == 5 {
				_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			}
		}))
		res := w.Connect(user, anywhere)
		require.Equal(t, int64(5), n.Load(), user)
		require.Equal(t, http.StatusBadGateway, res.Status)
		require.Equal(t, "http_request_denied", res.Reason(), "the answer is the last failure")
	}
}

// Of a gateway and other exits, the gateway has its bound and all have theirs.
func TestMixedPoolHasBothBounds(t *testing.T) {
	for _, user := range users {
		for _, fallback := range []string{"", "fallback random\n", "fallback round_robin\n", "fallback least_sessions\n", "fallback hash\n"} {
			gateway, other := proxytest.NewPuppet(t, proxytest.HangUpLater), proxytest.NewPuppet(t, proxytest.HangUpLater)
			var others strings.Builder
			for i := range 5 {
				fmt.Fprintf(&others, "exit http://u%d@%s\n", i, other.Address)
			}
			w := proxytest.NewWorld(t, proxytest.Alice, fallback, gatewayOf("http", gateway.Address, 10_000), others.String())
			for range 3 {
				gateway.Dials.Store(0)
				other.Dials.Store(0)
				require.Equal(t, http.StatusBadGateway, w.Connect(user, anywhere).Status)
				require.LessOrEqual(t, gateway.Dials.Load(), int64(2), fallback)
				require.Equal(t, int64(5), gateway.Dials.Load()+other.Dials.Load(), fallback)
			}
		}
	}
}

// A request finds the one exit that works beside a gateway with many slots.
func TestRequestFindsAnExitBesideABrokenGateway(t *testing.T) {
	gateway := proxytest.NewPuppet(t, proxytest.HangUpLater)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, gatewayOf("http", gateway.Address, 10_000), proxytest.OneExit)
	for i := range 20 {
		before := gateway.Dials.Load()
		require.Equal(t, "127.0.0.11", w.Exit("alice"))
		require.Equal(t, "127.0.0.11", w.Exit(fmt.Sprint("alice-session-", i)))
		require.LessOrEqual(t, gateway.Dials.Load()-before, int64(4))
	}
}

// No attempt begins later than three times dial_timeout after the request came.
// Each of these takes one dial_timeout, so at most three begin.
func TestAttemptsEndAfterThreeDialTimeouts(t *testing.T) {
	for _, user := range users {
		var n atomic.Int64
		w := proxytest.NewWorld(t, proxytest.Alice, "dial_timeout 300ms", sixExits(t, func(conn *net.TCPConn) {
			n.Add(1)
			proxytest.Hang(conn)
		}))
		res := w.Connect(user, anywhere)
		require.Equal(t, http.StatusGatewayTimeout, res.Status)
		require.LessOrEqual(t, n.Load(), int64(3), user)
		require.Positive(t, n.Load())
	}
}

// The exits of a large pool that have the tags serve in turn, and no others.
func TestLargePoolWithTagsServesInTurn(t *testing.T) {
	var exits strings.Builder
	for i := 11; i < 31; i++ {
		tag := "us"
		if i%2 == 0 {
			tag = "de"
		}
		fmt.Fprintf(&exits, "exit direct://127.0.0.%d {\n tag country %s\n}\n", i, tag)
	}
	for _, fallback := range []string{"", "fallback random\n"} {
		w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, fallback, exits.String())
		seen := make(map[string]int)
		for range 30 {
			seen[w.Exit("alice-country-de")]++
		}
		for exit, n := range seen {
			var last int
			_, err := fmt.Sscanf(exit, "127.0.0.%d", &last)
			require.NoError(t, err)
			require.Zero(t, last%2, exit)
			if fallback == "" {
				require.Equal(t, 3, n, exit)
			}
		}
		if fallback == "" {
			require.Len(t, seen, 10)
		}
	}
}

// Caddy's retries decide how often an exit is tried, but not through how many slots.
func TestNetworkProxyTriesTwoSlotsOfAGateway(t *testing.T) {
	p := proxytest.NewPuppet(t, proxytest.HangUpLater)
	e := proxytest.NewEgress(t, proxytest.OriginOf(t, proxytest.Mirror), "lb_retries 7", "", "header X-Session\n"+gatewayOf("http", p.Address, 50))
	status, _ := e.Get("abc")
	require.Equal(t, http.StatusBadGateway, status)
	require.Equal(t, int64(8), p.Dials.Load())
	slots := make(map[string]bool)
	for _, line := range e.Logs.Lines("decided") {
		slots[regexp.MustCompile(`#\d+`).FindString(line.Text("target"))] = true
	}
	require.Len(t, slots, 2)
}

// What one CONNECT costs at a gateway that hangs up, alone and beside exits that
// do the same.
func BenchmarkGatewayThatHangsUp(b *testing.B) {
	for _, beside := range []int{0, 5} {
		for _, slots := range []int{10, 10_000} {
			for _, user := range users {
				b.Run(fmt.Sprintf("beside=%d/user=%s/slots=%d", beside, user, slots), func(b *testing.B) {
					p := proxytest.NewPuppet(b, proxytest.HangUpLater)
					block := proxytest.Alice + gatewayOf("http", p.Address, slots)
					for i := range beside {
						block += fmt.Sprintf("exit http://u%d@%s\n", i, p.Address)
					}
					w := proxytest.NewWorldWith(b, "", proxytest.Site{Level: "ERROR", Block: block})
					b.ReportAllocs()
					for b.Loop() {
						w.Connect(user, anywhere)
					}
					b.ReportMetric(float64(p.Dials.Load())/float64(b.N), "attempts/op")
				})
			}
		}
	}
}
