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

// oneProxy is a proxy with one exit in front of this origin.
func oneProxy(t *testing.T, origin string) *proxytest.World {
	t.Helper()
	return proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback})
}

// rawOrigin answers each request with this text, byte for byte, and closes.
func rawOrigin(t *testing.T, text string) string {
	t.Helper()
	return proxytest.ServerOf(t, func(conn *net.TCPConn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(conn, text)
	})
}

// recording is an origin that hands each request to the test, its trailer read.
func recording(t *testing.T) (string, chan *http.Request) {
	t.Helper()
	requests := make(chan *http.Request, 100)
	return proxytest.OriginOf(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		requests <- r
	}), requests
}

// C1.
func TestHostIsThatOfTheURL(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	for _, host := range []string{"other.example", "127.0.0.1:1", ""} {
		c := w.Dial()
		c.Send("GET http://" + origin + "/a%2Fb;c?d=e%20f&&g HTTP/1.1\r\nHost: " + host + "\r\n" + proxytest.Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
		r := <-requests
		require.Equal(t, origin, r.Host)
		require.Equal(t, "/a%2Fb;c?d=e%20f&&g", r.RequestURI, "origin-form, and not a byte changed")
		c.Close()
	}
	c := w.Dial()
	c.Send("GET http://" + origin + " HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
	require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
	require.Equal(t, "/", (<-requests).RequestURI)
}

// C2, C3 and E2.
func TestHopByHopHeadersEndHere(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	res := w.Ask(w.Dial(), http.MethodGet, "/", "Connection: X-One, keep-alive\r\nConnection: x-two\r\nX-One: 1\r\nX-Two: 2\r\n"+
		"Proxy-Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nTE: trailers, deflate\r\nUpgrade: x\r\nProxy-Authenticate: x\r\n"+
		"X-Three: 3\r\nAuthorization: Basic b3JpZ2lu\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n", "")
	require.Equal(t, http.StatusOK, res.Status)
	r := <-requests
	for _, name := range []string{
		"X-One", "X-Two", "Proxy-Connection", "Keep-Alive", "Upgrade", "Proxy-Authenticate", "Proxy-Authorization",
	} {
		require.NotContains(t, r.Header, name)
	}
	require.NotContains(t, r.Header.Get("TE"), "deflate")
	require.Equal(t, "3", r.Header.Get("X-Three"))
	require.Equal(t, "Basic b3JpZ2lu", r.Header.Get("Authorization"), "credentials for the origin are the origin's")
	require.Equal(t, []string{"for=192.0.2.1"}, r.Header["Forwarded"])
	require.Equal(t, []string{"192.0.2.1"}, r.Header["X-Forwarded-For"], "nothing is added")
	require.NotContains(t, r.Header, "Accept-Encoding", "nothing is added")
	require.NotContains(t, r.Header, "User-Agent", "nothing is added")
}

func TestHopByHopHeadersOfTheOriginEndHere(t *testing.T) {
	w := oneProxy(t, rawOrigin(t, "HTTP/1.1 200 OK\r\nConnection: X-One\r\nConnection: x-two\r\nX-One: 1\r\nX-Two: 2\r\nX-Three: 3\r\n"+
		"Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nContent-Length: 2\r\n\r\nok"))
	res := w.Ask(w.Dial(), http.MethodGet, "/", "", "")
	require.Equal(t, "ok", res.Body)
	for _, name := range []string{"X-One", "X-Two", "Keep-Alive", "Proxy-Connection"} {
		require.NotContains(t, res.Header, name)
	}
	require.Equal(t, "3", res.Header.Get("X-Three"))
	require.NotContains(t, res.Header, "Server", "the answer is the origin's")
}

// C4.
func TestViaNamesTheReceivedVersion(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	for _, version := range []string{"1.1", "1.0"} {
		c := w.Dial()
		c.Send("GET http://" + origin + "/ HTTP/" + version + "\r\nHost: x\r\nVia: 1.0 other\r\n" + proxytest.Credentials("alice") + "\r\n")
		res := c.Answer(http.MethodGet)
		via := (<-requests).Header["Via"]
		require.Regexp(t, `^1\.0 other(, |\n)`+strings.ReplaceAll(version, ".", `\.`)+` caddy-[0-9a-f]{8}$`, strings.Join(via, "\n"))
		require.Regexp(t, `^1\.1 caddy-[0-9a-f]{8}$`, strings.Join(res.Header["Via"], "\n"))
		c.Close()
	}
}

func TestViaMayBeLeftOut(t *testing.T) {
	origin, requests := recording(t)
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback + "via off"})
	res := w.Ask(w.Dial(), http.MethodGet, "/", "Via: 1.0 other\r\n", "")
	require.Equal(t, []string{"1.0 other"}, (<-requests).Header["Via"])
	require.NotContains(t, res.Header, "Via")
}

