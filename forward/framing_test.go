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
)

// framing is a body as a client sends it, and the header fields that announce it.
type framing struct{ lines, body string }

const chunkedLine = "Transfer-Encoding: chunked\r\n"

var wellFormed = map[string]framing{
	"by length":            {"Content-Length: 5\r\n", "AAAAA"},
	"long":                 {"Content-Length: 100000\r\n", strings.Repeat("A", 100_000)},
	"chunked":              {chunkedLine, "5\r\nAAAAA\r\n0\r\n\r\n"},
	"chunked with trailer": {chunkedLine + "Trailer: X-Sum\r\n", "5\r\nAAAAA\r\n0\r\nX-Sum: 1\r\n\r\n"},
}

var malformedBodies = map[string]framing{
	"size with 0x":        {chunkedLine, "0x5\r\nAAAAA\r\n0\r\n\r\n"},
	"size that is none":   {chunkedLine, "zz\r\n"},
	"no CRLF behind data": {chunkedLine, "5\r\nAAAAAXX\r\n"},
	"bare LF":             {chunkedLine, "zz\n"},
	"negative size":       {chunkedLine, "-1\r\n"},
	"20 KB of extension":  {chunkedLine, "5;" + strings.Repeat("x", 20_000) + "\r\n"},
	"bad trailer":         {chunkedLine, "5\r\nAAAAA\r\n0\r\nno field\r\n\r\n"},
}

// framingWorld is a proxy whose origin records the requests that arrive.
func framingWorld(t *testing.T, exit string) (*world, chan *http.Request) {
	t.Helper()
	origin, requests := recording(t)
	return newWorldWith(t, origin, site{
		block: alice + loopback + exit + "\nresolver " + newNames(t, "udp", nil).address,
	}), requests
}

// post returns a POST to a destination.
func post(destination string, f framing) string {
	return "POST http://" + destination + "/first HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + f.lines + "\r\n" + f.body
}

// secondRequest is the request that is hidden behind another one in the same segment.
func secondRequest(w *world) string {
	return "GET http://" + w.origin + "/second HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n"
}

// D6: where the proxy refuses a request and has not read its body, the connection
// ends with the response, by FIN, and the bytes behind are no request.
func TestRefusedRequestWithABodyEndsItsConnection(t *testing.T) {
	dead := deadPort(t)
	for name, refusal := range map[string]struct {
		exit, destination string
		status            int
	}{
		"refused":          {oneExit, dead, http.StatusBadGateway},
		"prohibited":       {oneExit, "10.0.0.1", http.StatusForbidden},
		"unknown name":     {oneExit, "nowhere.shop.example", http.StatusBadGateway},
		"user information": {oneExit, "u:p@" + dead, http.StatusBadRequest},
		"dead http exit":   {"exit http://" + dead, "198.51.100.7", http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			w, requests := framingWorld(t, refusal.exit)
			refused := func(what string, f framing, behind string) {
				t.Helper()
				c := w.dial()
				c.send(post(refusal.destination, f) + behind)
				res := c.answer(http.MethodPost)
				require.Equal(t, refusal.status, res.status, "%s: %s", what, res.body)
				require.True(t, res.response.Close, "%s: Connection: close", what)
				require.Empty(t, c.expectEnd(), what)
				c.close()
			}
			for _, bodies := range []map[string]framing{wellFormed, malformedBodies} {
				for what, f := range bodies {
					refused(what, f, "")
					refused(what+", pipelined", f, secondRequest(w))
				}
			}
			require.Empty(t, requests)
			require.NotContains(t, w.logs.String(), "panic")
		})
	}
}

