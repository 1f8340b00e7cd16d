// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// OriginOf starts a web server on 127.0.0.1 and returns its address.
func OriginOf(t testing.TB, serve http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// ServerOf starts a server on 127.0.0.1 whose connections are each served by
// serve and closed when it returns. They are closed at the end of the test.
func ServerOf(t testing.TB, serve func(conn *net.TCPConn)) string {
	t.Helper()
	return NewPuppet(t, serve).Address
}

// Mirror answers with the address that it sees.
func Mirror(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, HostOf(r.RemoteAddr)) }

// RecordingBodies is an origin that hands each request's body to the test.
func RecordingBodies(t *testing.T) (string, chan string) {
	t.Helper()
	bodies := make(chan string, 100)
	return OriginOf(t, func(_ http.ResponseWriter, r *http.Request) {
		body := make([]byte, 100)
		n, _ := r.Body.Read(body)
		bodies <- string(body[:n])
	}), bodies
}

// HostOf returns the host of host:port.
func HostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}
