// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

func TestSessionKeepsItsExitOverManyConnections(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	first := w.exit("alice-session-abc")
	require.Regexp(t, `^127\.0\.0\.1[1-4]$`, first)
	for range 30 {
		require.Equal(t, first, w.exit("alice-session-abc"))
		require.Equal(t, first, w.forwarded("alice-session-abc").body, "a CONNECT and a GET have one session")
	}
}

func TestAnotherSessionHasAnotherExit(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	require.NotEqual(t, w.exit("alice-session-abc"), w.exit("alice-session-def"))
}

func TestWithoutSessionEachRequestHasAnotherExit(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	last := ""
	for range 12 {
		exit := w.exit("alice")
		require.NotEqual(t, last, exit)
		last = exit
		exit = w.forwarded("alice").body
		require.NotEqual(t, last, exit)
		last = exit
	}
}

func TestConcurrentFirstConnectsShareOneExit(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	for round := range 2 {
		var mu sync.Mutex
		exits := make(map[string]int)
		begin := make(chan struct{})
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				<-begin
				exit, err := w.tryExit(fmt.Sprint("alice-session-new", round))
				if err != nil {
					t.Errorf("tunnel: %v", err)
				}
				mu.Lock()
				exits[exit]++
				mu.Unlock()
			})
		}
		close(begin)
		wg.Wait()
		require.Len(t, exits, 1, "exits: %v", exits)
	}
}

func TestAccountsDoNotShareASession(t *testing.T) {
	w := newWorld(t, alice, bob, fourExits, loopback)
	// The second session takes an exit that has none.
	hers := w.exit("alice-session-abc")
	his := w.exit("bob-session-abc")
	require.NotEqual(t, hers, his)
	for range 5 {
		require.Equal(t, hers, w.exit("alice-session-abc"))
		require.Equal(t, his, w.exit("bob-session-abc"))
	}
}

func TestSessionIsOverAtItsTTLThoughItIsUsed(t *testing.T) {
	const ttl = 2 * time.Second
	w := newWorld(t, alice, fourExits, loopback, "ttl 2s")
	begin := time.Now()
	first := w.exit("alice-session-abc")
	eventually(t, "another exit", func() bool {
		exit := w.exit("alice-session-abc")
		after := time.Now()
		if exit == first {
			return false
		}
		require.GreaterOrEqual(t, after.Sub(begin), ttl, "the session ended early")
		return true
	})
}

func TestLifetimeThatAClientAsksForCounts(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback, "ttl 1s")
	begin := time.Now()
	short, long := w.exit("alice-session-short"), w.exit("alice-session-long-sessionttl-1")
	eventually(t, "another exit", func() bool { return w.exit("alice-session-short") != short })
	if time.Since(begin) < time.Minute {
		require.Equal(t, long, w.exit("alice-session-long"))
	}
}

func TestBadParametersAre400WithAReason(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	for user, reason := range map[string]string{
		"alice-session-a-sessionttl-0":                 "sessionttl",
		"alice-session-a-sessionttl-241":               "sessionttl is 241 minutes, it must be within 1 minutes and 240 minutes",
		"alice-session-a-sessionttl-x":                 "sessionttl",
		"alice-session-a-sessionttl--5":                "sessionttl",
		"alice-session-a-sessionttl-1.5":               "sessionttl",
		"alice-session-a-sessionttl-99999999999999999": "sessionttl",
		"alice-session-a-sessionttl-5-sessionttl-5":    "sessionttl is repeated",
		"alice-session-a-session-b":                    "session is repeated",
		"alice-session-a-sessionmode-often":            "sessionmode",
		"alice-session-a-sessionerr-0":                 "sessionerr",
		"alice-session-a-sessionerr-101":               "sessionerr",
		"alice-session-" + strings.Repeat("a", 256):    "session",
		"alice-session-%zz":                            "session",
		"alice?session=a&more=b":                       "parameter 2",
	} {
		res := w.connect(user, w.origin)
		require.Equal(t, http.StatusBadRequest, res.status, user)
		require.Contains(t, res.body, reason, user)
		require.Equal(t, "http_request_error", res.reason(), user)
		res = w.forwarded(user)
		require.Equal(t, http.StatusBadRequest, res.status, user)
		require.Contains(t, res.body, reason, user)
	}
	for _, user := range []string{
		"alice-session-a-sessionttl-1", "alice-session-b-sessionttl-240",
		"alice-session-" + strings.Repeat("a", 255), "alice-sessionttl-5-session-c", "alice?session=d&sessionttl=5",
	} {
		require.Equal(t, http.StatusOK, w.forwarded(user).status, user)
	}
}