// One segment with two POSTs to a destination that refuses ended the process.
func TestPipelinedPostsToADeadDestination(t *testing.T) {
	w := newWorld(t, alice, oneExit, loopback)
	dead := deadPort(t)
	for range 100 {
		c := w.dial()
		c.send(strings.Repeat(post(dead, wellFormed["by length"]), 2))
		require.Equal(t, http.StatusBadGateway, c.answer(http.MethodPost).status)
		require.Empty(t, c.expectEnd())
		c.close()
	}
	require.NotContains(t, w.logs.String(), "panic")
}

// D2: where the origin takes the body, a malformed one ends the connection, and
// one that was read to its end leaves it open, over HTTP/1.0 as well.
func TestBodyThatWasReadKeepsTheConnection(t *testing.T) {
	w, requests := framingWorld(t, oneExit)
	for what, f := range wellFormed {
		for _, version := range []string{"1.1", "1.0"} {
			if version == "1.0" {
				if strings.Contains(f.lines, "chunked") {
					continue // HTTP/1.0 has no chunks
				}
				f.lines += "Connection: keep-alive\r\n"
			}
			c := w.dial()
			c.send(strings.Replace(post(w.origin, f), "HTTP/1.1", "HTTP/"+version, 1))
			res := c.answer(http.MethodPost)
			require.Equal(t, http.StatusOK, res.status, what)
			require.False(t, res.response.Close, "%s, HTTP/%s", what, version)
			require.Equal(t, "/first", (<-requests).URL.Path)
			c.send(secondRequest(w))
			require.Equal(t, http.StatusOK, c.answer(http.MethodGet).status)
			require.Equal(t, "/second", (<-requests).URL.Path)
			c.close()
		}
	}
	for what, f := range malformedBodies {
		c := w.dial()
		c.send(post(w.origin, f) + secondRequest(w))
		res := c.answer(http.MethodPost)
		require.Equal(t, http.StatusBadRequest, res.status, what)
		require.True(t, res.response.Close, what)
		require.Empty(t, c.expectEnd(), what)
		c.close()
	}
	for len(requests) > 0 { // the origin may get the head of a malformed one
		require.Equal(t, "/first", (<-requests).URL.Path)
	}
}

// RFC 9110 §10.1.1.
func TestRefusedRequestThatExpects100(t *testing.T) {
	w, requests := framingWorld(t, oneExit)
	head := framing{lines: "Expect: 100-continue\r\nContent-Length: 5\r\n"}
	for _, behind := range []string{"", "AAAAA", "AAAAA" + secondRequest(w)} {
		c := w.dial()
		c.send(post(deadPort(t), head) + behind)
		res := c.answer(http.MethodPost)
		require.Equal(t, http.StatusBadGateway, res.status, "without a 100")
		require.True(t, res.response.Close)
		if behind != "" {
			require.Empty(t, c.expectEnd())
		}
		c.close()
	}
	c := w.dial()
	c.send(post(w.origin, head))
	require.Equal(t, http.StatusContinue, c.answer(http.MethodPost).status)
	c.send("AAAAA")
	res := c.answer(http.MethodPost)
	require.Equal(t, http.StatusOK, res.status)
	require.Len(t, requests, 1)
}

func TestRefusedHTTP10RequestIsNotKeptAlive(t *testing.T) {
	w, requests := framingWorld(t, oneExit)
	f := wellFormed["by length"]
	f.lines += "Connection: keep-alive\r\n"
	c := w.dial()
	c.send(strings.Replace(post(deadPort(t), f), "HTTP/1.1", "HTTP/1.0", 1) + secondRequest(w))
	res := c.answer(http.MethodPost)
	require.Equal(t, http.StatusBadGateway, res.status)
	require.Equal(t, "close", res.header.Get("Connection"))
	require.Empty(t, c.expectEnd())
	require.Empty(t, requests)
}

