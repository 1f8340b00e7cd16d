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
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
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
func framingWorld(t *testing.T, exit string) (*proxytest.World, chan *http.Request) {
	t.Helper()
	origin, requests := recording(t)
	return proxytest.NewWorldWith(t, origin, proxytest.Site{
		Block: proxytest.Alice + proxytest.Loopback + exit + "\nresolver " + proxytest.NewNames(t, "udp", nil).Address,
	}), requests
}

// post returns a POST to a destination.
func post(destination string, f framing) string {
	return "POST http://" + destination + "/first HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + f.lines + "\r\n" + f.body
}

// secondRequest is the request that is hidden behind another one in the same segment.
func secondRequest(w *proxytest.World) string {
	return "GET http://" + w.Origin + "/second HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n"
}

// D6: where the proxy refuses a request and has not read its body, the connection
// ends with the response, by FIN, and the bytes behind are no request.
func TestRefusedRequestWithABodyEndsItsConnection(t *testing.T) {
	dead := proxytest.DeadPort(t)
	for name, refusal := range map[string]struct {
		exit, destination string
		status            int
	}{
		"refused":          {proxytest.OneExit, dead, http.StatusBadGateway},
		"prohibited":       {proxytest.OneExit, "10.0.0.1", http.StatusForbidden},
		"unknown name":     {proxytest.OneExit, "nowhere.shop.example", http.StatusBadGateway},
		"user information": {proxytest.OneExit, "u:p@" + dead, http.StatusBadRequest},
		"dead http exit":   {"exit http://" + dead, "198.51.100.7", http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			w, requests := framingWorld(t, refusal.exit)
			refused := func(what string, f framing, behind string) {
				t.Helper()
				c := w.Dial()
				c.Send(post(refusal.destination, f) + behind)
				res := c.Answer(http.MethodPost)
				require.Equal(t, refusal.status, res.Status, "%s: %s", what, res.Body)
				require.True(t, res.Response.Close, "%s: Connection: close", what)
				require.Empty(t, c.ExpectEnd(), what)
				c.Close()
			}
			for _, bodies := range []map[string]framing{wellFormed, malformedBodies} {
				for what, f := range bodies {
					refused(what, f, "")
					refused(what+", pipelined", f, secondRequest(w))
				}
			}
			require.Empty(t, requests)
			require.NotContains(t, w.Logs.String(), "panic")
		})
	}
}

// One segment with two POSTs to a destination that refuses ended the process.
func TestPipelinedPostsToADeadDestination(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	dead := proxytest.DeadPort(t)
	for range 100 {
		c := w.Dial()
		c.Send(strings.Repeat(post(dead, wellFormed["by length"]), 2))
		require.Equal(t, http.StatusBadGateway, c.Answer(http.MethodPost).Status)
		require.Empty(t, c.ExpectEnd())
		c.Close()
	}
	require.NotContains(t, w.Logs.String(), "panic")
}

// D2: where the origin takes the body, a malformed one ends the connection, and
// one that was read to its end leaves it open, over HTTP/1.0 as well.
func TestBodyThatWasReadKeepsTheConnection(t *testing.T) {
	w, requests := framingWorld(t, proxytest.OneExit)
	for what, f := range wellFormed {
		for _, version := range []string{"1.1", "1.0"} {
			if version == "1.0" {
				if strings.Contains(f.lines, "chunked") {
					continue // HTTP/1.0 has no chunks
				}
				f.lines += "Connection: keep-alive\r\n"
			}
			c := w.Dial()
			c.Send(strings.Replace(post(w.Origin, f), "HTTP/1.1", "HTTP/"+version, 1))
			res := c.Answer(http.MethodPost)
			require.Equal(t, http.StatusOK, res.Status, what)
			require.False(t, res.Response.Close, "%s, HTTP/%s", what, version)
			require.Equal(t, "/first", (<-requests).URL.Path)
			c.Send(secondRequest(w))
			require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
			require.Equal(t, "/second", (<-requests).URL.Path)
			c.Close()
		}
	}
	for what, f := range malformedBodies {
		c := w.Dial()
		c.Send(post(w.Origin, f) + secondRequest(w))
		res := c.Answer(http.MethodPost)
		require.Equal(t, http.StatusBadRequest, res.Status, what)
		require.True(t, res.Response.Close, what)
		require.Empty(t, c.ExpectEnd(), what)
		c.Close()
	}
	for len(requests) > 0 { // the origin may get the head of a malformed one
		require.Equal(t, "/first", (<-requests).URL.Path)
	}
}

