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
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

func TestSessionKeepsItsExitOverManyConnections(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	first := w.Exit("alice-session-abc")
	require.Regexp(t, `^127\.0\.0\.1[1-4]$`, first)
	for range 30 {
		require.Equal(t, first, w.Exit("alice-session-abc"))
		require.Equal(t, first, w.Forwarded("alice-session-abc").Body, "a CONNECT and a GET have one session")
	}
}

func TestAnotherSessionHasAnotherExit(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	require.NotEqual(t, w.Exit("alice-session-abc"), w.Exit("alice-session-def"))
}

func TestWithoutSessionEachRequestHasAnotherExit(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, proxytest.FourExits, proxytest.Loopback)
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback, "ttl 2s")
	begin := time.Now()
	first := w.Exit("alice-session-abc")
	proxytest.Eventually(t, "another exit", func() bool {
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback, "ttl 1s")
	begin := time.Now()
	short, long := w.Exit("alice-session-short"), w.Exit("alice-session-long-sessionttl-1")
	proxytest.Eventually(t, "another exit", func() bool { return w.Exit("alice-session-short") != short })
	if time.Since(begin) < time.Minute {
		require.Equal(t, long, w.Exit("alice-session-long"))
	}
}

func TestBadParametersAre400WithAReason(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	require.Equal(t, http.StatusServiceUnavailable, w.Forwarded("alice-country-us-session-a").Status)
}

// E1: a 407 says how to do better.
func TestBadCredentialsAre407WithAChallenge(t *testing.T) {
	for name, lines := range map[string]string{
		"none":               "",
		"wrong password":     "Proxy-Authorization: " + proxytest.Basic("alice-session-a", "wrong") + "\r\n",
		"empty password":     "Proxy-Authorization: " + proxytest.Basic("alice", "") + "\r\n",
		"another's password": "Proxy-Authorization: " + proxytest.Basic("alice", proxytest.BobPassword) + "\r\n",
		"unknown account":    "Proxy-Authorization: " + proxytest.Basic("carol", proxytest.AlicePassword) + "\r\n",
		"another case":       "Proxy-Authorization: " + proxytest.Basic("Alice", proxytest.AlicePassword) + "\r\n",
		"another scheme":     "Proxy-Authorization: Bearer abc\r\n",
		"no scheme":          "Proxy-Authorization: YWxpY2U6c2VjcmV0\r\n",
		"no base64":          "Proxy-Authorization: Basic !!!\r\n",
		"no colon":           "Proxy-Authorization: Basic YWxpY2U=\r\n",
		"scheme alone":       "Proxy-Authorization: Basic\r\n",
		"empty":              "Proxy-Authorization:\r\n",
		"twice":              proxytest.Credentials("alice") + proxytest.Credentials("alice"),
		"two in one line":    "Proxy-Authorization: " + proxytest.Basic("alice", proxytest.AlicePassword) + ", " + proxytest.Basic("alice", proxytest.AlicePassword) + "\r\n",
		"another header":     strings.Replace(proxytest.Credentials("alice"), "Proxy-", "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, proxytest.FourExits, proxytest.Loopback)
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, proxytest.FourExits, proxytest.Loopback)
	for _, value := range []string{
		proxytest.Basic("alice", proxytest.AlicePassword), proxytest.Basic("bob-session-x", proxytest.BobPassword),
		"basic" + proxytest.Basic("alice", proxytest.AlicePassword)[5:], "BASIC" + proxytest.Basic("alice", proxytest.AlicePassword)[5:],
		"Basic  " + proxytest.Basic("alice", proxytest.AlicePassword)[6:],
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
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + proxytest.Basic("alice", proxytest.BobPassword) + "\r\n\r\n")
	require.Equal(t, http.StatusProxyAuthRequired, c.Answer(http.MethodGet).Status)
}

func TestOpenProxyAsksForNothing(t *testing.T) {
	w := proxytest.NewWorld(t, "open", proxytest.FourExits, proxytest.Loopback)
	require.NotEqual(t, w.Exit(""), w.Exit(""))

	session := func(user string) string {
		c := w.Dial()
		defer c.Close()
		c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + proxytest.Basic(user, "whatever") + "\r\n\r\n")
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
	exit := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{}, nil))
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit http://"+exit.Address)
	for _, lines := range []string{
		"", "Proxy-Authorization: " + proxytest.Basic("alice", "wrong") + "\r\n",
		proxytest.Credentials("alice-session-a-sessionttl-0"), proxytest.Credentials("alice") + proxytest.Credentials("alice"),
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, "ports 1-65535")
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
		c.Send("GET http://" + host + port + "/ HTTP/1.1\r\nHost: " + host + "\r\n" + proxytest.Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusForbidden, c.Answer(http.MethodGet).Status, host)
		c.Close()
	}
}