func TestUnknownTagIs503(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	require.Equal(t, http.StatusServiceUnavailable, w.forwarded("alice-country-us-session-a").status)
}

// E1: a 407 says how to do better.
func TestBadCredentialsAre407WithAChallenge(t *testing.T) {
	for name, lines := range map[string]string{
		"none":               "",
		"wrong password":     "Proxy-Authorization: " + basic("alice-session-a", "wrong") + "\r\n",
		"empty password":     "Proxy-Authorization: " + basic("alice", "") + "\r\n",
		"another's password": "Proxy-Authorization: " + basic("alice", bobPassword) + "\r\n",
		"unknown account":    "Proxy-Authorization: " + basic("carol", alicePassword) + "\r\n",
		"another case":       "Proxy-Authorization: " + basic("Alice", alicePassword) + "\r\n",
		"another scheme":     "Proxy-Authorization: Bearer abc\r\n",
		"no scheme":          "Proxy-Authorization: YWxpY2U6c2VjcmV0\r\n",
		"no base64":          "Proxy-Authorization: Basic !!!\r\n",
		"no colon":           "Proxy-Authorization: Basic YWxpY2U=\r\n",
		"scheme alone":       "Proxy-Authorization: Basic\r\n",
		"empty":              "Proxy-Authorization:\r\n",
		"twice":              credentials("alice") + credentials("alice"),
		"two in one line":    "Proxy-Authorization: " + basic("alice", alicePassword) + ", " + basic("alice", alicePassword) + "\r\n",
		"another header":     strings.Replace(credentials("alice"), "Proxy-", "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, alice, bob, fourExits, loopback)
			for _, request := range []string{"CONNECT " + w.origin, "GET http://" + w.origin + "/", "POST http://" + w.origin + "/"} {
				c := w.dial()
				c.send(request + " HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n")
				res := c.answer(strings.Fields(request)[0])
				require.Equal(t, http.StatusProxyAuthRequired, res.status, "%s: %s", name, request)
				require.Equal(t, []string{`Basic realm="sticky", charset="UTF-8"`}, res.header["Proxy-Authenticate"], name)
				require.Equal(t, "http_request_denied", res.reason())
				c.close()
			}
		})
	}
}

// E3: the scheme in any case, and the first colon splits.
func TestGoodCredentialsAreAcceptedInAnyForm(t *testing.T) {
	w := newWorld(t, alice, bob, fourExits, loopback)
	for _, value := range []string{
		basic("alice", alicePassword), basic("bob-session-x", bobPassword),
		"basic" + basic("alice", alicePassword)[5:], "BASIC" + basic("alice", alicePassword)[5:],
		"Basic  " + basic("alice", alicePassword)[6:],
	} {
		for range 2 { // the second one is remembered
			c := w.dial()
			c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + value + "\r\n\r\n")
			require.Equal(t, http.StatusOK, c.answer(http.MethodGet).status, value)
			c.close()
		}
	}
	// What is remembered of a right password says nothing for a wrong one.
	c := w.dial()
	c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + basic("alice", bobPassword) + "\r\n\r\n")
	require.Equal(t, http.StatusProxyAuthRequired, c.answer(http.MethodGet).status)
}

func TestOpenProxyAsksForNothing(t *testing.T) {
	w := newWorld(t, "open", fourExits, loopback)
	require.NotEqual(t, w.exit(""), w.exit(""))

	session := func(user string) string {
		c := w.dial()
		defer c.close()
		c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + basic(user, "whatever") + "\r\n\r\n")
		res := c.answer(http.MethodGet)
		require.Equal(t, http.StatusOK, res.status, res.body)
		return res.body
	}
	first := session("carol-session-x")
	require.NotEqual(t, first, session("dave-session-x"), "accounts that are not verified keep sessions apart all the same")
	for range 5 {
		require.Equal(t, first, session("carol-session-x"))
	}

	c := w.dial()
	c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic !!!\r\n\r\n")
	require.Equal(t, http.StatusProxyAuthRequired, c.answer(http.MethodGet).status, "garbage is not taken for nothing")
}