// RFC 9110 §10.1.1.
func TestRefusedRequestThatExpects100(t *testing.T) {
	w, requests := framingWorld(t, proxytest.OneExit)
	head := framing{lines: "Expect: 100-continue\r\nContent-Length: 5\r\n"}
	for _, behind := range []string{"", "AAAAA", "AAAAA" + secondRequest(w)} {
		c := w.Dial()
		c.Send(post(proxytest.DeadPort(t), head) + behind)
		res := c.Answer(http.MethodPost)
		require.Equal(t, http.StatusBadGateway, res.Status, "without a 100")
		require.True(t, res.Response.Close)
		if behind != "" {
			require.Empty(t, c.ExpectEnd())
		}
		c.Close()
	}
	c := w.Dial()
	c.Send(post(w.Origin, head))
	require.Equal(t, http.StatusContinue, c.Answer(http.MethodPost).Status)
	c.Send("AAAAA")
	res := c.Answer(http.MethodPost)
	require.Equal(t, http.StatusOK, res.Status)
	require.Len(t, requests, 1)
}

func TestRefusedHTTP10RequestIsNotKeptAlive(t *testing.T) {
	w, requests := framingWorld(t, proxytest.OneExit)
	f := wellFormed["by length"]
	f.lines += "Connection: keep-alive\r\n"
	c := w.Dial()
	c.Send(strings.Replace(post(proxytest.DeadPort(t), f), "HTTP/1.1", "HTTP/1.0", 1) + secondRequest(w))
	res := c.Answer(http.MethodPost)
	require.Equal(t, http.StatusBadGateway, res.Status)
	require.Equal(t, "close", res.Header.Get("Connection"))
	require.Empty(t, c.ExpectEnd())
	require.Empty(t, requests)
}

// An origin that answers early: the client gets all of the response, although 5 MB
// are on their way and the last byte never comes.
func TestEarlyResponseArrivesWhole(t *testing.T) {
	w := oneProxy(t, proxytest.ServerOf(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
		_, _ = io.Copy(io.Discard, conn)
	}))
	upload := strings.Repeat("x", 5<<20)
	for range 10 {
		c := w.Dial()
		written := make(chan struct{})
		go func() {
			defer close(written)
			_, _ = io.WriteString(c.Conn, post(w.Origin, framing{lines: fmt.Sprintf("Content-Length: %d\r\n", len(upload)+1)}))
			_, _ = io.WriteString(c.Conn, upload)
		}()
		res := c.Answer(http.MethodPost)
		require.Equal(t, http.StatusRequestEntityTooLarge, res.Status)
		require.Equal(t, "too large", res.Body)
		require.True(t, res.Response.Close)
		c.Close()
		<-written
	}
}

// A body that ends after the header of the response left: that header said close
// already.
func TestBodyThatEndsAfterTheHeader(t *testing.T) {
	uploads := make(chan string, 1)
	w := oneProxy(t, proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_ = control.Flush()
		text, err := io.ReadAll(r.Body)
		uploads <- fmt.Sprint(string(text), err)
	}))
	c := w.Dial()
	c.Send(post(w.Origin, framing{lines: "Content-Length: 5\r\n", body: "AA"}))
	res, err := http.ReadResponse(c.Reader, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.True(t, res.Close)
	c.Send("AAA" + secondRequest(w))
	require.Equal(t, "AAAAA<nil>", <-uploads)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	require.Empty(t, c.ExpectEnd())
}

// The client sends neither the rest of its body nor a FIN: after the response the
// server waits for 5 s, and not for Caddy's minute. Nor does it wait for ever, where
// the transport of the exit was reading the body when the response was sent.
func TestRestOfABodyIsNotAwaitedForLong(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	early := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		}
	})
	var waiting []*proxytest.Wire
	for _, test := range []struct {
		destination string
		framing     framing
		status      int
	}{
		{proxytest.DeadPort(t), framing{lines: "Content-Length: 5\r\n", body: "A"}, http.StatusBadGateway},
		{early, framing{lines: "Content-Length: 1000\r\n"}, http.StatusOK},
		{early, framing{lines: "Content-Length: 1000\r\n", body: "A"}, http.StatusOK},
		{early, framing{lines: chunkedLine}, http.StatusOK},
	} {
		c := w.Dial()
		c.Send(post(test.destination, test.framing))
		require.Equal(t, test.status, c.Answer(http.MethodPost).Status)
		require.NoError(t, c.Conn.SetReadDeadline(time.Now().Add(proxytest.Guard/2)))
		waiting = append(waiting, c)
	}
	for _, c := range waiting {
		require.Empty(t, c.ExpectEnd())
	}
}

