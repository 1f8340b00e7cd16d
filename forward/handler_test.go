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
	w := NewWorld(t, Alice, FourExits, Loopback)
	first := w.Exit("alice-session-abc")
	require.Regexp(t, `^127\.0\.0\.1[1-4]$`, first)
	for range 30 {
		require.Equal(t, first, w.Exit("alice-session-abc"))
		require.Equal(t, first, w.Forwarded("alice-session-abc").Body, "a CONNECT and a GET have one session")
	}
}

func TestAnotherSessionHasAnotherExit(t *testing.T) {
	w := NewWorld(t, Alice, FourExits, Loopback)
	require.NotEqual(t, w.Exit("alice-session-abc"), w.Exit("alice-session-def"))
}

func TestWithoutSessionEachRequestHasAnotherExit(t *testing.T) {
	w := NewWorld(t, Alice, FourExits, Loopback)
	last := ""
	for range 12 {
		exit := w.Exit("alice")
		require.NotEqual(t, last, exit)
		last = exit
		exit = w.Forwarded("alice").Body
		require.NotEqual(t, last, exit)
		last = exit
	}
}

func TestConcurrentFirstConnectsShareOneExit(t *testing.T) {
	w := NewWorld(t, Alice, FourExits, Loopback)
	for round := range 2 {
		var mu sync.Mutex
		exits := make(map[string]int)
		begin := make(chan struct{})
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				<-begin
				exit, err := w.TryExit(fmt.Sprint("alice-session-new", round))
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
	w := NewWorld(t, Alice, Bob, FourExits, Loopback)
	// The second session takes an exit that has none.
	hers := w.Exit("alice-session-abc")
	his := w.Exit("bob-session-abc")
	require.NotEqual(t, hers, his)
	for range 5 {
		require.Equal(t, hers, w.Exit("alice-session-abc"))
		require.Equal(t, his, w.Exit("bob-session-abc"))
	}
}

func TestSessionIsOverAtItsTTLThoughItIsUsed(t *testing.T) {
	const ttl = 2 * time.Second
	w := NewWorld(t, Alice, FourExits, Loopback, "ttl 2s")
	begin := time.Now()
	first := w.Exit("alice-session-abc")
	Eventually(t, "another exit", func() bool {
		exit := w.Exit("alice-session-abc")
		after := time.Now()
		if exit == first {
			return false
		}
		require.GreaterOrEqual(t, after.Sub(begin), ttl, "the session ended early")
		return true
	})
}

func TestLifetimeThatAClientAsksForCounts(t *testing.T) {
	w := NewWorld(t, Alice, FourExits, Loopback, "ttl 1s")
	begin := time.Now()
	short, long := w.Exit("alice-session-short"), w.Exit("alice-session-long-sessionttl-1")
	Eventually(t, "another exit", func() bool { return w.Exit("alice-session-short") != short })
	if time.Since(begin) < time.Minute {
		require.Equal(t, long, w.Exit("alice-session-long"))
	}
}

func TestBadParametersAre400WithAReason(t *testing.T) {
	w := NewWorld(t, Alice, FourExits, Loopback)
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
		res := w.Connect(user, w.Origin)
		require.Equal(t, http.StatusBadRequest, res.Status, user)
		require.Contains(t, res.Body, reason, user)
		require.Equal(t, "http_request_error", res.Reason(), user)
		res = w.Forwarded(user)
		require.Equal(t, http.StatusBadRequest, res.Status, user)
		require.Contains(t, res.Body, reason, user)
	}
	for _, user := range []string{
		"alice-session-a-sessionttl-1", "alice-session-b-sessionttl-240",
		"alice-session-" + strings.Repeat("a", 255), "alice-sessionttl-5-session-c", "alice?session=d&sessionttl=5",
	} {
		require.Equal(t, http.StatusOK, w.Forwarded(user).Status, user)
	}
}

func TestUnknownTagIs503(t *testing.T) {
	w := NewWorld(t, Alice, FourExits, Loopback)
	require.Equal(t, http.StatusServiceUnavailable, w.Forwarded("alice-country-us-session-a").Status)
}

