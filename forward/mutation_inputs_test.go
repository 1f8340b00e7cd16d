// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package forward_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// input is what one client sends to one of the servers, and how.
type input struct {
	address  string // of the server
	from     net.IP // the client's own address
	segments []string
	answers  int           // the client leaves after this many
	wait     time.Duration // for the answers
	finish   finish
}

// finish is what a client does when it has sent everything.
type finish int

const (
	staysOpen finish = iota
	closesItsHalf
	resetsTheConnection
)

// places are the addresses that inputs name, each as host:port.
type places struct {
	proxy, balancer string
	good            string   // an origin that serves requests
	refusing        string   // no server listens here
	all             []string // every destination that the proxy allows
}

// draw makes one input. The same seed and number always make the same input.
type draw struct {
	*rand.Rand
	*places
	number int
}

func (p *places) input(seed uint64, number int) input {
	d := &draw{rand.New(rand.NewPCG(seed, uint64(number))), p, number}
	if d.chance(25) {
		return d.hiding()
	}
	return d.mutated()
}

func one[T any](d *draw, of ...T) T { return of[d.IntN(len(of))] }

// chance is true in so many of 100 cases.
func (d *draw) chance(percent int) bool { return d.IntN(100) < percent }

// client returns an input of a client that has an address of its own, because
// wrong passwords are counted by address.
func (d *draw) client(address, text string) input {
	return input{
		address: address, segments: d.split(text),
		from: net.IPv4(127, byte(1+d.IntN(250)), byte(d.IntN(256)), byte(1+d.IntN(250))),
	}
}

// split divides a text into up to four segments.
func (d *draw) split(text string) []string {
	var segments []string
	for range d.IntN(2) * d.IntN(4) {
		cut := d.IntN(len(text) + 1)
		segments, text = append(segments, text[:cut]), text[cut:]
	}
	return append(segments, text)
}

// mutated returns up to four requests in which up to four places are changed.
func (d *draw) mutated() input {
	address, request, requests := d.proxy, d.toProxy, one(d, 1, 1, 2, 2, 3, 4)
	var text string
	switch kind := d.IntN(100); {
	case kind < 20:
		address, request = d.balancer, d.toBalancer
	case kind < 35:
		text, requests = d.socks(d.destination())+d.inTunnel(), 1
	}
	// A copy of a part of a SOCKS5 handshake could make the password a name.
	copies := text == ""
	if copies {
		for range requests {
			text += request()
		}
	}
	for range one(d, 0, 0, 0, 0, 1, 1, 2, 4) {
		text = d.mutate(text, request, copies)
	}
	in := d.client(address, cmp.Or(text, "\n"))
	in.answers = requests
	in.wait = time.Duration(5+d.IntN(200)) * time.Millisecond
	in.finish = one(d, staysOpen, staysOpen, staysOpen, closesItsHalf, resetsTheConnection)
	return in
}

// tokens are texts that mean something to one of the parsers on the way.
var tokens = []string{
	"\r\n", "\n", "\r", "\r\n\r\n", "\x00", "\x04", "\x05", "\xff", " ", "\t", ":", ",", ";", "\"", "chunked", "0", "-1",
	"0x", "99999999999999999999", "%00", "%", "|", "//", "?", "{http.request.uri}", "{env.HOME}", "-session-", "-sessionttl-0",
	"?session=", "&", "[::1]", "[", "@", "#", "*", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"Connection: close\r\n", "Connection: Content-Length\r\n", "Connection: keep-alive, Proxy-Authorization\r\n",
	"Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n", "Trailer: Host\r\n",
	"Expect: 100-continue\r\n", "Upgrade: h2c\r\n", "Via: 1.1 x\r\n", "Proxy-Authorization: Basic \r\n", "Proxy-Connection: close\r\n",
	"Host: \r\n", "\r\n 0", "\xc3\xa9", "\x16\x03\x01\x02\x00\x01", strings.Repeat("A", 600), strings.Repeat("A", 9000),
}

// mutate changes one place of a text.
func (d *draw) mutate(text string, request func() string, copies bool) string {
	at := d.IntN(len(text) + 1)
	switch kind := d.IntN(10); {
	case kind < 3:
		return text[:at] + one(d, tokens...) + text[at:]
	case kind < 5:
		if at < len(text) {
			return text[:at] + string([]byte{byte(d.IntN(256))}) + text[at+1:]
		}
	case kind < 7:
		return text[:at] + text[min(len(text), at+1+d.IntN(12)):]
	case kind < 8:
		if at > 0 {
			return text[:at]
		}
	case kind < 9:
		return text + request()
	case copies:
		from := d.IntN(len(text) + 1)
		return text[:at] + text[from:min(len(text), from+200)] + text[at:]
	}
	return text
}

