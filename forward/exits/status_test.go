// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits_test

import (
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// H: from an HTTP exit only dial and TLS failure, timeout before an answer, 407 and
// a Proxy-Status that names the exit count against it.
func TestProxyStatusOfAnExit(t *testing.T) {
	for name, c := range map[string]struct {
		status string // %s is the exit's host:port
		moves  bool
	}{
		"its own trouble":              {`"127.0.0.1"; error=proxy_internal_error`, true},
		"as host:port":                 {`"%s"; error=proxy_configuration_error; details="no route, sorry; error=dns_error"`, true},
		"behind another one's":         {`origin.example, "127.0.0.1";error=proxy_internal_error`, true},
		"about the destination":        {`"127.0.0.1"; error=dns_error`, false},
		"another one's":                {"origin.example; error=proxy_internal_error", false},
		"of who does not say its name": {"caddy; error=proxy_internal_error", false},
		"no error":                     {`"127.0.0.1"`, false},
		"in a string":                  {`origin.example; details="a, \"127.0.0.1\"; error=proxy_internal_error"`, false},
		"malformed":                    {`"127.0.0.1"; error="proxy_internal_error`, false},
		"none":                         {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := proxytest.NewPair(t, "http")
			for i, ask := range []func(user string) proxytest.Reply{
				func(user string) proxytest.Reply { return p.Connect(user, p.Origin) },
				p.Forwarded,
			} {
				user := fmt.Sprint("alice-session-", i)
				first := p.Exit(user)
				exit := p.Exits[first]
				line := ""
				if c.status != "" {
					line = c.status
					if name == "as host:port" {
						line = fmt.Sprintf(line, exit.Address)
					}
					line = "Proxy-Status: " + line + "\r\n"
				}
				p.Breaks(first, proxytest.Says("HTTP/1.1 502 Bad Gateway\r\n"+line+"Content-Length: 0\r\n\r\n"))
				res := ask(user)
				p.Mends(first, proxytest.Says(""))
				if c.moves {
					require.Equal(t, http.StatusOK, res.Status)
					require.NotEqual(t, first, p.Exit(user))
					continue
				}
				require.Equal(t, http.StatusBadGateway, res.Status)
				require.Equal(t, first, p.Exit(user))
			}
		})
	}
}

// The idle timeout is that of tunnels: neither an origin that takes its time nor a
// body that does meets it.
func TestAnswersMayTakeTheirTime(t *testing.T) {
	w := proxytest.NewWorldWith(t, proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}), proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + proxytest.OneExit + "idle_timeout 100ms"})
	c := w.Dial()
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
	res, err := http.ReadResponse(c.Reader, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	for range 5 { // 100 ms each
		require.True(t, c.Silent())
	}
	_ = net.Conn(c.Conn).Close()
}