// E1: a 407 says how to do better.
func TestBadCredentialsAre407WithAChallenge(t *testing.T) {
	for name, lines := range map[string]string{
		"none":               "",
		"wrong password":     "Proxy-Authorization: " + Basic("alice-session-a", "wrong") + "\r\n",
		"empty password":     "Proxy-Authorization: " + Basic("alice", "") + "\r\n",
		"another's password": "Proxy-Authorization: " + Basic("alice", BobPassword) + "\r\n",
		"unknown account":    "Proxy-Authorization: " + Basic("carol", AlicePassword) + "\r\n",
		"another case":       "Proxy-Authorization: " + Basic("Alice", AlicePassword) + "\r\n",
		"another scheme":     "Proxy-Authorization: Bearer abc\r\n",
		"no scheme":          "Proxy-Authorization: YWxpY2U6c2VjcmV0\r\n",
		"no base64":          "Proxy-Authorization: Basic !!!\r\n",
		"no colon":           "Proxy-Authorization: Basic YWxpY2U=\r\n",
		"scheme alone":       "Proxy-Authorization: Basic\r\n",
		"empty":              "Proxy-Authorization:\r\n",
		"twice":              Credentials("alice") + Credentials("alice"),
		"two in one line":    "Proxy-Authorization: " + Basic("alice", AlicePassword) + ", " + Basic("alice", AlicePassword) + "\r\n",
		"another header":     strings.Replace(Credentials("alice"), "Proxy-", "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWorld(t, Alice, Bob, FourExits, Loopback)
			for _, request := range []string{"CONNECT " + w.Origin, "GET http://" + w.Origin + "/", "POST http://" + w.Origin + "/"} {
				c := w.Dial()
				c.Send(request + " HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n")
				res := c.Answer(strings.Fields(request)[0])
				require.Equal(t, http.StatusProxyAuthRequired, res.Status, "%s: %s", name, request)
				require.Equal(t, []string{`Basic realm="sticky", charset="UTF-8"`}, res.Header["Proxy-Authenticate"], name)
				require.Equal(t, "http_request_denied", res.Reason())
				c.Close()
			}
		})
	}
}

// E3: the scheme in any case, and the first colon splits.
func TestGoodCredentialsAreAcceptedInAnyForm(t *testing.T) {
	w := NewWorld(t, Alice, Bob, FourExits, Loopback)
	for _, value := range []string{
		Basic("alice", AlicePassword), Basic("bob-session-x", BobPassword),
		"basic" + Basic("alice", AlicePassword)[5:], "BASIC" + Basic("alice", AlicePassword)[5:],
		"Basic  " + Basic("alice", AlicePassword)[6:],
	} {
		for range 2 { // the second one is remembered
			c := w.Dial()
			c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + value + "\r\n\r\n")
			require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status, value)
			c.Close()
		}
	}
	// What is remembered of a right password says nothing for a wrong one.
	c := w.Dial()
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + Basic("alice", BobPassword) + "\r\n\r\n")
	require.Equal(t, http.StatusProxyAuthRequired, c.Answer(http.MethodGet).Status)
}

func TestOpenProxyAsksForNothing(t *testing.T) {
	w := NewWorld(t, "open", FourExits, Loopback)
	require.NotEqual(t, w.Exit(""), w.Exit(""))

	session := func(user string) string {
		c := w.Dial()
		defer c.Close()
		c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + Basic(user, "whatever") + "\r\n\r\n")
		res := c.Answer(http.MethodGet)
		require.Equal(t, http.StatusOK, res.Status, res.Body)
		return res.Body
	}
	first := session("carol-session-x")
	require.NotEqual(t, first, session("dave-session-x"), "accounts that are not verified keep sessions apart all the same")
	for range 5 {
		require.Equal(t, first, session("carol-session-x"))
	}

	c := w.Dial()
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic !!!\r\n\r\n")
	require.Equal(t, http.StatusProxyAuthRequired, c.Answer(http.MethodGet).Status, "garbage is not taken for nothing")
}