// E7: nobody makes the proxy dial or resolve without credentials.
func TestCredentialsAreSettledBeforeAnyDial(t *testing.T) {
	exit := newPuppet(t, httpProxy(away{}, nil))
	w := newWorld(t, alice, loopback, "exit http://"+exit.address)
	for _, lines := range []string{
		"", "Proxy-Authorization: " + basic("alice", "wrong") + "\r\n",
		credentials("alice-session-a-sessionttl-0"), credentials("alice") + credentials("alice"),
	} {
		for _, request := range []string{"CONNECT " + w.origin, "GET http://" + w.origin + "/"} {
			c := w.dial()
			c.send(request + " HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n")
			require.GreaterOrEqual(t, c.answer(strings.Fields(request)[0]).status, 400)
			c.close()
		}
	}
	for _, destination := range []string{"10.0.0.1:443", "192.168.0.1:80", "[::1]:80"} {
		require.Equal(t, http.StatusForbidden, w.connect("alice", destination).status, destination)
	}
	require.Zero(t, exit.dials.Load())
	require.Equal(t, http.StatusOK, w.forwarded("alice").status)
	require.Equal(t, int64(1), exit.dials.Load())
}

// F1: what is on this machine and around it is nobody's business.
func TestDestinationsAreDeniedByDefault(t *testing.T) {
	w := newWorld(t, alice, fourExits, "ports 1-65535")
	port := w.origin[strings.LastIndexByte(w.origin, ':'):]
	hosts := []string{
		"127.0.0.1", "127.0.0.53", "localhost", "LOCALHOST", "localhost.", "app.localhost", "0.0.0.0", "[::1]", "[::]",
		"[::ffff:127.0.0.1]", "127.1", "0x7f.1", "2130706433", "017700000001", "10.0.0.1", "172.16.0.1", "192.168.0.1",
		"169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "[fd00:ec2::254]", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
	}
	for _, host := range hosts {
		res := w.connect("alice", host+port)
		require.Equal(t, http.StatusForbidden, res.status, "%s: %s", host, res.body)
		require.Equal(t, "destination_ip_prohibited", res.reason(), host)
		c := w.dial()
		c.send("GET http://" + host + port + "/ HTTP/1.1\r\nHost: " + host + "\r\n" + credentials("alice") + "\r\n")
		require.Equal(t, http.StatusForbidden, c.answer(http.MethodGet).status, host)
		c.close()
	}
}

// F2: a harmless name may have an address that is not.
func TestNameIsJudgedByTheAddressThatIsDialled(t *testing.T) {
	name, addrs := nameOfThisMachine(t)
	w := newWorld(t, alice, fourExits, "ports 1-65535")
	port := w.origin[strings.LastIndexByte(w.origin, ':'):]
	res := w.connect("alice", name+port)
	require.Equal(t, http.StatusForbidden, res.status, res.body)
	require.Equal(t, "destination_ip_prohibited", res.reason())
	c := w.dial()
	c.send("GET http://" + name + port + "/ HTTP/1.1\r\nHost: " + name + "\r\n" + credentials("alice") + "\r\n")
	res = c.answer(http.MethodGet)
	require.Equal(t, http.StatusForbidden, res.status, res.body)
	for _, addr := range addrs {
		require.NotContains(t, res.body+res.header.Get("Proxy-Status"), addr, "what a name resolves to in here is not told")
	}
}

// nameOfThisMachine returns a name that resolves to an address of this machine,
// as most machines' own names do.
func nameOfThisMachine(t *testing.T) (string, []string) {
	t.Helper()
	name, err := os.Hostname()
	require.NoError(t, err)
	if addrs, err := net.DefaultResolver.LookupHost(t.Context(), name); err == nil && !strings.Contains(name, "localhost") {
		return name, addrs
	}
	t.Skip("skipped: needs a machine whose name resolves")
	return "", nil
}

func TestAllowedNameMayBeOnThisMachine(t *testing.T) {
	w := newWorld(t, alice, oneExit, "allow localhost", "ports 1-65535")
	port := w.origin[strings.LastIndexByte(w.origin, ':'):]
	require.Equal(t, http.StatusOK, w.connect("alice", "localhost"+port).status)
	require.Equal(t, http.StatusForbidden, w.connect("alice", "127.0.0.1"+port).status)
}

