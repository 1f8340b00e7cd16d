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
	return hangUpLater
}

// One CONNECT becomes two at a gateway, however many slots it has.
func TestGatewayThatHangsUpIsTriedTwice(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		for _, slots := range []int{1, 2, 10, 10_000} {
			t.Run(fmt.Sprint(scheme, " ", slots), func(t *testing.T) {
				p := newPuppet(t, hangsUp(scheme))
				w := newWorld(t, alice, gatewayOf(scheme, p.address, slots))
				for _, user := range append(users, "alice-country-de", "alice-country-de-session-abc") {
					before := p.dials.Load()
					res := w.connect(user, anywhere)
					require.Equal(t, http.StatusBadGateway, res.status)
					require.Equal(t, "connection_terminated", res.reason())
					require.Equal(t, int64(min(slots, 2)), p.dials.Load()-before, user)
				}
			})
		}
	}
}

// A failure of the gateway itself is the same in all of its slots.
func TestGatewayThatIsDeadIsTriedOnce(t *testing.T) {
	w := newWorld(t, alice, gatewayOf("http", deadPort(t), 10_000))
	for _, user := range users {
		require.Equal(t, http.StatusBadGateway, w.connect(user, anywhere).status)
	}
	require.Len(t, w.logs.lines("exit failed"), len(users))
}

// A gateway's 407 may be about the session in the credentials: another slot is
// tried, and the gateway does not rest.
func TestGatewayThatRefusesASessionIsTriedAtAnotherSlot(t *testing.T) {
	p := newHTTPProvider(t)
	var refused atomic.Int64
	p.does(func(conn *net.TCPConn) {
		if refused.Add(1)%2 == 1 {
			says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")(conn)
			return
		}
		httpProxy(away{from: "127.0.0.21"}, nil)(conn)
	})
	w := newWorld(t, alice, loopback, gatewayOf("http", p.address, 10))
	for i := range 4 {
		require.Equal(t, "127.0.0.21", w.exit(fmt.Sprint("alice-session-", i)))
	}
	require.Len(t, w.logs.lines("exit failed"), 4)
}

// Sessions that do not move make one attempt, as before.
func TestFlexAndNorotateMakeOneAttempt(t *testing.T) {
	p := newPuppet(t, hangUpLater)
	w := newWorld(t, alice, gatewayOf("http", p.address, 50))
	for i, mode := range []string{"flex", "norotate"} {
		res := w.connect("alice-session-"+mode+"-sessionmode-"+mode, anywhere)
		require.Equal(t, http.StatusBadGateway, res.status)
		require.Equal(t, int64(i+1), p.dials.Load())
	}
}

// sixExits returns the lines of six exits that do the same.
func sixExits(t *testing.T, serve func(*net.TCPConn)) (lines string) {
	t.Helper()
	for range 6 {
		lines += "exit http://" + newPuppet(t, serve).address + "\n"
	}
	return lines
}

func TestFiveOfSixExitsAreTried(t *testing.T) {
	for _, user := range users {
		var n atomic.Int64
		w := newWorld(t, alice, sixExits(t, func(conn *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			if n.Add(1) == 5 {
				_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			}
		}))
		res := w.connect(user, anywhere)
		require.Equal(t, int64(5), n.Load(), user)
		require.Equal(t, http.StatusBadGateway, res.status)
		require.Equal(t, "http_request_denied", res.reason(), "the answer is the last failure")
	}
}

// Of a gateway and other exits, the gateway has its bound and all have theirs.
func TestMixedPoolHasBothBounds(t *testing.T) {
	for _, user := range users {
		for _, fallback := range []string{"", "fallback random\n", "fallback round_robin\n", "fallback least_sessions\n", "fallback hash\n"} {
			gateway, other := newPuppet(t, hangUpLater), newPuppet(t, hangUpLater)
			var others strings.Builder
			for i := range 5 {
				fmt.Fprintf(&others, "exit http://u%d@%s\n", i, other.address)
			}
			w := newWorld(t, alice, fallback, gatewayOf("http", gateway.address, 10_000), others.String())
			for range 3 {
				gateway.dials.Store(0)
				other.dials.Store(0)
				require.Equal(t, http.StatusBadGateway, w.connect(user, anywhere).status)
				require.LessOrEqual(t, gateway.dials.Load(), int64(2), fallback)
				require.Equal(t, int64(5), gateway.dials.Load()+other.dials.Load(), fallback)
			}
		}
	}
}

// A request finds the one exit that works beside a gateway with many slots.
func TestRequestFindsAnExitBesideABrokenGateway(t *testing.T) {
	gateway := newPuppet(t, hangUpLater)
	w := newWorld(t, alice, loopback, gatewayOf("http", gateway.address, 10_000), oneExit)
	for i := range 20 {
		before := gateway.dials.Load()
		require.Equal(t, "127.0.0.11", w.exit("alice"))
		require.Equal(t, "127.0.0.11", w.exit(fmt.Sprint("alice-session-", i)))
		require.LessOrEqual(t, gateway.dials.Load()-before, int64(4))
	}
}

// No attempt begins later than three times dial_timeout after the request came.
// Each of these takes one dial_timeout, so at most three begin.
func TestAttemptsEndAfterThreeDialTimeouts(t *testing.T) {
	for _, user := range users {
		var n atomic.Int64
		w := newWorld(t, alice, "dial_timeout 300ms", sixExits(t, func(conn *net.TCPConn) {
			n.Add(1)
			hang(conn)
		}))
		res := w.connect(user, anywhere)
		require.Equal(t, http.StatusGatewayTimeout, res.status)
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
		w := newWorld(t, alice, loopback, fallback, exits.String())
		seen := make(map[string]int)
		for range 30 {
			seen[w.exit("alice-country-de")]++
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
	p := newPuppet(t, hangUpLater)
	e := newEgress(t, originOf(t, mirror), "lb_retries 7", "", "header X-Session\n"+gatewayOf("http", p.address, 50))
	status, _ := e.get("abc")
	require.Equal(t, http.StatusBadGateway, status)
	require.Equal(t, int64(8), p.dials.Load())
	slots := make(map[string]bool)
	for _, line := range e.logs.lines("decided") {
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
					p := newPuppet(b, hangUpLater)
					block := alice + gatewayOf("http", p.address, slots)
					for i := range beside {
						block += fmt.Sprintf("exit http://u%d@%s\n", i, p.address)
					}
					w := newWorldWith(b, "", site{level: "ERROR", block: block})
					b.ReportAllocs()
					for b.Loop() {
						w.connect(user, anywhere)
					}
					b.ReportMetric(float64(p.dials.Load())/float64(b.N), "attempts/op")
				})
			}
		}
	}
}
