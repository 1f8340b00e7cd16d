// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// What is answered behind an HTTP exit may be a client's own origin: it drives
// nobody else off the exit.
func TestAnOriginDrivesNobodyOffAnExit(t *testing.T) {
	for name, lines := range map[string]string{
		"407":          "407 Proxy Authentication Required\r\n",
		"Proxy-Status": "502 Bad Gateway\r\nProxy-Status: \"127.0.0.1\"; error=proxy_internal_error\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := proxytest.NewPair(t, "http")
			victim := p.Exit("alice-session-victim")
			bad := proxytest.ServerOf(t, proxytest.Says("HTTP/1.1 "+lines+"Content-Length: 0\r\n\r\n"))
			for i := range 6 {
				c := p.Dial()
				c.Send("GET http://" + bad + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials(fmt.Sprint("alice-session-", i)) + "\r\n")
				require.Equal(t, http.StatusBadGateway, c.Answer(http.MethodGet).Status)
			}
			require.Equal(t, victim, p.Exit("alice-session-victim"))
		})
	}
}

// F2: what a check may reach, clients may not, though the exit is the same.
func TestConnectionsOfChecksAreNoClients(t *testing.T) {
	server := proxytest.NewNames(t, "udp", []string{"127.0.0.2"})
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	require.NoError(t, err)
	checked := make(chan struct{}, 100)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "internal")
		checked <- struct{}{}
	})}
	go func() { _ = web.Serve(ln) }()
	t.Cleanup(func() { _ = web.Close() })
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	url := "http://health.shop.example:" + port + "/"
	w := proxytest.NewWorld(t, proxytest.Alice, "exit direct:// {\n check "+url+" 100ms\n}\n", "ports 1-65535", "resolver "+server.Address)
	for range 3 {
		<-checked
	}
	c := w.Dial()
	c.Send("GET " + url + " HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
	require.Equal(t, http.StatusForbidden, c.Answer(http.MethodGet).Status)
}

// A file that somebody writes by hand is read to its end.
func TestOddLinesOfAnExitsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exits")
	require.NoError(t, os.WriteFile(file, []byte("\ufeff# exits\n\\\n\"\"\n``\n\x00\n<<\n{\n}\nhttp://a weight {\ndirect://127.0.0.11\n"), 0o600))
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exits_file "+file)
	require.Equal(t, "127.0.0.11", w.Exit("alice"))
}

// No error quotes what stands before the host of an exit's URL.
func TestErrorsOfAnExitsURLQuoteNoPassword(t *testing.T) {
	for _, exit := range []string{"http://me:abc{s3cr3t}x@gw.example", "http://me-{session}:abc{s3cr3t}x@gw.example"} {
		err := proxytest.Load(fmt.Sprintf("{\n admin off\n persist_config off\n storage file_system %s\n}\n:0 {\n sticky_proxy {\n open\n exit %s\n}\n}\n", t.TempDir(), exit))
		require.ErrorContains(t, err, "placeholder that is unknown or empty")
		require.NotContains(t, err.Error(), "s3cr3t")
	}
}
