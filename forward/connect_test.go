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
)

// A1: authority-form only.
func TestConnectNamesAHostAndAPort(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	for _, target := range []string{
		"127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+80", "127.0.0.1:http",
		":80", "127.0.0.1:80:80", "::1:80", "http://127.0.0.1:80/", "/", "/127.0.0.1:80", "127.0.0.1:80/", "127.0.0.1:80?x",
		"alice:secret@127.0.0.1:80", "*", "shop_.example..:80", "-:", "127.0.0.1.1:80", "[127.0.0.1]:80", "[::1%25lo]:80",
	} {
		c := w.dial()
		c.send("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n")
		require.Equal(t, http.StatusBadRequest, c.answer(http.MethodConnect).status, target)
		c.close()
	}
}

// A2.
func TestAnswerToConnectHasNoLength(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	for _, request := range []string{
		connect("alice", w.origin),
		strings.Replace(connect("alice", w.origin), "HTTP/1.1", "HTTP/1.0", 1),
		strings.Replace(connect("alice", w.origin), "\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n", 1),
		strings.Replace(connect("alice", w.origin), "\r\n\r\n", "\r\nConnection: close\r\nProxy-Connection: keep-alive\r\n\r\n", 1),
	} {
		c := w.dial()
		c.send(request)
		res := c.answer(http.MethodConnect)
		require.Equal(t, http.StatusOK, res.status)
		require.NotContains(t, res.header, "Content-Length")
		require.NotContains(t, res.header, "Transfer-Encoding")
		require.Empty(t, res.response.TransferEncoding)
		c.send("GET / HTTP/1.1\r\nHost: origin\r\n\r\n")
		require.Equal(t, http.StatusOK, c.answer(http.MethodGet).status)
		c.close()
	}
}

// A3.
func TestConnectIsAnsweredWhenTheExitIsConnected(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	exit := newPuppet(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		close(arrived)
		<-release
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		echo(conn)
	})
	w := newWorld(t, alice, loopback, "exit http://"+exit.address)
	c := w.dial()
	c.send(connect("alice", "shop.example:443"))
	<-arrived
	quiet := c.silent()
	close(release)
	require.True(t, quiet, "answered before the exit was connected")
	require.Equal(t, http.StatusOK, c.answer(http.MethodConnect).status)
	c.send("ping")
	c.expect("ping")
}

// A4, from the client: what it sent behind its header.
func TestBytesBehindTheConnectArriveOnceInOrder(t *testing.T) {
	for name, size := range map[string]int{"few": 5, "more than a buffer": 300 << 10} {
		t.Run(name, func(t *testing.T) {
			for kind, exit := range map[string]string{
				"direct": "exit direct://127.0.0.11",
				"http":   "exit http://" + newPuppet(t, httpProxy(away{}, nil)).address,
				"socks5": "exit socks5://" + newPuppet(t, socksProxy(away{})).address,
			} {
				w := newWorld(t, alice, loopback, exit)
				early, late := randomText(size), randomText(size)
				c := w.dial()
				head, answered := connect("alice", serverOf(t, echo)), make(chan struct{})
				go func() {
					_, _ = io.WriteString(c.conn, head+early)
					_, _ = io.WriteString(c.conn, late)
					<-answered // who ends before that is taken for gone
					_ = c.conn.CloseWrite()
				}()
				res := c.answer(http.MethodConnect)
				close(answered)
				require.Equal(t, http.StatusOK, res.status, kind)
				require.True(t, early+late == c.expectEnd(), "%s: other bytes came back than were sent", kind)
			}
		})
	}
}

// A4, from the exit: what it sent behind its 200.
func TestBytesBehindTheExitsAnswerArriveOnceInOrder(t *testing.T) {
	for _, size := range []int{1, 5, 3000, 4096, 300 << 10} {
		early := randomText(size)
		exit := newPuppet(t, func(conn *net.TCPConn) {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\nHTTP/1.1 200 OK\r\nX-More: x\r\n\r\n"+early)
				echo(conn)
			}
		})
		w := newWorld(t, alice, loopback, "exit http://"+exit.address)
		c := w.tunnel("alice", "shop.example:443")
		c.expect(early)
		c.send("ping")
		c.closeWrite()
		require.Equal(t, "ping", c.expectEnd())
	}
}