// An origin that answers early: the client gets all of the response, although 5 MB
// are on their way and the last byte never comes.
func TestEarlyResponseArrivesWhole(t *testing.T) {
	w := oneProxy(t, serverOf(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
		_, _ = io.Copy(io.Discard, conn)
	}))
	upload := strings.Repeat("x", 5<<20)
	for range 10 {
		c := w.dial()
		written := make(chan struct{})
		go func() {
			defer close(written)
			_, _ = io.WriteString(c.conn, post(w.origin, framing{lines: fmt.Sprintf("Content-Length: %d\r\n", len(upload)+1)}))
			_, _ = io.WriteString(c.conn, upload)
		}()
		res := c.answer(http.MethodPost)
		require.Equal(t, http.StatusRequestEntityTooLarge, res.status)
		require.Equal(t, "too large", res.body)
		require.True(t, res.response.Close)
		c.close()
		<-written
	}
}

// A body that ends after the header of the response left: that header said close
// already.
func TestBodyThatEndsAfterTheHeader(t *testing.T) {
	uploads := make(chan string, 1)
	w := oneProxy(t, originOf(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_ = control.Flush()
		text, err := io.ReadAll(r.Body)
		uploads <- fmt.Sprint(string(text), err)
	}))
	c := w.dial()
	c.send(post(w.origin, framing{lines: "Content-Length: 5\r\n", body: "AA"}))
	res, err := http.ReadResponse(c.Reader, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.True(t, res.Close)
	c.send("AAA" + secondRequest(w))
	require.Equal(t, "AAAAA<nil>", <-uploads)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	require.Empty(t, c.expectEnd())
}

// The client sends neither the rest of its body nor a FIN: after the response the
// server waits for 5 s, and not for Caddy's minute.
func TestRestOfABodyIsNotAwaitedForLong(t *testing.T) {
	w := newWorld(t, alice, oneExit, loopback)
	c := w.dial()
	c.send(post(deadPort(t), framing{lines: "Content-Length: 5\r\n", body: "A"}))
	require.Equal(t, http.StatusBadGateway, c.answer(http.MethodPost).status)
	require.Empty(t, c.expectEnd())
}

func TestClientThatResetsDuringABody(t *testing.T) {
	w, requests := framingWorld(t, oneExit)
	for range 20 {
		c := w.dial()
		c.send(post(w.origin, framing{lines: "Content-Length: 500000\r\n", body: strings.Repeat("A", 300_000)}))
		require.NoError(t, c.conn.SetLinger(0))
		c.close()
		c = w.dial()
		c.send(post(w.origin, framing{lines: chunkedLine, body: "5\r\nAAAAA\r\n"}))
		c.close()
	}
	// The origin may still be answering requests of before: it does not wait here.
	done, drained := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		for {
			select {
			case <-requests:
			case <-done:
				return
			}
		}
	}()
	require.Equal(t, http.StatusOK, w.ask(w.dial(), http.MethodGet, "/", "", "").status)
	close(done)
	<-drained
	require.NotContains(t, w.logs.String(), "panic")
}

// A7: bytes behind a CONNECT that is refused are meant for a tunnel, and are no
// request.
func TestBytesBehindARefusedConnectAreNoRequest(t *testing.T) {
	w, requests := framingWorld(t, oneExit)
	for _, size := range []int{0, 100, 64 << 10, 1 << 20} {
		for destination, status := range map[string]int{
			"10.0.0.1:443": http.StatusForbidden, deadPort(t): http.StatusBadGateway, "127.0.0.1:0": http.StatusBadRequest,
		} {
			c := w.dial()
			written := make(chan struct{})
			go func() {
				defer close(written)
				_, _ = io.WriteString(c.conn, connect("alice", destination)+secondRequest(w)+strings.Repeat("A", size))
			}()
			res := c.answer(http.MethodConnect)
			require.Equal(t, status, res.status)
			require.True(t, res.response.Close)
			// Unread bytes may cause a RST, but only after all of the response.
			_, err := c.Peek(1)
			require.Error(t, err)
			if size < 100_000 {
				require.ErrorIs(t, err, io.EOF)
			}
			c.close()
			<-written
		}
	}
	require.Empty(t, requests)

	c := w.dial() // 407 is how a client learns that it must send credentials
	c.send(connect("", w.origin) + connect("alice", w.origin))
	res := c.answer(http.MethodConnect)
	require.Equal(t, http.StatusProxyAuthRequired, res.status)
	require.False(t, res.response.Close)
	require.Equal(t, http.StatusOK, c.answer(http.MethodConnect).status)
}