// E7: nobody makes the proxy dial or resolve without credentials.
func TestCredentialsAreSettledBeforeAnyDial(t *testing.T) {
	exit := NewPuppet(t, HTTPProxy(Away{}, nil))
	w := NewWorld(t, Alice, Loopback, "exit http://"+exit.Address)
	for _, lines := range []string{
		"", "Proxy-Authorization: " + Basic("alice", "wrong") + "\r\n",
		Credentials("alice-session-a-sessionttl-0"), Credentials("alice") + Credentials("alice"),
	} {
		for _, request := range []string{"CONNECT " + w.Origin, "GET http://" + w.Origin + "/"} {
			c := w.Dial()
			c.Send(request + " HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n")
			require.GreaterOrEqual(t, c.Answer(strings.Fields(request)[0]).Status, 400)
			c.Close()
		}
	}
	for _, destination := range []string{"10.0.0.1:443", "192.168.0.1:80", "[::1]:80"} {
		require.Equal(t, http.StatusForbidden, w.Connect("alice", destination).Status, destination)
	}
	require.Zero(t, exit.Dials.Load())
	require.Equal(t, http.StatusOK, w.Forwarded("alice").Status)
	require.Equal(t, int64(1), exit.Dials.Load())
}

// F1: what is on this machine and around it is nobody's business.
func TestDestinationsAreDeniedByDefault(t *testing.T) {
	w := NewWorld(t, Alice, FourExits, "ports 1-65535")
	port := w.Origin[strings.LastIndexByte(w.Origin, ':'):]
	hosts := []string{
		"127.0.0.1", "127.0.0.53", "localhost", "LOCALHOST", "localhost.", "app.localhost", "0.0.0.0", "[::1]", "[::]",
		"[::ffff:127.0.0.1]", "127.1", "0x7f.1", "2130706433", "017700000001", "10.0.0.1", "172.16.0.1", "192.168.0.1",
		"169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "[fd00:ec2::254]", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
	}
	for _, host := range hosts {
		res := w.Connect("alice", host+port)
		require.Equal(t, http.StatusForbidden, res.Status, "%s: %s", host, res.Body)
		require.Equal(t, "destination_ip_prohibited", res.Reason(), host)
		c := w.Dial()
		c.Send("GET http://" + host + port + "/ HTTP/1.1\r\nHost: " + host + "\r\n" + Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusForbidden, c.Answer(http.MethodGet).Status, host)
		c.Close()
	}
}