// A5 and G3: a half that is closed arrives as that, after all that was sent.
func TestHalfCloseArrivesBehindTheLastByte(t *testing.T) {
	for kind, exit := range map[string]string{
		"direct": "exit direct://127.0.0.11",
		"http":   "exit http://" + newPuppet(t, httpProxy(away{}, nil)).address,
		"socks5": "exit socks5://" + newPuppet(t, socksProxy(away{})).address,
	} {
		for who, access := range map[string]string{"": "", "with access logs": "log"} {
			t.Run(kind+who, func(t *testing.T) {
				text := randomText(200 << 10)
				got := make(chan string, 1)
				target := serverOf(t, func(conn *net.TCPConn) {
					all, _ := io.ReadAll(conn) // ends with the client's half
					got <- string(all)
					_, _ = io.WriteString(conn, text)
				})
				w := newWorldWith(t, "", site{block: alice + loopback + exit, server: access})
				c := w.tunnel("alice", target)
				c.send(text)
				c.closeWrite()
				require.True(t, text == <-got, "the target read other bytes than were sent")
				require.True(t, text == c.expectEnd(), "the client read other bytes than were sent")
			})
		}
	}
}

// A5, the other way: the target ends first, and the client goes on.
func TestTargetMayEndItsHalfFirst(t *testing.T) {
	got := make(chan string, 1)
	target := serverOf(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "that is all")
		_ = conn.CloseWrite()
		all, _ := io.ReadAll(conn)
		got <- string(all)
	})
	w := newWorld(t, alice, oneExit, loopback)
	c := w.tunnel("alice", target)
	require.Equal(t, "that is all", c.expectEnd())
	c.send("and this is mine")
	c.closeWrite()
	require.Equal(t, "and this is mine", <-got)
}

// A5: a target that goes away while the client still sends.
func TestLastWordsOfATargetThatClosesArrive(t *testing.T) {
	text := randomText(100 << 10)
	target := serverOf(t, func(conn *net.TCPConn) {
		_, _ = io.ReadFull(conn, make([]byte, 1))
		_, _ = io.WriteString(conn, text)
	})
	w := newWorld(t, alice, oneExit, loopback)
	c := w.tunnel("alice", target)
	c.send("x")
	require.True(t, text == c.expectEnd(), "the client read other bytes than were sent")
}

// A7: a refused CONNECT leaves a connection that works, or says that it closes.
func TestConnectionIsUsableAfterARefusal(t *testing.T) {
	w := newWorld(t, alice, oneExit, loopback)
	c := w.dial()
	for _, refused := range []struct {
		request string
		status  int
	}{
		{connect("", w.origin), http.StatusProxyAuthRequired},
		{connect("alice-sessionttl-0-session-a", w.origin), http.StatusBadRequest},
		{connect("alice", "10.0.0.1:443"), http.StatusForbidden},
		{connect("alice", "127.0.0.1:0"), http.StatusBadRequest},
		{connect("alice", deadPort(t)), http.StatusBadGateway},
		{connect("", w.origin), http.StatusProxyAuthRequired},
	} {
		c.send(refused.request)
		res := c.answer(http.MethodConnect)
		require.Equal(t, refused.status, res.status)
		if res.response.Close {
			c.expectClosed()
			c = w.dial()
		}
	}
	c.send(connect("alice", w.origin) + "GET / HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n")
	require.Equal(t, http.StatusOK, c.answer(http.MethodConnect).status)
	require.Equal(t, "127.0.0.11", c.answer(http.MethodGet).body)
	require.Empty(t, c.expectEnd())
}