func TestClientThatResetsDuringABody(t *testing.T) {
	w, requests := framingWorld(t, proxytest.OneExit)
	for range 20 {
		c := w.Dial()
		c.Send(post(w.Origin, framing{lines: "Content-Length: 500000\r\n", body: strings.Repeat("A", 300_000)}))
		require.NoError(t, c.Conn.SetLinger(0))
		c.Close()
		c = w.Dial()
		c.Send(post(w.Origin, framing{lines: chunkedLine, body: "5\r\nAAAAA\r\n"}))
		c.Close()
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
	require.Equal(t, http.StatusOK, w.Ask(w.Dial(), http.MethodGet, "/", "", "").Status)
	close(done)
	<-drained
	require.NotContains(t, w.Logs.String(), "panic")
}

// A7: bytes behind a CONNECT that is refused are meant for a tunnel, and are no
// request.
func TestBytesBehindARefusedConnectAreNoRequest(t *testing.T) {
	w, requests := framingWorld(t, proxytest.OneExit)
	for _, size := range []int{0, 100, 64 << 10, 1 << 20} {
		for destination, status := range map[string]int{
			"10.0.0.1:443": http.StatusForbidden, proxytest.DeadPort(t): http.StatusBadGateway, "127.0.0.1:0": http.StatusBadRequest,
		} {
			c := w.Dial()
			written := make(chan struct{})
			go func() {
				defer close(written)
				_, _ = io.WriteString(c.Conn, proxytest.Connect("alice", destination)+secondRequest(w)+strings.Repeat("A", size))
			}()
			res := c.Answer(http.MethodConnect)
			require.Equal(t, status, res.Status)
			require.True(t, res.Response.Close)
			// Unread bytes may cause a RST, but only after all of the response.
			_, err := c.Peek(1)
			require.Error(t, err)
			if size < 100_000 {
				require.ErrorIs(t, err, io.EOF)
			}
			c.Close()
			<-written
		}
	}
	require.Empty(t, requests)

	c := w.Dial() // 407 is how a client learns that it must send credentials
	c.Send(proxytest.Connect("", w.Origin) + proxytest.Connect("alice", w.Origin))
	res := c.Answer(http.MethodConnect)
	require.Equal(t, http.StatusProxyAuthRequired, res.Status)
	require.False(t, res.Response.Close)
	require.Equal(t, http.StatusOK, c.Answer(http.MethodConnect).Status)
}

// RFC 9110 §7.8: a transport that still sends a body would read the tunnel's bytes.
func TestUpgradeWithABodyIsAnOrdinaryRequest(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	for _, text := range []string{
		"POST http://" + origin + "/ HTTP/1.1\r\nContent-Length: 5\r\n\r\nAAAAA",
		"GET http://" + origin + "/ HTTP/1.0\r\n\r\n",
	} {
		c := w.Dial()
		c.Send(strings.Replace(text, "\r\n", "\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"+proxytest.Credentials("alice"), 1))
		require.Equal(t, http.StatusOK, c.Answer(http.MethodPost).Status)
		r := <-requests
		require.NotContains(t, r.Header, "Upgrade")
		require.NotContains(t, strings.ToLower(r.Header.Get("Connection")), "upgrade")
		c.Close()
	}
}

// There is nothing left to read of a request without a body.
func TestRefusedRequestWithoutABodyKeepsItsConnection(t *testing.T) {
	w, requests := framingWorld(t, proxytest.OneExit)
	c := w.Dial()
	for _, destination := range []string{proxytest.DeadPort(t), "10.0.0.1", "nowhere.shop.example"} {
		c.Send("GET http://" + destination + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
		require.False(t, c.Answer(http.MethodGet).Response.Close, destination)
	}
	c.Send(secondRequest(w))
	require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
	require.Len(t, requests, 1)
}

// A server with enable_full_duplex is full duplex for the site's own requests as
// well, and leaves the rest of their bodies to the next request.
func TestBodyOfTheSitesOwnRequestInAFullDuplexServer(t *testing.T) {
	origin, requests := recording(t)
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + proxytest.OneExit, Global: "servers {\nenable_full_duplex\n}"})
	port := w.Proxy[strings.LastIndexByte(w.Proxy, ':')+1:]
	own := func(host string, f framing) string {
		return "POST / HTTP/1.1\r\nHost: " + host + "\r\n" + f.lines + "\r\n" + f.body
	}
	behind := []string{post(origin, wellFormed["by length"]), secondRequest(w), proxytest.Connect("alice", origin)}
	for range 5 {
		for _, bodies := range []map[string]framing{wellFormed, malformedBodies} {
			for what, f := range bodies {
				for _, next := range behind {
					c := w.Dial()
					c.Send(own("x", f) + next)
					res := c.Answer(http.MethodPost)
					require.Equal(t, http.StatusOK, res.Status, what) // the site's respond
					require.True(t, res.Response.Close, what)
					require.Empty(t, c.ExpectEnd(), what)
					c.Close()
				}
			}
		}
	}
	require.Empty(t, requests)
	require.NotContains(t, w.Logs.String(), "panic")

	// Another site of the server has no sticky_proxy that could close the
	// connection. The process goes on.
	s := *w.Config
	s.Sites = "http://other.example:" + port + " {\n bind 127.0.0.1\n respond other\n}"
	require.NoError(t, w.Load(s))
	for range 50 {
		c := w.Dial()
		c.Send(own("other.example", wellFormed["by length"]) + post(origin, wellFormed["by length"]))
		require.Equal(t, http.StatusOK, c.Answer(http.MethodPost).Status)
		c.Close()
	}
	for len(requests) > 0 {
		<-requests
	}
	require.Equal(t, http.StatusOK, w.Ask(w.Dial(), http.MethodGet, "/", "", "").Status)
}
