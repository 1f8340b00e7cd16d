// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// A1: authority-form only.
func TestConnectNamesAHostAndAPort(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	for _, target := range []string{
		"127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+80", "127.0.0.1:http",
		":80", "127.0.0.1:80:80", "::1:80", "http://127.0.0.1:80/", "/", "/127.0.0.1:80", "127.0.0.1:80/", "127.0.0.1:80?x",
		"alice:secret@127.0.0.1:80", "*", "shop_.example..:80", "-:", "127.0.0.1.1:80", "[127.0.0.1]:80", "[::1%25lo]:80",
	} {
		c := w.Dial()
		c.Send("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusBadRequest, c.Answer(http.MethodConnect).Status, target)
		c.Close()
	}
}

// A2.
func TestAnswerToConnectHasNoLength(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	for _, request := range []string{
		proxytest.Connect("alice", w.Origin),
		strings.Replace(proxytest.Connect("alice", w.Origin), "HTTP/1.1", "HTTP/1.0", 1),
		strings.Replace(proxytest.Connect("alice", w.Origin), "\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n", 1),
		strings.Replace(proxytest.Connect("alice", w.Origin), "\r\n\r\n", "\r\nConnection: close\r\nProxy-Connection: keep-alive\r\n\r\n", 1),
	} {
		c := w.Dial()
		c.Send(request)
		res := c.Answer(http.MethodConnect)
		require.Equal(t, http.StatusOK, res.Status)
		require.NotContains(t, res.Header, "Content-Length")
		require.NotContains(t, res.Header, "Transfer-Encoding")
		require.Empty(t, res.Response.TransferEncoding)
		c.Send("GET / HTTP/1.1\r\nHost: origin\r\n\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
		c.Close()
	}
}

// A3.
func TestConnectIsAnsweredWhenTheExitIsConnected(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	exit := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		close(arrived)
		<-release
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		proxytest.Echo(conn)
	})
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit http://"+exit.Address)
	c := w.Dial()
	c.Send(proxytest.Connect("alice", "shop.example:443"))
	<-arrived
	quiet := c.Silent()
	close(release)
	require.True(t, quiet, "answered before the exit was connected")
	require.Equal(t, http.StatusOK, c.Answer(http.MethodConnect).Status)
	c.Send("ping")
	c.Expect("ping")
}

// A4, from the client: what it sent behind its header.
func TestBytesBehindTheConnectArriveOnceInOrder(t *testing.T) {
	for name, size := range map[string]int{"few": 5, "more than a buffer": 300 << 10} {
		t.Run(name, func(t *testing.T) {
			for kind, exit := range map[string]string{
				"direct": "exit direct://127.0.0.11",
				"http":   "exit http://" + proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{}, nil)).Address,
				"socks5": "exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{})).Address,
			} {
				w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, exit)
				early, late := proxytest.RandomText(size), proxytest.RandomText(size)
				c := w.Dial()
				head, answered := proxytest.Connect("alice", proxytest.ServerOf(t, proxytest.Echo)), make(chan struct{})
				go func() {
					_, _ = io.WriteString(c.Conn, head+early)
					_, _ = io.WriteString(c.Conn, late)
					<-answered // who ends before that is taken for gone
					_ = c.Conn.CloseWrite()
				}()
				res := c.Answer(http.MethodConnect)
				close(answered)
				require.Equal(t, http.StatusOK, res.Status, kind)
				require.True(t, early+late == c.ExpectEnd(), "%s: other bytes came back than were sent", kind)
			}
		})
	}
}

// A4, from the exit: what it sent behind its 200.
func TestBytesBehindTheExitsAnswerArriveOnceInOrder(t *testing.T) {
	for _, size := range []int{1, 5, 3000, 4096, 300 << 10} {
		early := proxytest.RandomText(size)
		exit := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\nHTTP/1.1 200 OK\r\nX-More: x\r\n\r\n"+early)
				proxytest.Echo(conn)
			}
		})
		w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit http://"+exit.Address)
		c := w.Tunnel("alice", "shop.example:443")
		c.Expect(early)
		c.Send("ping")
		c.CloseWrite()
		require.Equal(t, "ping", c.ExpectEnd())
	}
}