// toProxy returns a request to the forward proxy.
func (d *draw) toProxy() string {
	if d.chance(20) {
		destination := d.destination()
		return "CONNECT " + destination + " HTTP/1.1\r\nHost: " + destination + "\r\n" + d.lines() + d.credentials() + "\r\n" + d.inTunnel()
	}
	lines, body := d.body(d.chance(60))
	return d.method(body) + " " + one(d, "http", "http", "http", "http", "http", "http", "http", "http", "ws", "https") + "://" +
		one(d, "", "", "", "", "", "", "", "", "", "alice:secret@") + d.destination() + d.path() + " " + d.version() + "\r\n" +
		d.lines() + d.credentials() + lines + "\r\n" + body
}

// toBalancer returns a request to the load balancer, with session ids of every
// kind that its policy reads.
func (d *draw) toBalancer() string {
	lines, body := d.body(d.chance(50))
	id := strconv.Itoa(d.IntN(100))
	for range d.IntN(4) {
		lines += one(d, "Cookie: JSESSIONID="+id+"\r\n", "Cookie: sticky_mutations=s1.AAAA\r\n", "X-S: "+id+"\r\n",
			"Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.\r\n", "Authorization: "+proxytest.Basic("alice-session-"+id, "x")+"\r\n")
	}
	return d.method(body) + " /?s=" + one(d, "", id, "%20", "%") + "&" + id + " " + d.version() + "\r\n" + d.lines() + lines + "\r\n" + body
}

// socks returns a whole SOCKS5 handshake up to the request.
func (d *draw) socks(destination string) string {
	host, port, _ := net.SplitHostPort(destination)
	number, _ := strconv.Atoi(port)
	address := proxytest.SocksDomain(host, uint16(number))
	if ip := net.ParseIP(host).To4(); ip != nil && d.chance(70) {
		address = string(binary.BigEndian.AppendUint16(append([]byte{1}, ip...), uint16(number)))
	}
	user := d.user()
	return proxytest.SocksText(user, one(d, proxytest.PasswordOf(user), proxytest.PasswordOf(user), proxytest.PasswordOf(user), "wrong"), address)
}

// inTunnel returns what a client may send before it knows whether its tunnel is
// open.
func (d *draw) inTunnel() string {
	return one(d, "", "GET / HTTP/1.1\r\nHost: y\r\n\r\n", strings.Repeat("x", 1+d.IntN(5000)))
}

func (d *draw) method(body string) string {
	if body != "" {
		return one(d, "POST", "POST", "POST", "PUT", "GET", "DELETE", "BREW")
	}
	return one(d, "GET", "GET", "GET", "HEAD", "OPTIONS", "TRACE", "POST", "DELETE", "BREW")
}

func (d *draw) version() string {
	return one(d, "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0")
}

func (d *draw) destination() string {
	switch d.IntN(10) {
	case 0:
		return one(d, "10.0.0.1:443", "10.0.0.1", "nosuch.example", "[::1]:80", "127.0.0.1:1", "127.0.0.1", "localhost:0", "a b", d.proxy)
	case 1:
		return d.refusing
	case 2:
		return strings.Replace(one(d, d.all...), "127.0.0.1", one(d, "localhost", "LOCALHOST.", "127.0.0.01", "[::ffff:127.0.0.1]"), 1)
	}
	return one(d, d.all...)
}

func (d *draw) path() string {
	return one(d, "", "/", "/", "/", "/a?b=1;c", "/a%2Fb|c", "//a|b", "?", "?q=100%&z=%zz", "/100%", "/early", "/"+strings.Repeat("a", 3000))
}

// user returns a username as clients of the proxy write it.
func (d *draw) user() string {
	session := fmt.Sprintf("-session-%d", d.IntN(200))
	account := one(d, "alice", "alice", "alice-country-de", "bob")
	if d.chance(10) {
		return account + one(d, "?session=x&sessionttl=30", "-session-%41", "-session-", "-sessionttl-x", "?what=x")
	}
	return account + one(d, "", session, session+"-sessionttl-3",
		session+"-sessionmode-strict", session+"-sessionmode-flex-sessionerr-2", session+"-sessionmode-norotate")
}

func (d *draw) credentials() string {
	user := d.user()
	right := proxytest.Credentials(user)
	if d.chance(85) {
		return right
	}
	return one(d, "", right+right,
		"Proxy-Authorization: "+proxytest.Basic(user, "wrong")+"\r\n", "Proxy-Authorization: "+proxytest.Basic("carol", "secret")+"\r\n",
		"Proxy-Authorization: Bearer x\r\n", "Proxy-Authorization: Basic !\r\n")
}