// C5.
func TestRequestThatComesBackIsALoop(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	require.Equal(t, http.StatusOK, w.Ask(w.Dial(), http.MethodGet, "/", "", "").Status)
	via := (<-requests).Header.Get("Via")
	for _, lines := range []string{
		"Via: " + via + "\r\n", "Via: 1.0 a, " + via + ", 1.1 b\r\n", "Via: 1.0 a\r\nVia: " + via + "\r\n",
	} {
		res := w.Ask(w.Dial(), http.MethodGet, "/", lines, "")
		require.Equal(t, http.StatusBadGateway, res.Status, lines)
		require.Equal(t, "proxy_loop_detected", res.Reason())
	}
	require.Empty(t, requests)
}

// C6.
func TestUnknownMethodsAndHeadersPass(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	for _, method := range []string{"PROPFIND", "BREW", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"} {
		res := w.Ask(w.Dial(), method, "/", "X-Unheard-Of: a\r\nX-Unheard-Of: b\r\n", "")
		require.Equal(t, http.StatusOK, res.Status, method)
		r := <-requests
		require.Equal(t, method, r.Method)
		require.Equal(t, []string{"a", "b"}, r.Header["X-Unheard-Of"])
	}
}

// C7, interim answers.
func TestInterimAnswersPass(t *testing.T) {
	w := oneProxy(t, rawOrigin(t, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n"+
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	c := w.Dial()
	res := w.Ask(c, http.MethodGet, "/", "", "")
	for _, link := range []string{"</a>", "</b>"} {
		require.Equal(t, http.StatusEarlyHints, res.Status)
		require.Equal(t, link, res.Header.Get("Link"))
		res = c.Answer(http.MethodGet)
	}
	require.Equal(t, "ok", res.Body)
}

func TestClientThatWaitsFor100GetsIt(t *testing.T) {
	body := make(chan string, 1)
	w := oneProxy(t, proxytest.OriginOf(t, func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		body <- string(text)
	}))
	c := w.Dial()
	require.Equal(t, http.StatusContinue, w.Ask(c, http.MethodPost, "/", "Expect: 100-continue\r\nContent-Length: 5\r\n", "").Status)
	c.Send("hello")
	res := c.Answer(http.MethodPost)
	for res.Status == http.StatusContinue { // the origin's own
		res = c.Answer(http.MethodPost)
	}
	require.Equal(t, http.StatusOK, res.Status)
	require.Equal(t, "hello", <-body)
}

// C7.
func TestTrailersOfTheOriginPass(t *testing.T) {
	w := oneProxy(t, proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", "there")
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "too")
	}))
	res := w.Ask(w.Dial(), http.MethodPost, "/", "TE: trailers\r\nContent-Length: 5\r\n", "hello")
	require.Equal(t, "hello", res.Body)
	require.Equal(t, "there", res.Trailer.Get("X-Sum"))
	require.Equal(t, "too", res.Trailer.Get("X-Unannounced"))
}

// C7, answers without a body, behind which the connection is usable.
func TestAnswersWithoutABodyPass(t *testing.T) {
	for _, test := range []struct {
		method, answer string
		status         int
		length         string
	}{
		{http.MethodHead, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200, "1234"},
		{http.MethodHead, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, ""},
		{http.MethodGet, "HTTP/1.1 204 No Content\r\n\r\n", 204, ""},
		{http.MethodGet, "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", 304, ""},
		{http.MethodHead, "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", 404, "9"},
		{http.MethodGet, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "0"},
		{http.MethodGet, "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", 205, "0"},
	} {
		w := oneProxy(t, rawOrigin(t, test.answer))
		c := w.Dial()
		for range 3 {
			res := w.Ask(c, test.method, "/", "", "")
			require.Equal(t, test.status, res.Status, test.answer)
			require.Equal(t, test.length, res.Header.Get("Content-Length"), test.answer)
			require.Empty(t, res.Body)
		}
	}
}