// F2: a harmless name may have an address that is not.
func TestNameIsJudgedByTheAddressThatIsDialled(t *testing.T) {
	name, addrs := nameOfThisMachine(t)
	w := NewWorld(t, Alice, FourExits, "ports 1-65535")
	port := w.Origin[strings.LastIndexByte(w.Origin, ':'):]
	res := w.Connect("alice", name+port)
	require.Equal(t, http.StatusForbidden, res.Status, res.Body)
	require.Equal(t, "destination_ip_prohibited", res.Reason())
	c := w.Dial()
	c.Send("GET http://" + name + port + "/ HTTP/1.1\r\nHost: " + name + "\r\n" + Credentials("alice") + "\r\n")
	res = c.Answer(http.MethodGet)
	require.Equal(t, http.StatusForbidden, res.Status, res.Body)
	for _, addr := range addrs {
		require.NotContains(t, res.Body+res.Header.Get("Proxy-Status"), addr, "what a name resolves to in here is not told")
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
	w := NewWorld(t, Alice, OneExit, "allow localhost", "ports 1-65535")
	port := w.Origin[strings.LastIndexByte(w.Origin, ':'):]
	require.Equal(t, http.StatusOK, w.Connect("alice", "localhost"+port).Status)
	require.Equal(t, http.StatusForbidden, w.Connect("alice", "127.0.0.1"+port).Status)
}

func TestAdminEndpointIsReachedOnlyByItsExactAddress(t *testing.T) {
	admin := fmt.Sprintf("127.0.0.1:%d", peer.Port(t))
	port := admin[strings.LastIndexByte(admin, ':'):]

	t.Run("never by a range", func(t *testing.T) {
		w := NewWorldWith(t, OriginOf(t, func(http.ResponseWriter, *http.Request) {}), Site{
			Global: "admin " + admin,
			Block:  Alice + OneExit + "allow 127.0.0.0/8\nallow localhost\nports 1-65535",
		})
		require.Equal(t, http.StatusOK, w.Connect("alice", w.Origin).Status, "the range is open")
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "localhost", "127.1", "[::ffff:127.0.0.1]"} {
			require.Equal(t, http.StatusForbidden, w.Connect("alice", host+port).Status, host)
			c := w.Dial()
			c.Send("GET http://" + host + port + "/config/ HTTP/1.1\r\nHost: x\r\n" + Credentials("alice") + "\r\n")
			require.Equal(t, http.StatusForbidden, c.Answer(http.MethodGet).Status, host)
			c.Close()
		}
	})
	t.Run("by name", func(t *testing.T) {
		w := NewWorldWith(t, OriginOf(t, func(http.ResponseWriter, *http.Request) {}), Site{
			Global: "admin " + admin,
			Block:  Alice + OneExit + Loopback + "allow " + admin,
		})
		c := w.Dial()
		c.Send("GET http://" + admin + "/config/ HTTP/1.1\r\nHost: x\r\n" + Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
	})
}

// A6: what a tunnel is for is asked by its port.
func TestPortsAreRestricted(t *testing.T) {
	t.Run("to 80 and 443", func(t *testing.T) {
		w := NewWorld(t, Alice, OneExit, "allow 127.0.0.1")
		for _, port := range []string{"22", "25", "8080", "65535"} {
			res := w.Connect("alice", "127.0.0.1:"+port)
			require.Equal(t, http.StatusForbidden, res.Status, port)
			require.Contains(t, res.Body, "port "+port)
		}
		require.Equal(t, http.StatusForbidden, w.Forwarded("alice").Status)
		for _, port := range []string{"80", "443"} {
			require.NotEqual(t, http.StatusForbidden, w.Connect("alice", "127.0.0.1:"+port).Status, port)
		}
	})
	t.Run("to those that are listed", func(t *testing.T) {
		w := NewWorld(t, Alice, OneExit, "allow 127.0.0.1", "ports 22 8000-8999")
		for _, port := range []string{"80", "443", "7999", "9000"} {
			require.Equal(t, http.StatusForbidden, w.Connect("alice", "127.0.0.1:"+port).Status, port)
		}
		for _, port := range []string{"22", "8000", "8999"} {
			require.NotEqual(t, http.StatusForbidden, w.Connect("alice", "127.0.0.1:"+port).Status, port)
		}
	})
}

// E9: what a client says of itself in confidence is in no log.
func TestLogsHoldNoPasswordAndNoSessionID(t *testing.T) {
	const id = "Xq7confidentialXq7"
	bad, good := NewPuppet(t, HangUp), NewPuppet(t, HTTPProxy(Away{From: "127.0.0.21"}, nil))
	w := NewWorldWith(t, OriginOf(t, func(w http.ResponseWriter, r *http.Request) {}), Site{
		Server: "log",
		Block: Alice + Bob + Loopback +
			"exit http://exituser:exitpassword@" + bad.Address + "\nexit http://exituser:exitpassword@" + good.Address,
	})
	for i := range 6 {
		user := fmt.Sprint("alice-session-", id, i)
		require.Equal(t, http.StatusOK, w.Connect(user, w.Origin).Status)
		require.Equal(t, http.StatusOK, w.Forwarded(user).Status)
		w.Connect("bob-session-"+id, "10.0.0.1:443")
		w.Connect("alice-sessionttl-0-session-"+id, w.Origin)
		w.Connect("alice-session-"+id+"-sessionmode-often", w.Origin)
		w.Connect("nobody-session-"+id, w.Origin)
	}
	c := w.Dial()
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + Basic("alice-session-"+id, "wrongpassword") + "\r\n\r\n")
	require.Equal(t, http.StatusProxyAuthRequired, c.Answer(http.MethodGet).Status)
	Eventually(t, "the log of a tunnel", func() bool { return len(w.Logs.Lines("tunnel closed")) >= 6 })
	require.NotEmpty(t, w.Logs.Lines("exit failed"), "the test means nothing if no exit fails")
	require.NotEmpty(t, w.Logs.Lines("", Fields{"logger": "http.log.access"}))
	text := w.Logs.String()
	for _, secret := range []string{
		id, BobPassword, "wrongpassword", "exitpassword", ":" + AlicePassword,
		strings.TrimPrefix(Basic("alice-session-"+id+"0", AlicePassword), "Basic "),
		strings.TrimPrefix(Basic("exituser", "exitpassword"), "Basic "),
	} {
		require.NotContains(t, text, secret)
	}
}

