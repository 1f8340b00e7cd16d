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

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// D1, D2 and E7: what is ambiguous is not two requests. Each of these hides one,
// without credentials, from whoever reads the first one otherwise; a CONNECT that
// is hidden like that would be a tunnel.
func TestNoRequestIsSmuggled(t *testing.T) {
	origin, requests := recording(t)
	target := proxytest.NewPuppet(t, proxytest.Echo)
	w := oneProxy(t, origin)
	hidden := map[string]string{
		"a request": "GET http://" + origin + "/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
		"a tunnel":  "CONNECT " + target.Address + " HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	const chunked = "Transfer-Encoding: chunked\r\n"
	for name, test := range map[string]struct {
		lines, body string
		passes      bool // may be answered with 200, as one request
	}{
		"CL and TE":                         {"Content-Length: 4\r\n" + chunked, "0\r\n\r\n", true},
		"TE and CL":                         {chunked + "Content-Length: 4\r\n", "0\r\n\r\n", true},
		"CL 0 and TE":                       {"Content-Length: 0\r\n" + chunked, "0\r\n\r\n", true},
		"two CL":                            {"Content-Length: 0\r\nContent-Length: 4\r\n", "abcd", false},
		"a list of CL":                      {"Content-Length: 0, 4\r\n", "abcd", false},
		"CL with a sign":                    {"Content-Length: +0\r\n", "", false},
		"CL in hexadecimal":                 {"Content-Length: 0x0\r\n", "", false},
		"CL that overflows":                 {"Content-Length: 18446744073709551616\r\n", "", false},
		"CL with a space inside":            {"Content-Length: 0 4\r\n", "abcd", false},
		"a space before the colon":          {"Content-Length : 4\r\n", "abcd", false},
		"a space before the colon of TE":    {"Transfer-Encoding : chunked\r\n", "0\r\n\r\n", false},
		"two TE":                            {chunked + "Transfer-Encoding: identity\r\n", "0\r\n\r\n", false},
		"TE that is not chunked":            {"Transfer-Encoding: identity\r\n", "", false},
		"TE in which chunked is not last":   {"Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", false},
		"TE with a vertical tab":            {"Transfer-Encoding: \vchunked\r\n", "0\r\n\r\n", false},
		"TE in quotes":                      {"Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n", false},
		"a folded CL":                       {"Content-Length:\r\n 0\r\n", "", true},
		"a folded TE":                       {"Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", true},
		"a folded line with TE in it":       {"X-A: b\r\n Transfer-Encoding: chunked\r\n", "", true},
		"a header that begins with a space": {" Transfer-Encoding: chunked\r\nX-A: b\r\n", "", false},
		"a NUL in a value":                  {"X-A: b\x00c\r\n", "", false},
		"a NUL in a name":                   {"X-\x00A: b\r\n", "", false},
		"a CR in a value":                   {"X-A: b\rTransfer-Encoding: chunked\r\n", "", false},
		"a line without a colon":            {"X-A\r\n", "", false},
		"an empty name":                     {": chunked\r\n", "", false},
		"a chunk size with a sign":          {chunked, "+0\r\n\r\n", false},
		"a chunk size in 0x":                {chunked, "0x0\r\n\r\n", false},
		"a chunk size that overflows":       {chunked, "10000000000000000\r\n\r\n", false},
		"a chunk size with a space":         {chunked, "0 0\r\n\r\n", false},
		"a chunk size with a minus":         {chunked, "-1\r\n\r\n", false},
		"no chunk size":                     {chunked, "\r\n\r\n", false},
		"a chunk that is longer":            {chunked, "3\r\nabcd\r\n0\r\n\r\n", false},
		"a CR in a chunk's extension":       {chunked, "0;a\rb\r\n\r\n", false},
		"a chunk that ends in LF":           {chunked, "0\n\n", false},
		"a chunk's extension that does":     {chunked, "0;a\n\r\n", false},
		"LF instead of CRLF in the header":  {"X-A: b\n", "", true},
	} {
		for what, second := range hidden {
			t.Run(name+", "+what, func(t *testing.T) {
				c := w.Dial()
				c.Send("POST http://" + origin + "/first HTTP/1.1\r\n" + test.lines + "Host: " + origin + "\r\n" + proxytest.Credentials("alice") + "\r\n" + test.body + second)
				first := c.Answer(http.MethodPost)
				if test.passes && first.Status == http.StatusOK {
					require.Equal(t, "/first", (<-requests).URL.Path)
				} else {
					require.Contains(t, []int{http.StatusBadRequest, http.StatusNotImplemented}, first.Status, first.Body)
					require.True(t, first.Response.Close, "what comes next on the connection is not known")
				}
				c.CloseWrite()
				for rest := c.ExpectClosedAfter(); rest != ""; _, rest, _ = strings.Cut(rest, "HTTP/1.1 ") {
					require.NotRegexp(t, "^HTTP/1.1 2|^2", rest, "the second request has no credentials")
				}
				for len(requests) > 0 {
					require.Equal(t, "/first", (<-requests).URL.Path)
				}
			})
		}
	}
	require.Zero(t, target.Dials.Load())
}

// RFC 9112 §2.2 lets a server take LF for the end of a line. What it makes of that
// must have one meaning for the origin.
func TestLinesThatEndInLFAreSentOnWithCRLF(t *testing.T) {
	got := make(chan string, 1)
	origin := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		var head strings.Builder
		for buf := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); head.Write(buf) {
			if _, err := io.ReadFull(conn, buf); err != nil {
				break
			}
		}
		got <- head.String()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	w := oneProxy(t, origin)
	c := w.Dial()
	c.Send(strings.ReplaceAll("GET http://"+origin+"/ HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"+proxytest.Credentials("alice")+"\r\n", "\r\n", "\n"))
	res := c.Answer(http.MethodGet)
	if res.Status == http.StatusBadRequest {
		return // stricter is fine as well
	}
	require.Equal(t, http.StatusOK, res.Status)
	head := <-got
	require.Contains(t, head, "X-A: b\r\n")
	require.Equal(t, strings.Count(head, "\n"), strings.Count(head, "\r\n"), "%q", head)
}