// C7, an upgrade becomes a tunnel.
func TestUpgradesPass(t *testing.T) {
	for kind, exit := range map[string]string{
		"direct": proxytest.OneExit,
		"http":   "exit http://" + proxytest.NewPuppet(t, upgradingProxy).Address,
		"socks5": "exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{})).Address,
	} {
		t.Run(kind, func(t *testing.T) {
			origin := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
				reader := bufio.NewReader(conn)
				r, err := http.ReadRequest(reader)
				if err != nil || r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwelcome")
				_, _ = io.Copy(conn, reader)
			})
			w := proxytest.NewWorldWith(t, origin.Address, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + exit})
			c := w.Dial()
			res := w.Ask(c, http.MethodGet, "/chat", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n", "")
			require.Equal(t, http.StatusSwitchingProtocols, res.Status)
			require.Equal(t, "websocket", res.Header.Get("Upgrade"))
			c.Expect("welcome")
			for range 3 {
				c.Send("ping")
				c.Expect("ping")
			}
			c.Close()
			proxytest.Eventually(t, "the origin's end", func() bool { return origin.Open() == 0 })
		})
	}
}

// upgradingProxy passes the bytes of one request in absolute form on.
func upgradingProxy(conn *net.TCPConn) {
	reader := bufio.NewReader(conn)
	r, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	target, err := proxytest.Away{}.Dial(r.URL.Host)
	if err != nil || r.Write(target) != nil {
		return
	}
	proxytest.Join(conn, reader, target)
}

// C8.
func TestOtherSchemesAreRefusedAndNotDowngraded(t *testing.T) {
	target := proxytest.NewPuppet(t, proxytest.Echo)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	for _, scheme := range []string{"https", "ftp", "ws", "HTTPS", "file"} {
		c := w.Dial()
		c.Send("GET " + scheme + "://" + target.Address + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
		require.Equal(t, http.StatusBadRequest, c.Answer(http.MethodGet).Status, scheme)
		c.Close()
	}
	require.Zero(t, target.Dials.Load())
	c := w.Dial()
	c.Send("GET HTTP://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
	require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status, "a scheme is case-insensitive")
}

// D1: what is between the two lengths is not another request.
func TestRequestWithTwoLengthsIsNotTwoRequests(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	c := w.Dial()
	smuggled := "GET http://" + origin + "/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	res := w.Ask(c, http.MethodPost, "/", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled)
	if res.Status == http.StatusOK {
		r := <-requests
		require.Empty(t, r.Header.Get("Content-Length"))
	} else {
		require.Equal(t, http.StatusBadRequest, res.Status)
	}
	c.CloseWrite()
	_ = c.ExpectEnd()
	for len(requests) > 0 {
		require.NotEqual(t, "/smuggled", (<-requests).URL.Path, "without credentials")
	}
}

func TestAmbiguousLengthsAreRefused(t *testing.T) {
	origin, requests := recording(t)
	w := oneProxy(t, origin)
	for _, lines := range []string{
		"Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: +5\r\n", "Content-Length: 5, 6\r\n", "Content-Length: -1\r\n",
		"Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: xchunked\r\n",
	} {
		c := w.Dial()
		res := w.Ask(c, http.MethodPost, "/", lines, "5\r\nhello\r\n0\r\n\r\n")
		require.Contains(t, []int{http.StatusBadRequest, http.StatusNotImplemented}, res.Status, lines)
		require.True(t, res.Response.Close, lines)
		c.ExpectClosed()
	}
	require.Empty(t, requests)
}

// D3.
func TestBadLengthOfTheOriginIs502(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"nonsense\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "",
	} {
		w := oneProxy(t, rawOrigin(t, answer))
		require.Equal(t, http.StatusBadGateway, w.Ask(w.Dial(), http.MethodGet, "/", "", "").Status, answer)
	}
}

// D4.
func TestTruncatedAnswerIsTruncatedForTheClient(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nzz\r\n",
	} {
		w := oneProxy(t, rawOrigin(t, answer))
		c := w.Dial()
		c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
		res, err := http.ReadResponse(c.Reader, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		require.Equal(t, "only this", string(body))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, answer)
	}
}

func TestAnswerThatEndsWithItsConnectionPasses(t *testing.T) {
	w := oneProxy(t, rawOrigin(t, "HTTP/1.0 200 OK\r\n\r\nuntil the end"))
	require.Equal(t, "until the end", w.Ask(w.Dial(), http.MethodGet, "/", "", "").Body)
}

// D5.
func TestHeadersAreBoundedInBothDirections(t *testing.T) {
	w := oneProxy(t, proxytest.ServerOf(t, proxytest.EndlessHead))
	require.Equal(t, http.StatusBadGateway, w.Ask(w.Dial(), http.MethodGet, "/", "", "").Status)

	c := w.Dial()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, err := io.WriteString(c.Conn, "GET http://"+w.Origin+"/ HTTP/1.1\r\nHost: x\r\n")
		for line := "X-More: " + strings.Repeat("x", 8000) + "\r\n"; err == nil; {
			_, err = io.WriteString(c.Conn, line)
		}
	}()
	res, err := http.ReadResponse(c.Reader, nil)
	if err == nil { // the answer may be lost to the bytes that are still on their way
		_ = res.Body.Close()
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)
	}
	c.ExpectClosed()
	c.Close()
	<-written
}