// A5 and G3: a half that is closed arrives as that, after all that was sent.
func TestHalfCloseArrivesBehindTheLastByte(t *testing.T) {
	for kind, exit := range map[string]string{
		"direct": "exit direct://127.0.0.11",
		"http":   "exit http://" + proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{}, nil)).Address,
		"socks5": "exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{})).Address,
	} {
		for who, access := range map[string]string{"": "", "with access logs": "log"} {
			t.Run(kind+who, func(t *testing.T) {
				text := proxytest.RandomText(200 << 10)
				got := make(chan string, 1)
				target := proxytest.ServerOf(t, func(conn *net.TCPConn) {
					all, _ := io.ReadAll(conn) // ends with the client's half
					got <- string(all)
					_, _ = io.WriteString(conn, text)
				})
				w := proxytest.NewWorldWith(t, "", proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + exit, Server: access})
				c := w.Tunnel("alice", target)
				c.Send(text)
				c.CloseWrite()
				require.True(t, text == <-got, "the target read other bytes than were sent")
				require.True(t, text == c.ExpectEnd(), "the client read other bytes than were sent")
			})
		}
	}
}

// A5, the other way: the target ends first, and the client goes on.
func TestTargetMayEndItsHalfFirst(t *testing.T) {
	got := make(chan string, 1)
	target := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "that is all")
		_ = conn.CloseWrite()
		all, _ := io.ReadAll(conn)
		got <- string(all)
	})
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	c := w.Tunnel("alice", target)
	require.Equal(t, "that is all", c.ExpectEnd())
	c.Send("and this is mine")
	c.CloseWrite()
	require.Equal(t, "and this is mine", <-got)
}

// A5: a target that goes away while the client still sends.
func TestLastWordsOfATargetThatClosesArrive(t *testing.T) {
	text := proxytest.RandomText(100 << 10)
	target := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		_, _ = io.ReadFull(conn, make([]byte, 1))
		_, _ = io.WriteString(conn, text)
	})
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	c := w.Tunnel("alice", target)
	c.Send("x")
	require.True(t, text == c.ExpectEnd(), "the client read other bytes than were sent")
}

// A7: a refused CONNECT leaves a connection that works, or says that it closes.
func TestConnectionIsUsableAfterARefusal(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	c := w.Dial()
	for _, refused := range []struct {
		request string
		status  int
	}{
		{proxytest.Connect("", w.Origin), http.StatusProxyAuthRequired},
		{proxytest.Connect("alice-sessionttl-0-session-a", w.Origin), http.StatusBadRequest},
		{proxytest.Connect("alice", "10.0.0.1:443"), http.StatusForbidden},
		{proxytest.Connect("alice", "127.0.0.1:0"), http.StatusBadRequest},
		{proxytest.Connect("alice", proxytest.DeadPort(t)), http.StatusBadGateway},
		{proxytest.Connect("", w.Origin), http.StatusProxyAuthRequired},
	} {
		c.Send(refused.request)
		res := c.Answer(http.MethodConnect)
		require.Equal(t, refused.status, res.Status)
		if res.Response.Close {
			c.ExpectClosed()
			c = w.Dial()
		}
	}
	c.Send(proxytest.Connect("alice", w.Origin) + "GET / HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n")
	require.Equal(t, http.StatusOK, c.Answer(http.MethodConnect).Status)
	require.Equal(t, "127.0.0.11", c.Answer(http.MethodGet).Body)
	require.Empty(t, c.ExpectEnd())
}

// A8.
func TestConnectWithABodyIsRefused(t *testing.T) {
	target := proxytest.NewPuppet(t, proxytest.Echo)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	for _, body := range []string{
		"Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		c := w.Dial()
		c.Send("CONNECT " + target.Address + " HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + body)
		res := c.Answer(http.MethodConnect)
		require.Equal(t, http.StatusBadRequest, res.Status)
		if !res.Response.Close {
			// The body is not taken for the next request.
			c.Send(proxytest.Connect("alice", target.Address))
			require.Equal(t, http.StatusOK, c.Answer(http.MethodConnect).Status)
		}
		c.Close()
	}
	require.LessOrEqual(t, target.Dials.Load(), int64(3))
}

// G1: idle is silence in both directions.
func TestSilentTunnelIsClosedAfterTheIdleTimeout(t *testing.T) {
	target := proxytest.NewPuppet(t, proxytest.Hang)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback, "idle_timeout 500ms")
	c := w.Tunnel("alice", target.Address)
	begin := time.Now()
	require.Empty(t, c.ExpectEnd())
	require.GreaterOrEqual(t, time.Since(begin), 450*time.Millisecond)
	proxytest.Eventually(t, "the target's end", func() bool { return target.Open() == 0 })
}