// RFC 9110 §7.8: a transport that still sends a body would read the tunnel's bytes.
func TestUpgradeWithABodyIsAnOrdinaryRequest(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	for _, text := range []string{
		"POST http://" + origin + "/ HTTP/1.1\r\nContent-Length: 5\r\n\r\nAAAAA",
		"GET http://" + origin + "/ HTTP/1.0\r\n\r\n",
	} {
		c := w.dial()
		c.send(strings.Replace(text, "\r\n", "\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"+credentials("alice"), 1))
		require.Equal(t, http.StatusOK, c.answer(http.MethodPost).status)
		r := <-requests
		require.NotContains(t, r.Header, "Upgrade")
		require.NotContains(t, strings.ToLower(r.Header.Get("Connection")), "upgrade")
		c.close()
	}
}

// There is nothing left to read of a request without a body.
func TestRefusedRequestWithoutABodyKeepsItsConnection(t *testing.T) {
	w, requests := framingWorld(t, oneExit)
	c := w.dial()
	for _, destination := range []string{deadPort(t), "10.0.0.1", "nowhere.shop.example"} {
		c.send("GET http://" + destination + "/ HTTP/1.1\r\nHost: x\r\n" + credentials("alice") + "\r\n")
		require.False(t, c.answer(http.MethodGet).response.Close, destination)
	}
	c.send(secondRequest(w))
	require.Equal(t, http.StatusOK, c.answer(http.MethodGet).status)
	require.Len(t, requests, 1)
}

// A server with enable_full_duplex is full duplex for the site's own requests as
// well, and leaves the rest of their bodies to the next request.
func TestBodyOfTheSitesOwnRequestInAFullDuplexServer(t *testing.T) {
	origin, requests := recording(t)
	w := newWorldWith(t, origin, site{block: alice + loopback + oneExit, global: "servers {\nenable_full_duplex\n}"})
	port := w.proxy[strings.LastIndexByte(w.proxy, ':')+1:]
	own := func(host string, f framing) string {
		return "POST / HTTP/1.1\r\nHost: " + host + "\r\n" + f.lines + "\r\n" + f.body
	}
	behind := []string{post(origin, wellFormed["by length"]), secondRequest(w), connect("alice", origin)}
	for range 5 {
		for _, bodies := range []map[string]framing{wellFormed, malformedBodies} {
			for what, f := range bodies {
				for _, next := range behind {
					c := w.dial()
					c.send(own("x", f) + next)
					res := c.answer(http.MethodPost)
					require.Equal(t, http.StatusOK, res.status, what) // the site's respond
					require.True(t, res.response.Close, what)
					require.Empty(t, c.expectEnd(), what)
					c.close()
				}
			}
		}
	}
	require.Empty(t, requests)
	require.NotContains(t, w.logs.String(), "panic")

	// Another site of the server has no sticky_proxy that could close the
	// connection. The process goes on.
	s := *w.config
	s.sites = "http://other.example:" + port + " {\n bind 127.0.0.1\n respond other\n}"
	require.NoError(t, w.load(s))
	for range 50 {
		c := w.dial()
		c.send(own("other.example", wellFormed["by length"]) + post(origin, wellFormed["by length"]))
		require.Equal(t, http.StatusOK, c.answer(http.MethodPost).status)
		c.close()
	}
	for len(requests) > 0 {
		<-requests
	}
	require.Equal(t, http.StatusOK, w.ask(w.dial(), http.MethodGet, "/", "", "").status)
}