func TestAdminEndpointIsReachedOnlyByItsExactAddress(t *testing.T) {
	admin := fmt.Sprintf("127.0.0.1:%d", peer.Port(t))
	port := admin[strings.LastIndexByte(admin, ':'):]

	t.Run("never by a range", func(t *testing.T) {
		w := newWorldWith(t, originOf(t, func(http.ResponseWriter, *http.Request) {}), site{
			global: "admin " + admin,
			block:  alice + oneExit + "allow 127.0.0.0/8\nallow localhost\nports 1-65535",
		})
		require.Equal(t, http.StatusOK, w.connect("alice", w.origin).status, "the range is open")
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "localhost", "127.1", "[::ffff:127.0.0.1]"} {
			require.Equal(t, http.StatusForbidden, w.connect("alice", host+port).status, host)
			c := w.dial()
			c.send("GET http://" + host + port + "/config/ HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n")
			require.Equal(t, http.StatusForbidden, c.answer(http.MethodGet).status, host)
			c.close()
		}
	})
	t.Run("by name", func(t *testing.T) {
		w := newWorldWith(t, originOf(t, func(http.ResponseWriter, *http.Request) {}), site{
			global: "admin " + admin,
			block:  alice + oneExit + loopback + "allow " + admin,
		})
		c := w.dial()
		c.send("GET http://" + admin + "/config/ HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.answer(http.MethodGet).status)
	})
}

// A6: what a tunnel is for is asked by its port.
func TestPortsAreRestricted(t *testing.T) {
	t.Run("to 80 and 443", func(t *testing.T) {
		w := newWorld(t, alice, oneExit, "allow 127.0.0.1")
		for _, port := range []string{"22", "25", "8080", "65535"} {
			res := w.connect("alice", "127.0.0.1:"+port)
			require.Equal(t, http.StatusForbidden, res.status, port)
			require.Contains(t, res.body, "port "+port)
		}
		require.Equal(t, http.StatusForbidden, w.forwarded("alice").status)
		for _, port := range []string{"80", "443"} {
			require.NotEqual(t, http.StatusForbidden, w.connect("alice", "127.0.0.1:"+port).status, port)
		}
	})
	t.Run("to those that are listed", func(t *testing.T) {
		w := newWorld(t, alice, oneExit, "allow 127.0.0.1", "ports 22 8000-8999")
		for _, port := range []string{"80", "443", "7999", "9000"} {
			require.Equal(t, http.StatusForbidden, w.connect("alice", "127.0.0.1:"+port).status, port)
		}
		for _, port := range []string{"22", "8000", "8999"} {
			require.NotEqual(t, http.StatusForbidden, w.connect("alice", "127.0.0.1:"+port).status, port)
		}
	})
}

// E9: what a client says of itself in confidence is in no log.
func TestLogsHoldNoPasswordAndNoSessionID(t *testing.T) {
	const id = "Xq7confidentialXq7"
	bad, good := newPuppet(t, hangUp), newPuppet(t, httpProxy(away{from: "127.0.0.21"}, nil))
	w := newWorldWith(t, originOf(t, func(w http.ResponseWriter, r *http.Request) {}), site{
		server: "log",
		block: alice + bob + loopback +
			"exit http://exituser:exitpassword@" + bad.address + "\nexit http://exituser:exitpassword@" + good.address,
	})
	for i := range 6 {
		user := fmt.Sprint("alice-session-", id, i)
		require.Equal(t, http.StatusOK, w.connect(user, w.origin).status)
		require.Equal(t, http.StatusOK, w.forwarded(user).status)
		w.connect("bob-session-"+id, "10.0.0.1:443")
		w.connect("alice-sessionttl-0-session-"+id, w.origin)
		w.connect("alice-session-"+id+"-sessionmode-often", w.origin)
		w.connect("nobody-session-"+id, w.origin)
	}
	c := w.dial()
	c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + basic("alice-session-"+id, "wrongpassword") + "\r\n\r\n")
	require.Equal(t, http.StatusProxyAuthRequired, c.answer(http.MethodGet).status)
	eventually(t, "the log of a tunnel", func() bool { return len(w.logs.lines("tunnel closed")) >= 6 })
	require.NotEmpty(t, w.logs.lines("exit failed"), "the test means nothing if no exit fails")
	require.NotEmpty(t, w.logs.lines("", fields{"logger": "http.log.access"}))
	text := w.logs.String()
	for _, secret := range []string{
		id, bobPassword, "wrongpassword", "exitpassword", ":" + alicePassword,
		strings.TrimPrefix(basic("alice-session-"+id+"0", alicePassword), "Basic "),
		strings.TrimPrefix(basic("exituser", "exitpassword"), "Basic "),
	} {
		require.NotContains(t, text, secret)
	}
}

