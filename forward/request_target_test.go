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
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// targets are paths and queries that net/url or ReverseProxy would change.
var targets = []string{
	"/", "/?", "/path?query", "/a%2Fb", "/a|b%2Fc", "/a^b%2Fc%3Fd", "/`x%2f", "/a\"b", "/{a}", "/a|b", "/%7Euser/|",
	"/?p=linux.git;a=summary", "/?b=2&a=1;c=3", "/?q=100%&page=2", "/?z=%zz&b=1&a=2", "/?ua=Mozilla/5.0%20(X;%20Y)&ok=1;2",
	"/a//b", "//", "//a/b", "//a|b", "//a|b?c;d", "//a?", "///", "//[", "/a/../b/./c", "/a#b", "/?a#b", "/?a?b", "/a;b=c,d",
	"/\xe4\xf6", "/%E4%f6", "/?u=http://x/y", "/http://x/y", "/:80/", "/@/", "/*", "/a\\b", "/<>",
}

// echoOfTarget is an origin that answers with the target of each request line, as
// it arrived.
func echoOfTarget(t *testing.T) string {
	t.Helper()
	return proxytest.ServerOf(t, func(conn *net.TCPConn) {
		reader := bufio.NewReader(conn)
		for {
			line, err := reader.ReadString('\n')
			for field := line; err == nil && field != "\r\n"; {
				field, err = reader.ReadString('\n')
			}
			if err != nil {
				return
			}
			_, target, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
			target = strings.TrimSuffix(target, " HTTP/1.1")
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(target), target)
		}
	})
}

// keepsTargets sends targets through an exit and expects that they arrive as they
// were sent.
func keepsTargets(t *testing.T, exit string) {
	t.Helper()
	w := proxytest.NewWorldWith(t, echoOfTarget(t), proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + "exit " + exit})
	c := w.Dial()
	ask := func(method, target string) string {
		c.Send(method + " http://" + w.Origin + target + " HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice-session-abc") + "\r\n")
		res := c.Answer(method)
		require.Equal(t, http.StatusOK, res.Status, "%s %s: %s", method, target, res.Body)
		// An origin must accept the absolute form: it is how //a|b is sent.
		return strings.TrimPrefix(res.Body, "http://"+w.Origin)
	}
	for _, target := range targets {
		require.Equal(t, target, ask(http.MethodGet, target))
	}
	require.Equal(t, "/", ask(http.MethodGet, ""))
	require.Equal(t, "/?a;b", ask(http.MethodGet, "?a;b"))
	require.Equal(t, "/?", ask(http.MethodGet, "?"))
	require.Equal(t, "/?a", ask(http.MethodOptions, "?a"))
	require.Contains(t, []string{"*", "/", ""}, ask(http.MethodOptions, ""), "RFC 9112 §3.2.4; a proxy gets no path")
	// net/http itself refuses this one.
	c.Send("GET http://" + w.Origin + "/100% HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice-session-abc") + "\r\n")
	require.Equal(t, http.StatusBadRequest, c.Answer(http.MethodGet).Status)
}

// C11, RFC 9110 §7.7.
func TestTargetArrivesByteForByte(t *testing.T) {
	t.Run("direct", func(t *testing.T) { keepsTargets(t, "direct://127.0.0.11") })
	t.Run("http", func(t *testing.T) {
		// This proxy sends on what it got, and says which form that had.
		origin := echoOfTarget(t)
		keepsTargets(t, "http://"+proxytest.ServerOf(t, func(conn *net.TCPConn) {
			target, err := net.Dial("tcp", origin)
			if err != nil {
				return
			}
			defer target.Close()
			go func() { _, _ = io.Copy(conn, target) }()
			_, _ = io.Copy(target, conn)
		}))
	})
	t.Run("socks5", func(t *testing.T) {
		keepsTargets(t, "socks5://"+proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{From: "127.0.0.21"})).Address)
	})
	t.Run("socks5 gateway", func(t *testing.T) {
		keepsTargets(t, "socks5://u-{session}:secret@"+proxytest.NewSocksProvider(t).Address)
	})
	t.Run("microsocks", func(t *testing.T) { keepsTargets(t, "socks5://"+peer.Microsocks(t, "", "").Address) })
	t.Run("squid", func(t *testing.T) { keepsTargets(t, "http://"+peer.Squid(t, peer.SquidOptions{}).Address) })
	t.Run("tinyproxy", func(t *testing.T) { keepsTargets(t, "http://"+peer.Tinyproxy(t).Address) })
}

// C1, C12: what another proxy gets is in absolute form, with the destination as it
// was checked.
func TestAnotherProxyGetsTheAbsoluteForm(t *testing.T) {
	lines := make(chan string, 1)
	exit := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		lines <- r.Method + " " + r.RequestURI + " Host: " + r.Host
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit http://"+exit.Address)
	for url, want := range map[string]string{
		"GET http://shop.example/a;b?c|d":      "GET http://shop.example/a;b?c|d Host: shop.example",
		"GET http://Shop.Example.:0080?a":      "GET http://shop.example/?a Host: shop.example",
		"GET HTTP://shop.example:8080":         "GET http://shop.example:8080/ Host: shop.example:8080",
		"GET http://2130706433/":               "GET http://127.0.0.1/ Host: 127.0.0.1",
		"GET http://[2001:DB8:0:0::1]:80/x":    "GET http://[2001:db8::1]/x Host: [2001:db8::1]",
		"OPTIONS http://shop.example":          "OPTIONS http://shop.example Host: shop.example",
		"OPTIONS http://shop.example/":         "OPTIONS http://shop.example/ Host: shop.example",
		"GET http://shop.example//other/a|b?%": "GET http://shop.example//other/a|b?% Host: shop.example",
	} {
		c := w.Dial()
		c.Send(url + " HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
		res := c.Answer(http.MethodGet)
		require.Equal(t, http.StatusOK, res.Status, "%s: %s", url, res.Body)
		require.Equal(t, want, <-lines, url)
		c.Close()
	}
}