// E2: what is for the proxy ends here, what is for an exit goes to the exit.
func TestCredentialsGoWhereTheyBelong(t *testing.T) {
	seen := make(chan *http.Request, 10)
	exit := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{}, func(r *http.Request) { seen <- r }))
	origin, requests := recording(t)
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + "exit http://exituser:exit%3Apassword@" + exit.Address})
	want := []string{proxytest.Basic("exituser", "exit:password")}

	require.Equal(t, http.StatusOK, w.Forwarded("alice-session-abc").Status)
	r := <-seen
	require.Equal(t, "http://"+origin+"/", r.RequestURI, "absolute-form")
	require.Equal(t, want, r.Header["Proxy-Authorization"])
	require.NotContains(t, (<-requests).Header, "Proxy-Authorization")

	c := w.Tunnel("alice-session-abc", origin)
	r = <-seen
	require.Equal(t, http.MethodConnect, r.Method)
	require.Equal(t, origin, r.RequestURI)
	require.Equal(t, want, r.Header["Proxy-Authorization"])
	require.Len(t, r.Header, 2, "an exit is told no more than it must know: who asks, and the way so far")
	c.Send("GET /inside HTTP/1.1\r\nHost: x\r\nProxy-Authorization: mine\r\n\r\n")
	require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
	require.Equal(t, []string{"mine"}, (<-requests).Header["Proxy-Authorization"], "a tunnel's bytes are nobody's business")
}

// F3: through another proxy a name is resolved there.
func TestNameIsResolvedAtTheExit(t *testing.T) {
	origin, requests := recording(t)
	seen := make(chan *http.Request, 10)
	for _, exit := range []string{
		"exit http://" + proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{To: origin}, func(r *http.Request) { seen <- r })).Address,
		"exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{To: origin})).Address,
	} {
		w := proxytest.NewWorldWith(t, "shop.invalid", proxytest.Site{Block: proxytest.Alice + exit})
		require.Equal(t, http.StatusOK, w.Ask(w.Dial(), http.MethodGet, "/", "", "").Status)
		require.Equal(t, "shop.invalid", (<-requests).Host)
		require.Equal(t, http.StatusOK, w.Connect("alice", "SHOP.invalid.:443").Status)
	}
	require.Equal(t, "http://shop.invalid/", (<-seen).RequestURI)
	require.Equal(t, "shop.invalid:443", (<-seen).RequestURI, "normalised")
}

// F6: proxytest.Main sets HTTP_PROXY to an address where nobody is. Loopback addresses
// are exempt from it by convention, so this asks for another host.
func TestEnvironmentChangesNothing(t *testing.T) {
	origin, requests := recording(t)
	exit := proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{To: origin}))
	w := proxytest.NewWorldWith(t, "shop.invalid", proxytest.Site{Block: proxytest.Alice + "exit socks5://" + exit.Address})
	r, err := http.NewRequest(http.MethodGet, "http://shop.invalid/", nil)
	require.NoError(t, err)
	environment, err := http.ProxyFromEnvironment(r)
	require.NoError(t, err)
	require.NotNil(t, environment, "the test means nothing without")
	require.Equal(t, http.StatusOK, w.Ask(w.Dial(), http.MethodGet, "/", "", "").Status)
	require.Equal(t, "shop.invalid", (<-requests).Host)
}

// What an origin sends is passed on as it comes.
func TestAnswerStreams(t *testing.T) {
	more := make(chan struct{})
	w := oneProxy(t, proxytest.OriginOf(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "second")
	}))
	c := w.Dial()
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials("alice") + "\r\n")
	res, err := http.ReadResponse(c.Reader, nil)
	require.NoError(t, err)
	first := make([]byte, len("first"))
	_, err = io.ReadFull(res.Body, first)
	close(more)
	require.NoError(t, err)
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "firstsecond", string(first)+string(rest))
	require.NoError(t, res.Body.Close())
}

func TestLargeBodiesPass(t *testing.T) {
	w := oneProxy(t, proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	text := proxytest.RandomText(2 << 20)
	for _, body := range []io.Reader{strings.NewReader(text), struct{ io.Reader }{strings.NewReader(text)}} {
		res, err := w.Client("alice").Post("http://"+w.Origin+"/", "text/plain", body)
		require.NoError(t, err)
		got, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.True(t, text == string(got), "another body came back")
	}
}
