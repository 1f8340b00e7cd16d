// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
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
			p := newPair(t, "http")
			for i, ask := range []func(user string) reply{
				func(user string) reply { return p.connect(user, p.origin) },
				p.forwarded,
			} {
				user := fmt.Sprint("alice-session-", i)
				first := p.exit(user)
				exit := p.exits[first]
				line := ""
				if c.status != "" {
					line = c.status
					if name == "as host:port" {
						line = fmt.Sprintf(line, exit.address)
					}
					line = "Proxy-Status: " + line + "\r\n"
				}
				p.breaks(first, says("HTTP/1.1 502 Bad Gateway\r\n"+line+"Content-Length: 0\r\n\r\n"))
				res := ask(user)
				p.mends(first, says(""))
				if c.moves {
					require.Equal(t, http.StatusOK, res.status)
					require.NotEqual(t, first, p.exit(user))
					continue
				}
				require.Equal(t, http.StatusBadGateway, res.status)
				require.Equal(t, first, p.exit(user))
			}
		})
	}
}

// The idle timeout is that of tunnels: neither an origin that takes its time nor a
// body that does meets it.
func TestAnswersMayTakeTheirTime(t *testing.T) {
	w := newWorldWith(t, originOf(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}), site{block: alice + loopback + oneExit + "idle_timeout 100ms"})
	c := w.dial()
	c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n")
	res, err := http.ReadResponse(c.Reader, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	for range 5 { // 100 ms each
		require.True(t, c.silent())
	}
	_ = net.Conn(c.conn).Close()
}
