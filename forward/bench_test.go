// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/idle/relay"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// BenchmarkOpenTunnel opens a tunnel and closes it: with credentials that were
// verified before, beside the smallest proxy that Go can be.
func BenchmarkOpenTunnel(b *testing.B) {
	target := proxytest.ServerOf(b, proxytest.Hang)
	b.Run("sticky", func(b *testing.B) {
		w := newQuietWorld(b)
		openTunnels(b, w.Proxy, proxytest.Connect("alice-session-abc", target))
	})
	b.Run("minimal", func(b *testing.B) {
		openTunnels(b, minimalProxy(b), proxytest.Connect("", target))
	})
}

func openTunnels(b *testing.B, proxy, request string) {
	b.Helper()
	reader := bufio.NewReader(nil)
	open := func() {
		conn, err := net.Dial("tcp", proxy)
		require.NoError(b, err)
		_, err = io.WriteString(conn, request)
		require.NoError(b, err)
		reader.Reset(conn)
		res, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
		require.NoError(b, err)
		require.Equal(b, http.StatusOK, res.StatusCode)
		require.NoError(b, conn.Close())
	}
	open() // verifies the password
	b.ReportAllocs()
	for b.Loop() {
		open()
	}
}

// BenchmarkForwardGet sends a request in absolute form over a connection that
// stays open, to an origin that stays connected.
func BenchmarkForwardGet(b *testing.B) {
	origin := proxytest.OriginOf(b, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	b.Run("sticky", func(b *testing.B) {
		w := newQuietWorld(b)
		forwardGets(b, w.Proxy, "http://"+origin+"/")
	})
	b.Run("minimal", func(b *testing.B) {
		forwardGets(b, minimalProxy(b), "http://"+origin+"/")
	})
}

func forwardGets(b *testing.B, proxy, address string) {
	b.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{
		Scheme: "http", Host: proxy, User: url.UserPassword("alice-session-abc", proxytest.AlicePassword),
	})}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	get := func() {
		res, err := client.Get(address)
		require.NoError(b, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(b, err)
		require.NoError(b, res.Body.Close())
		require.Equal(b, http.StatusOK, res.StatusCode)
	}
	get()
	b.ReportAllocs()
	for b.Loop() {
		get()
	}
}

// newQuietWorld is a proxy that logs as little as one in use does. Its exit has
// no source address: a system has only so many ports for one, and a benchmark
// uses them up.
func newQuietWorld(b *testing.B) *proxytest.World {
	b.Helper()
	return proxytest.NewWorldWith(b, "", proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + "exit direct://", Level: "ERROR"})
}

// minimalProxy is what a proxy costs that knows neither accounts nor sessions.
func minimalProxy(b *testing.B) string {
	b.Helper()
	transport := &http.Transport{Proxy: nil}
	b.Cleanup(transport.CloseIdleConnections)
	return proxytest.OriginOf(b, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			r.RequestURI = ""
			res, err := transport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer res.Body.Close()
			w.WriteHeader(res.StatusCode)
			_, _ = io.Copy(w, res.Body)
			return
		}
		target, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		relay.Run(b.Context(), relay.Tunnel{Client: client, Target: target, IdleTimeout: time.Minute})
	})
}