// F2: a harmless name may have an address that is not.
func TestNameIsJudgedByTheAddressThatIsDialled(t *testing.T) {
	name, addrs := nameOfThisMachine(t)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, "ports 1-65535")
	port := w.Origin[strings.LastIndexByte(w.Origin, ':'):]
	res := w.Connect("alice", name+port)
	require.Equal(t, http.StatusForbidden, res.Status, res.Body)
	require.Equal(t, "destination_ip_prohibited", res.Reason())
	c := w.Dial()
	c.Send("GET http://" + name + port + "/ HTTP/1.1\r\nHost: " + name + "\r\n" + proxytest.Credentials("alice") + "\r\n")
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, "allow localhost", "ports 1-65535")
	port := w.Origin[strings.LastIndexByte(w.Origin, ':'):]
	require.Equal(t, http.StatusOK, w.Connect("alice", "localhost"+port).Status)
	require.Equal(t, http.StatusForbidden, w.Connect("alice", "127.0.0.1"+port).Status)
}

func TestAdminEndpointIsReachedOnlyByItsExactAddress(t *testing.T) {
	admin := fmt.Sprintf("127.0.0.1:%d", peer.Port(t))
	port := admin[strings.LastIndexByte(admin, ':'):]

	t.Run("never by a range", func(t *testing.T) {
		w := proxytest.NewWorldWith(t, proxytest.OriginOf(t, func(http.ResponseWriter, *http.Request) {}), proxytest.Site{
			Global: "admin " + admin,
			Block:  proxytest.Alice + proxytest.OneExit + "allow 127.0.0.0/8\nallow localhost\nports 1-65535",
		})
		require.Equal(t, http.StatusOK, w.Connect("alice", w.Origin).Status, "the range is open")
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "localhost", "127.1", "[::ffff:127.0.0.1]"} {
			require.Equal(t, http.StatusForbidden, w.Connect("alice", host+port).Status, host)
			c := w.Dial()
			c.Send("GET http://" + host + port + "/config/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
			require.Equal(t, http.StatusForbidden, c.Answer(http.MethodGet).Status, host)
			c.Close()
		}
	})
	t.Run("by name", func(t *testing.T) {
		w := proxytest.NewWorldWith(t, proxytest.OriginOf(t, func(http.ResponseWriter, *http.Request) {}), proxytest.Site{
			Global: "admin " + admin,
			Block:  proxytest.Alice + proxytest.OneExit + proxytest.Loopback + "allow " + admin,
		})
		c := w.Dial()
		c.Send("GET http://" + admin + "/config/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
	})
}

// A6: what a tunnel is for is asked by its port.
func TestPortsAreRestricted(t *testing.T) {
	t.Run("to 80 and 443", func(t *testing.T) {
		w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, "allow 127.0.0.1")
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
		w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, "allow 127.0.0.1", "ports 22 8000-8999")
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
	bad, good := proxytest.NewPuppet(t, proxytest.HangUp), proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.21"}, nil))
	w := proxytest.NewWorldWith(t, proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {}), proxytest.Site{
		Server: "log",
		Block: proxytest.Alice + proxytest.Bob + proxytest.Loopback +
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
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + proxytest.Basic("alice-session-"+id, "wrongpassword") + "\r\n\r\n")
	require.Equal(t, http.StatusProxyAuthRequired, c.Answer(http.MethodGet).Status)
	proxytest.Eventually(t, "the log of a tunnel", func() bool { return len(w.Logs.Lines("tunnel closed")) >= 6 })
	require.NotEmpty(t, w.Logs.Lines("exit failed"), "the test means nothing if no exit fails")
	require.NotEmpty(t, w.Logs.Lines("", proxytest.Fields{"logger": "http.log.access"}))
	text := w.Logs.String()
	for _, secret := range []string{
		id, proxytest.BobPassword, "wrongpassword", "exitpassword", ":" + proxytest.AlicePassword,
		strings.TrimPrefix(proxytest.Basic("alice-session-"+id+"0", proxytest.AlicePassword), "Basic "),
		strings.TrimPrefix(proxytest.Basic("exituser", "exitpassword"), "Basic "),
	} {
		require.NotContains(t, text, secret)
	}
}

// E9, of a client that writes its credentials where they do not belong. Caddy's
// own access log has the URL as it came.
func TestUserInformationInAURLIsRefusedAndNotLogged(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	c := w.Dial()
	c.Send("GET http://someone:topsecret@" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
	res := c.Answer(http.MethodGet)
	require.Equal(t, http.StatusBadRequest, res.Status)
	require.NotContains(t, res.Body, "topsecret")
	require.NotContains(t, w.Logs.String(), "topsecret")
}

// H: RFC 9209.
func TestRefusalByTheTargetIsToldAndCostsTheSessionNothing(t *testing.T) {
	dead := proxytest.DeadPort(t)
	for name, exits := range map[string]string{
		"direct": proxytest.FourExits,
		"socks5": "exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{From: "127.0.0.21"})).Address +
			"\nexit socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{From: "127.0.0.22"})).Address,
	} {
		t.Run(name, func(t *testing.T) {
			w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, exits)
			first := w.Exit("alice-session-abc")
			for range 20 {
				res := w.Connect("alice-session-abc", dead)
				require.Equal(t, http.StatusBadGateway, res.Status)
				require.Equal(t, "connection_refused", res.Reason())
				require.Equal(t, first, w.Exit("alice-session-abc"))
			}
			c := w.Dial()
			c.Send("GET http://" + dead + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice-session-abc") + "\r\n")
			res := c.Answer(http.MethodGet)
			require.Equal(t, http.StatusBadGateway, res.Status)
			require.Equal(t, "connection_refused", res.Reason())
			require.Equal(t, first, w.Exit("alice-session-abc"))
		})
	}
}

func TestRefusalByTheTargetBehindAnHTTPExitCostsTheSessionNothing(t *testing.T) {
	dead := proxytest.DeadPort(t)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback,
		"exit http://"+proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.21"}, nil)).Address,
		"exit http://"+proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.22"}, nil)).Address)
	first := w.Exit("alice-session-abc")
	for range 20 {
		res := w.Connect("alice-session-abc", dead)
		require.Equal(t, http.StatusBadGateway, res.Status)
		require.NotEmpty(t, res.Reason())
		require.Equal(t, first, w.Exit("alice-session-abc"))
	}
}

func TestOtherRequestsAreTheNextHandlers(t *testing.T) { // C9
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	for _, host := range []string{"shop.example", "localhost", "127.0.0.1", "[::1]:80", ""} {
		c := w.Dial()
		c.Send("CONNECT " + w.Origin + " HTTP/1.1\r\nHost: " + host + "\r\n" + proxytest.Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodConnect).Status, host)
		c.Close()
		c = w.Dial()
		c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: " + host + "\r\n" + proxytest.Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status, host)
		c.Close()
	}
}