func TestTrafficInOneDirectionKeepsATunnelOpen(t *testing.T) {
	const idle, busy = 2 * time.Second, 5 * time.Second
	talk := func(conn net.Conn) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for begin := time.Now(); time.Since(begin) < busy; <-tick.C {
			if _, err := conn.Write([]byte("x")); err != nil {
				return
			}
		}
		_, _ = conn.Write([]byte("."))
	}
	heard := make(chan string, 1)
	speaker := proxytest.ServerOf(t, func(conn *net.TCPConn) { talk(conn) })
	listener := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		text, _ := bufio.NewReader(conn).ReadString('.')
		heard <- text
	})
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback, "idle_timeout "+idle.String())
	down, up := w.Tunnel("alice", speaker), w.Tunnel("alice", listener)
	go talk(up.Conn)
	require.True(t, strings.HasSuffix(down.ExpectEnd(), "."), "the download was cut")
	require.True(t, strings.HasSuffix(<-heard, "."), "the upload was cut")
}

// G2: a session does not notice that its tunnel was idle.
func TestIdleTimeoutDoesNotEndTheSession(t *testing.T) {
	target := proxytest.ServerOf(t, proxytest.Hang)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback, "idle_timeout 200ms")
	first := w.Exit("alice-session-abc")
	w.Tunnel("alice-session-abc", target).ExpectClosed()
	require.Equal(t, first, w.Exit("alice-session-abc"))
}

// G5: who no longer waits for a handshake ends it.
func TestHandshakeEndsWithItsClient(t *testing.T) {
	for scheme, serve := range map[string]func(*net.TCPConn){"http": proxytest.Hang, "socks5": proxytest.Hang} {
		t.Run(scheme, func(t *testing.T) {
			exit := proxytest.NewPuppet(t, serve)
			w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit "+scheme+"://"+exit.Address, "dial_timeout 1h")
			c := w.Dial()
			c.Send(proxytest.Connect("alice-session-abc", "shop.example:443"))
			proxytest.Eventually(t, "the handshake", func() bool { return exit.Open() == 1 })
			c.Close()
			proxytest.Eventually(t, "its end", func() bool { return exit.Open() == 0 })
			require.Empty(t, w.Logs.Lines("exit failed"), "a client that goes away is no error of the exit")
		})
	}
}

// G4 and the line of a tunnel in the log.
func TestVanishedClientClosesTheTarget(t *testing.T) {
	target := proxytest.NewPuppet(t, proxytest.Echo)
	w := proxytest.NewWorldWith(t, "", proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback, Server: "log"})
	c := w.Tunnel("alice-session-abc", target.Address)
	c.Send("ping")
	c.Expect("ping")
	require.NoError(t, c.Conn.SetLinger(0))
	c.Close()
	proxytest.Eventually(t, "the target's end", func() bool { return target.Open() == 0 })
	proxytest.Eventually(t, "the tunnel's log", func() bool { return len(w.Logs.Lines("tunnel closed")) == 1 })
	require.Len(t, w.Logs.Lines("tunnel closed", proxytest.Fields{
		"level": "info", "account": "alice", "target": "direct://127.0.0.11", "destination": target.Address,
		"sent": 4, "received": 4,
	}), 1)
}

// G8: each request is its own credentials'.
func TestRequestsOnOneConnectionAreDecidedByTheirOwnCredentials(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, proxytest.FourExits, proxytest.Loopback)
	hers, his := w.Exit("alice-session-abc"), w.Exit("bob-session-abc")
	require.NotEqual(t, hers, his)
	c := w.Dial()
	ask := func(lines string) proxytest.Reply {
		c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n")
		return c.Answer(http.MethodGet)
	}
	for range 5 {
		require.Equal(t, hers, ask(proxytest.Credentials("alice-session-abc")).Body)
		require.Equal(t, his, ask(proxytest.Credentials("bob-session-abc")).Body)
		require.Equal(t, http.StatusProxyAuthRequired, ask("").Status)
		require.Equal(t, http.StatusProxyAuthRequired, ask("Proxy-Authorization: "+proxytest.Basic("alice-session-abc", "wrong")+"\r\n").Status)
	}
	c.Send(proxytest.Connect("", w.Origin))
	require.Equal(t, http.StatusProxyAuthRequired, c.Answer(http.MethodConnect).Status, "a tunnel inherits nothing")
	c.Send(proxytest.Connect("bob-session-abc", w.Origin))
	require.Equal(t, http.StatusOK, c.Answer(http.MethodConnect).Status)
	c.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, his, c.Answer(http.MethodGet).Body)
}
