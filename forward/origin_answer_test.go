// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// C7, H: a response that is no HTTP is 502, with the kind of error that RFC 9209
// has for it. A status below 100 panicked in net/http.
func TestMalformedResponsesAre502(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	answers := map[string]string{
		"a status below 100":          "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
		"a status of 0":               "HTTP/1.1 000 X\r\n\r\n",
		"a status with a sign":        "HTTP/1.1 +42 X\r\n\r\n",
		"a status of one digit":       "HTTP/1.1 2 X\r\n\r\n",
		"a status of four digits":     "HTTP/1.1 2000 X\r\n\r\n",
		"a status of letters":         "HTTP/1.1 abc X\r\n\r\n",
		"no status":                   "HTTP/1.1\r\n\r\n",
		"another protocol":            "SSH-2.0-OpenSSH\r\n",
		"another version":             "HTTX/1.1 200 OK\r\n\r\n",
		"an empty line first":         "\r\n\r\n",
		"a field without a colon":     ok + "foo\r\n\r\n",
		"a field without a name":      ok + ": b\r\n\r\n",
		"a folded first field":        ok + " x: b\r\n\r\n",
		"a NUL in a field":            ok + "X: b\x00\r\n\r\n",
		"a length that is no number":  ok + "Content-Length: x\r\n\r\n",
		"a negative length":           ok + "Content-Length: -5\r\n\r\n",
		"two lengths":                 ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"an unknown encoding":         ok + "Transfer-Encoding: gzip\r\n\r\n",
		"two encodings":               ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"an upgrade without request":  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
		"a status below 100 at a 1xx": "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 099 X\r\n\r\n",
	}
	var answer string
	origin := proxytest.NewPuppet(t, proxytest.HangUp)
	w := oneProxy(t, origin.Address)
	for name := range answers {
		t.Run(name, func(t *testing.T) {
			answer = answers[name]
			origin.Does(proxytest.Says(answer))
			c := w.Dial()
			defer c.Close()
			res := w.Ask(c, http.MethodGet, "/", "", "")
			for res.Status == http.StatusEarlyHints {
				res = c.Answer(http.MethodGet)
			}
			require.Equal(t, http.StatusBadGateway, res.Status)
			require.Equal(t, "http_protocol_error", res.Reason())
			require.NotContains(t, w.Logs.String(), "panic")
		})
	}
	origin.Does(proxytest.EndlessHead)
	require.Equal(t, "http_response_header_section_size", w.Ask(w.Dial(), http.MethodGet, "/", "", "").Reason())
	for _, line := range []string{"", "Connection: Upgrade\r\nUpgrade: other\r\n"} {
		origin.Does(proxytest.Says("HTTP/1.1 101 Switching Protocols\r\n" + line + "\r\n"))
		res := w.Ask(w.Dial(), http.MethodGet, "/", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "")
		require.Equal(t, http.StatusBadGateway, res.Status)
		require.Equal(t, "http_upgrade_failed", res.Reason())
	}
	origin.Does(proxytest.Says(""))
	require.Equal(t, "connection_terminated", w.Ask(w.Dial(), http.MethodGet, "/", "", "").Reason())
	origin.Does(proxytest.Says(ok + "X: y\r\n"))
	require.Equal(t, "connection_terminated", w.Ask(w.Dial(), http.MethodGet, "/", "", "").Reason())
}

// loginOrigin is an origin whose connections authenticate their client, in three steps
// as NTLM does, or in one as Negotiate does.
func loginOrigin(t *testing.T) string {
	t.Helper()
	return proxytest.ServerOf(t, func(conn *net.TCPConn) {
		reader := bufio.NewReader(conn)
		who := ""
		for {
			r, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if claim := r.Header.Get("X-Login"); claim != "" {
				who = claim
			}
			status, body := "401 Unauthorized", "hello stranger"
			if who != "" {
				status, body = "200 OK", "hello "+who
			}
			if r.URL.Path == "/empty" {
				body = ""
			}
			challenge := "WWW-Authenticate: " + r.URL.Query().Get("challenge") + "\r\n"
			if r.URL.RawQuery == "" {
				challenge = ""
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, challenge, len(body), body)
		}
	})
}

// E10: a connection that authenticated its client serves no other client.
func TestConnectionThatAuthenticatesItsClientIsNotShared(t *testing.T) {
	run := func(t *testing.T, exit string, shares bool) {
		t.Helper()
		w := proxytest.NewWorldWith(t, loginOrigin(t), proxytest.Site{Block: proxytest.Alice + proxytest.Bob + proxytest.Loopback + exit})
		get := func(user, path, lines string) string {
			c := w.Dial()
			defer c.Close()
			c.Send("GET http://" + w.Origin + path + " HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials(user) + lines + "\r\n")
			return c.Answer(http.MethodGet).Body
		}
		for _, scheme := range []string{"NTLM", "Negotiate", "ntlm", "NEGOTIATE"} {
			for _, path := range []string{"/", "/empty", "/?challenge=" + scheme, "/empty?challenge=" + scheme} {
				get("alice-session-1", path, "Authorization: "+scheme+" token\r\nX-Login: ALICE\r\n")
				require.Equal(t, "hello stranger", get("bob-session-9", "/", ""), "%s %s", scheme, path)
				require.Equal(t, "hello stranger", get("alice-session-1", "/", ""), "%s %s", scheme, path)
			}
		}
		// A challenge alone, among others: X-Login stands for what the origin may
		// remember.
		if shares {
			return // the exit's own connections to the origin, which only Authorization ends
		}
		for _, challenge := range []string{"NTLM", "Basic%20realm=%22x%22,%20Negotiate%20abc="} {
			require.Equal(t, "hello ALICE", get("alice-session-1", "/?challenge="+challenge, "X-Login: ALICE\r\n"))
			require.Equal(t, "hello stranger", get("bob-session-9", "/", ""), challenge)
		}
		// Others are kept.
		require.Equal(t, "hello ALICE", get("alice-session-1", "/?challenge=Basic", "Authorization: Basic eDp5\r\nX-Login: ALICE\r\n"))
	}
	t.Run("direct", func(t *testing.T) { run(t, proxytest.OneExit, false) })
	t.Run("socks5", func(t *testing.T) { run(t, "exit socks5://"+peer.Microsocks(t, "", "").Address, false) })
	t.Run("http", func(t *testing.T) { run(t, "exit http://"+peer.Squid(t, peer.SquidOptions{}).Address, true) })
}