// E9, of a client that writes its credentials where they do not belong. Caddy's
// own access log has the URL as it came.
func TestUserInformationInAURLIsRefusedAndNotLogged(t *testing.T) {
	w := NewWorld(t, Alice, OneExit, Loopback)
	c := w.Dial()
	c.Send("GET http://someone:topsecret@" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + Credentials("alice") + "\r\n")
	res := c.Answer(http.MethodGet)
	require.Equal(t, http.StatusBadRequest, res.Status)
	require.NotContains(t, res.Body, "topsecret")
	require.NotContains(t, w.Logs.String(), "topsecret")
}

// H: RFC 9209.
func TestRefusalByTheTargetIsToldAndCostsTheSessionNothing(t *testing.T) {
	dead := DeadPort(t)
	for name, exits := range map[string]string{
		"direct": FourExits,
		"socks5": "exit socks5://" + NewPuppet(t, SocksProxy(Away{From: "127.0.0.21"})).Address +
			"\nexit socks5://" + NewPuppet(t, SocksProxy(Away{From: "127.0.0.22"})).Address,
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWorld(t, Alice, Loopback, exits)
			first := w.Exit("alice-session-abc")
			for range 20 {
				res := w.Connect("alice-session-abc", dead)
				require.Equal(t, http.StatusBadGateway, res.Status)
				require.Equal(t, "connection_refused", res.Reason())
				require.Equal(t, first, w.Exit("alice-session-abc"))
			}
			c := w.Dial()
			c.Send("GET http://" + dead + "/ HTTP/1.1\r\nHost: x\r\n" + Credentials("alice-session-abc") + "\r\n")
			res := c.Answer(http.MethodGet)
			require.Equal(t, http.StatusBadGateway, res.Status)
			require.Equal(t, "connection_refused", res.Reason())
			require.Equal(t, first, w.Exit("alice-session-abc"))
		})
	}
}

func TestRefusalByTheTargetBehindAnHTTPExitCostsTheSessionNothing(t *testing.T) {
	dead := DeadPort(t)
	w := NewWorld(t, Alice, Loopback,
		"exit http://"+NewPuppet(t, HTTPProxy(Away{From: "127.0.0.21"}, nil)).Address,
		"exit http://"+NewPuppet(t, HTTPProxy(Away{From: "127.0.0.22"}, nil)).Address)
	first := w.Exit("alice-session-abc")
	for range 20 {
		res := w.Connect("alice-session-abc", dead)
		require.Equal(t, http.StatusBadGateway, res.Status)
		require.NotEmpty(t, res.Reason())
		require.Equal(t, first, w.Exit("alice-session-abc"))
	}
}

func TestOtherRequestsAreTheNextHandlers(t *testing.T) { // C9
	w := NewWorld(t, Alice, FourExits, Loopback)
	for _, request := range []string{"GET /", "POST /some/path", "OPTIONS /"} {
		c := w.Dial()
		c.Send(request + " HTTP/1.1\r\nHost: " + w.Origin + "\r\nContent-Length: 0\r\n\r\n")
		res := c.Answer(strings.Fields(request)[0])
		require.Equal(t, "not proxied", res.Body, request)
		c.Close()
	}
}

// C10: a site that is only a port proxies for every host.
func TestHostHeaderDoesNotMatter(t *testing.T) {
	w := NewWorld(t, Alice, FourExits, Loopback)
	for _, host := range []string{"shop.example", "localhost", "127.0.0.1", "[::1]:80", ""} {
		c := w.Dial()
		c.Send("CONNECT " + w.Origin + " HTTP/1.1\r\nHost: " + host + "\r\n" + Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodConnect).Status, host)
		c.Close()
		c = w.Dial()
		c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: " + host + "\r\n" + Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status, host)
		c.Close()
	}
}