// lines returns some fields that a proxy treats in a way of their own.
func (d *draw) lines() string {
	lines := "Host: x\r\n"
	for range d.IntN(4) * d.IntN(2) {
		lines += one(d, "Connection: keep-alive\r\n", "Connection: close\r\n", "Connection: X-A, Te, Via\r\nX-A: b\r\nTE: trailers\r\n",
			"Connection: Upgrade\r\nUpgrade: websocket\r\n", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
			"Via: 1.1 x, 1.0 y (z)\r\n", "Max-Forwards: 0\r\n", "Proxy-Connection: keep-alive\r\n", "X-Forwarded-For: 10.0.0.1\r\n",
			"Authorization: NTLM TlRMTVNTUAABAAAA\r\n", "Expect: 100-continue\r\n", "Expect: x\r\n", "Range: bytes=0-0\r\n")
	}
	return lines
}

// body returns the fields of a body and the body, or neither.
func (d *draw) body(has bool) (lines, body string) {
	if !has {
		return one(d, "", "", "Content-Length: 0\r\n"), ""
	}
	text := strings.Repeat("A", one(d, 1, 5, 5, 5, 100, 5000, 100_000))
	expect := one(d, "", "", "", "Expect: 100-continue\r\n")
	switch d.IntN(10) {
	case 0, 1, 2, 3:
		return expect + fmt.Sprintf("Content-Length: %d\r\n", len(text)), text
	case 4: // shorter or longer than announced
		return expect + fmt.Sprintf("Content-Length: %d\r\n", len(text)+d.IntN(21)-10), text
	case 5:
		return "Trailer: X-T\r\nTransfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\nX-T: 1\r\n\r\n", len(text), text)
	case 6:
		return "Transfer-Encoding: chunked\r\n", one(d, malformedChunks...)
	}
	return expect + "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(text), text)
}

// malformedChunks begin bodies after which no server may look for another
// request (RFC 9112 §7.1).
var malformedChunks = []string{
	"0x5\r\nAAAAA\r\n0\r\n\r\n", "zz\r\n", "zz\n", "-1\r\n", "+5\r\nAAAAA\r\n0\r\n\r\n", "10000000000000005\r\nAAAAA\r\n0\r\n\r\n",
	"5\r\nAAAAAXX\r\n", "5\r\nAAAAA\r\nzz\r\n", "5;" + strings.Repeat("x", 20_000) + "\r\nAAAAA\r\n0\r\n\r\n",
	"5\r\nAAAAA\r\n0\r\na bad trailer\r\n\r\n", "0\r\n: x\r\n\r\n",
}

// hiddenPath begins the path of requests that no server may serve.
const hiddenPath = "/hidden-"

// hiding returns an input that is not mutated and holds a request, with valid
// credentials, that stands in a body, behind a malformed body, or behind a
// refused CONNECT.
func (d *draw) hiding() input {
	hidden := fmt.Sprintf("GET http://%s%s%d HTTP/1.1\r\nHost: x\r\n%s\r\n", d.good, hiddenPath, d.number, proxytest.Credentials("alice-country-de"))
	address := d.proxy
	var text string
	switch d.IntN(8) {
	case 0: // behind a refused CONNECT; 407 keeps the connection
		text = "CONNECT " + one(d, "10.0.0.1:443", "nosuch.example:443", "127.0.0.1:1", d.refusing) + " HTTP/1.1\r\nHost: x\r\n" +
			proxytest.Credentials(one(d, "alice", "alice-session-1", "bob")) + "\r\n" + hidden
	case 1:
		text = d.socks(one(d, "10.0.0.1:443", "127.0.0.1:1", d.refusing)) + hidden
	case 2, 3:
		address = d.balancer
		hidden = fmt.Sprintf("GET %s%d HTTP/1.1\r\nHost: x\r\n\r\n", hiddenPath, d.number)
		// What follows a malformed body is not hidden here: Caddy wraps the body,
		// and net/http then loses its error if the transport has closed it.
		lines, body := d.inBody(hidden)
		text = "POST / HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n" + body
	default:
		version := "HTTP/1.1\r\n"
		lines, body := d.inBody(hidden)
		if d.chance(40) {
			lines, body = "Transfer-Encoding: chunked\r\n", one(d, malformedChunks...)+hidden
		}
		if !strings.Contains(lines, "chunked") { // which HTTP/1.0 does not have
			version = one(d, version, "HTTP/1.0\r\nConnection: keep-alive\r\n")
		}
		text = "POST http://" + one(d, "", "", "", "u:p@") + one(d, one(d, d.all...), d.refusing, "10.0.0.1", "nosuch.example") +
			"/ " + version + "Host: x\r\n" + d.credentials() + lines + "\r\n" + body
	}
	in := d.client(address, text)
	// As many as there may be: the server is to end the connection.
	in.answers, in.wait = len(text), time.Duration(100+d.IntN(200))*time.Millisecond
	return in
}

// inBody returns a body that holds a request, and the body's fields.
func (d *draw) inBody(request string) (lines, body string) {
	lines = one(d, "", "", "", "Expect: 100-continue\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
	if d.chance(50) {
		return lines + fmt.Sprintf("Content-Length: %d\r\n", len(request)), request
	}
	return lines + "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(request), request)
}