// D1 to D3, from the origin: what is behind an ambiguous answer is no answer to
// the next request, whoever sends it.
func TestNoAnswerIsSmuggled(t *testing.T) {
	const chunked = "Transfer-Encoding: chunked\r\n"
	const second = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
	for name, c := range map[string]struct {
		answer string
		passes bool // may be answered with 200, and this much of it
	}{
		"CL and TE":                      {"Content-Length: 4\r\n" + chunked + "\r\n0\r\n\r\n", true},
		"two CL":                         {"Content-Length: 0\r\nContent-Length: 4\r\n\r\n", false},
		"a list of CL":                   {"Content-Length: 0, 4\r\n\r\n", false},
		"CL with a sign":                 {"Content-Length: +0\r\n\r\n", false},
		"CL that overflows":              {"Content-Length: 18446744073709551616\r\n\r\n", false},
		"two TE":                         {chunked + chunked + "\r\n0\r\n\r\n", false},
		"TE that is not chunked":         {"Transfer-Encoding: identity\r\n\r\n", false},
		"a NUL in a value":               {"X-A: b\x00c\r\nContent-Length: 0\r\n\r\n", false},
		"a line that is folded at first": {" X-A: b\r\nContent-Length: 0\r\n\r\n", false},
		"more than its length":           {"Content-Length: 0\r\n\r\n", true},
		"more than its chunks":           {chunked + "\r\n0\r\n\r\n", true},
		"more than a 204":                {"", true},
	} {
		t.Run(name, func(t *testing.T) {
			status := "200 OK"
			if c.answer == "" {
				status, c.answer = "204 No Content", "\r\n"
			}
			w := oneProxy(t, proxytest.ServerOf(t, func(conn *net.TCPConn) {
				reader := bufio.NewReader(conn)
				for {
					if _, err := http.ReadRequest(reader); err != nil {
						return
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\n"+c.answer+second)
				}
			}))
			for range 3 {
				client := w.Dial()
				res := w.Ask(client, http.MethodGet, "/", "", "")
				require.NotContains(t, res.Body, "smuggled")
				if c.passes {
					require.Equal(t, 2, res.Status/100)
				} else {
					require.Equal(t, http.StatusBadGateway, res.Status)
				}
				client.CloseWrite()
				require.Empty(t, client.ExpectClosedAfter(), "another answer follows")
			}
		})
	}
}