// A8.
func TestConnectWithABodyIsRefused(t *testing.T) {
	target := newPuppet(t, echo)
	w := newWorld(t, alice, oneExit, loopback)
	for _, body := range []string{
		"Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		c := w.dial()
		c.send("CONNECT " + target.address + " HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + body)
		res := c.answer(http.MethodConnect)
		require.Equal(t, http.StatusBadRequest, res.status)
		if !res.response.Close {
			// The body is not taken for the next request.
			c.send(connect("alice", target.address))
			require.Equal(t, http.StatusOK, c.answer(http.MethodConnect).status)
		}
		c.close()
	}
	require.LessOrEqual(t, target.dials.Load(), int64(3))
}

// G1: idle is silence in both directions.
func TestSilentTunnelIsClosedAfterTheIdleTimeout(t *testing.T) {
	target := newPuppet(t, hang)
	w := newWorld(t, alice, oneExit, loopback, "idle_timeout 500ms")
	c := w.tunnel("alice", target.address)
	begin := time.Now()
	require.Empty(t, c.expectEnd())
	require.GreaterOrEqual(t, time.Since(begin), 450*time.Millisecond)
	eventually(t, "the target's end", func() bool { return target.open() == 0 })
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
	speaker := serverOf(t, func(conn *net.TCPConn) { talk(conn) })
	listener := serverOf(t, func(conn *net.TCPConn) {
		text, _ := bufio.NewReader(conn).ReadString('.')
		heard <- text
	})
	w := newWorld(t, alice, oneExit, loopback, "idle_timeout "+idle.String())
	down, up := w.tunnel("alice", speaker), w.tunnel("alice", listener)
	go talk(up.conn)
	require.True(t, strings.HasSuffix(down.expectEnd(), "."), "the download was cut")
	require.True(t, strings.HasSuffix(<-heard, "."), "the upload was cut")
}

// G2: a session does not notice that its tunnel was idle.
func TestIdleTimeoutDoesNotEndTheSession(t *testing.T) {
	target := serverOf(t, hang)
	w := newWorld(t, alice, fourExits, loopback, "idle_timeout 200ms")
	first := w.exit("alice-session-abc")
	w.tunnel("alice-session-abc", target).expectClosed()
	require.Equal(t, first, w.exit("alice-session-abc"))
}

// G5: who no longer waits for a handshake ends it.
func TestHandshakeEndsWithItsClient(t *testing.T) {
	for scheme, serve := range map[string]func(*net.TCPConn){"http": hang, "socks5": hang} {
		t.Run(scheme, func(t *testing.T) {
			exit := newPuppet(t, serve)
			w := newWorld(t, alice, loopback, "exit "+scheme+"://"+exit.address, "dial_timeout 1h")
			c := w.dial()
			c.send(connect("alice-session-abc", "shop.example:443"))
			eventually(t, "the handshake", func() bool { return exit.open() == 1 })
			c.close()
			eventually(t, "its end", func() bool { return exit.open() == 0 })
			require.Empty(t, w.logs.lines("exit failed"), "a client that goes away is no error of the exit")
		})
	}
}

// G4 and the line of a tunnel in the log.
func TestVanishedClientClosesTheTarget(t *testing.T) {
	target := newPuppet(t, echo)
	w := newWorldWith(t, "", site{block: alice + oneExit + loopback, server: "log"})
	c := w.tunnel("alice-session-abc", target.address)
	c.send("ping")
	c.expect("ping")
	require.NoError(t, c.conn.SetLinger(0))
	c.close()
	eventually(t, "the target's end", func() bool { return target.open() == 0 })
	eventually(t, "the tunnel's log", func() bool { return len(w.logs.lines("tunnel closed")) == 1 })
	require.Len(t, w.logs.lines("tunnel closed", fields{
		"level": "info", "account": "alice", "target": "direct://127.0.0.11", "destination": target.address,
		"sent": 4, "received": 4,
	}), 1)
}

// G8: each request is its own credentials'.
func TestRequestsOnOneConnectionAreDecidedByTheirOwnCredentials(t *testing.T) {
	w := newWorld(t, alice, bob, fourExits, loopback)
	hers, his := w.exit("alice-session-abc"), w.exit("bob-session-abc")
	require.NotEqual(t, hers, his)
	c := w.dial()
	ask := func(lines string) reply {
		c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n")
		return c.answer(http.MethodGet)
	}
	for range 5 {
		require.Equal(t, hers, ask(credentials("alice-session-abc")).body)
		require.Equal(t, his, ask(credentials("bob-session-abc")).body)
		require.Equal(t, http.StatusProxyAuthRequired, ask("").status)
		require.Equal(t, http.StatusProxyAuthRequired, ask("Proxy-Authorization: "+basic("alice-session-abc", "wrong")+"\r\n").status)
	}
	c.send(connect("", w.origin))
	require.Equal(t, http.StatusProxyAuthRequired, c.answer(http.MethodConnect).status, "a tunnel inherits nothing")
	c.send(connect("bob-session-abc", w.origin))
	require.Equal(t, http.StatusOK, c.answer(http.MethodConnect).status)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, his, c.answer(http.MethodGet).body)
}