// E9, of a client that writes its credentials where they do not belong. Caddy's
// own access log has the URL as it came.
func TestUserInformationInAURLIsRefusedAndNotLogged(t *testing.T) {
	w := newWorld(t, alice, oneExit, loopback)
	c := w.dial()
	c.send("GET http://someone:topsecret@" + w.origin + "/ HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n")
	res := c.answer(http.MethodGet)
	require.Equal(t, http.StatusBadRequest, res.status)
	require.NotContains(t, res.body, "topsecret")
	require.NotContains(t, w.logs.String(), "topsecret")
}

// H: RFC 9209.
func TestRefusalByTheTargetIsToldAndCostsTheSessionNothing(t *testing.T) {
	dead := deadPort(t)
	for name, exits := range map[string]string{
		"direct": fourExits,
		"socks5": "exit socks5://" + newPuppet(t, socksProxy(away{from: "127.0.0.21"})).address +
			"\nexit socks5://" + newPuppet(t, socksProxy(away{from: "127.0.0.22"})).address,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, alice, loopback, exits)
			first := w.exit("alice-session-abc")
			for range 20 {
				res := w.connect("alice-session-abc", dead)
				require.Equal(t, http.StatusBadGateway, res.status)
				require.Equal(t, "connection_refused", res.reason())
				require.Equal(t, first, w.exit("alice-session-abc"))
			}
			c := w.dial()
			c.send("GET http://" + dead + "/ HTTP/1.1\r\nHost: x\r\n" + credentials("alice-session-abc") + "\r\n")
			res := c.answer(http.MethodGet)
			require.Equal(t, http.StatusBadGateway, res.status)
			require.Equal(t, "connection_refused", res.reason())
			require.Equal(t, first, w.exit("alice-session-abc"))
		})
	}
}

func TestRefusalByTheTargetBehindAnHTTPExitCostsTheSessionNothing(t *testing.T) {
	dead := deadPort(t)
	w := newWorld(t, alice, loopback,
		"exit http://"+newPuppet(t, httpProxy(away{from: "127.0.0.21"}, nil)).address,
		"exit http://"+newPuppet(t, httpProxy(away{from: "127.0.0.22"}, nil)).address)
	first := w.exit("alice-session-abc")
	for range 20 {
		res := w.connect("alice-session-abc", dead)
		require.Equal(t, http.StatusBadGateway, res.status)
		require.NotEmpty(t, res.reason())
		require.Equal(t, first, w.exit("alice-session-abc"))
	}
}

func TestOtherRequestsAreTheNextHandlers(t *testing.T) { // C9
	w := newWorld(t, alice, fourExits, loopback)
	for _, request := range []string{"GET /", "POST /some/path", "OPTIONS /"} {
		c := w.dial()
		c.send(request + " HTTP/1.1\r\nHost: " + w.origin + "\r\nContent-Length: 0\r\n\r\n")
		res := c.answer(strings.Fields(request)[0])
		require.Equal(t, "not proxied", res.body, request)
		c.close()
	}
}

// C10: a site that is only a port proxies for every host.
func TestHostHeaderDoesNotMatter(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	for _, host := range []string{"shop.example", "localhost", "127.0.0.1", "[::1]:80", ""} {
		c := w.dial()
		c.send("CONNECT " + w.origin + " HTTP/1.1\r\nHost: " + host + "\r\n" + credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.answer(http.MethodConnect).status, host)
		c.close()
		c = w.dial()
		c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: " + host + "\r\n" + credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.answer(http.MethodGet).status, host)
		c.close()
	}
}
