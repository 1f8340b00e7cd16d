// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/websocket"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

// Of RFC 6455, with FIN where they have it here.
const (
	wsBinaryPart = 0x02
	wsLastPart   = 0x80
	wsText       = 0x81
	wsClose      = 0x88
	wsPing       = 0x89
	wsPong       = 0x8a

	going1001 = "\x03\xe9"
)

// socket is one end of a WebSocket, which the test plays by hand.
type socket struct {
	io.ReadWriteCloser
	masks  bool
	r      *bufio.Reader
	writes sync.Mutex
	pings  atomic.Int64
	mute   bool // answers no Pings
}

func newSocket(rwc io.ReadWriteCloser, masks bool) *socket {
	return &socket{ReadWriteCloser: rwc, masks: masks, r: bufio.NewReader(rwc)}
}

func (s *socket) send(first byte, payload []byte) error {
	var mask byte
	if s.masks {
		mask = 0x80
	}
	b := []byte{first, mask | 127}
	if len(payload) < 126 {
		b[1] = mask | byte(len(payload))
	} else {
		b = binary.BigEndian.AppendUint64(b, uint64(len(payload)))
	}
	if s.masks {
		b = append(b, 0, 0, 0, 0) // a mask that changes nothing
	}
	s.writes.Lock()
	defer s.writes.Unlock()
	_, err := s.Write(append(b, payload...))
	return err
}

// next returns the next frame but for Pings, which it answers.
func (s *socket) next() (first byte, payload []byte, err error) {
	for {
		if first, payload, err = s.read(); err != nil || first != wsPing {
			return first, payload, err
		}
		s.pings.Add(1)
		if !s.mute {
			_ = s.send(wsPong, payload)
		}
	}
}

func (s *socket) read() (first byte, payload []byte, err error) {
	var head [14]byte
	if _, err = io.ReadFull(s.r, head[:2]); err != nil {
		return 0, nil, err
	}
	size, length := 0, uint64(head[1]&0x7f)
	switch length {
	case 126:
		size = 2
	case 127:
		size = 8
	}
	long := head[2 : 2+size]
	if _, err = io.ReadFull(s.r, long); err != nil {
		return 0, nil, err
	}
	if size > 0 {
		length = binary.BigEndian.Uint64(append(make([]byte, 8-size, 8), long...))
	}
	if masked := head[1]&0x80 != 0; masked == s.masks {
		return 0, nil, fmt.Errorf("frame %x is masked: %v", head[0], masked)
	}
	key := head[10:14]
	if !s.masks {
		if _, err = io.ReadFull(s.r, key); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(s.r, payload)
	for i := range payload {
		if !s.masks {
			payload[i] ^= key[i%4]
		}
	}
	return head[0], payload, err
}

// wsSite is a Caddy with websocket_timeouts before upstreams of the test.
type wsSite struct {
	plain, secure string
	sockets       chan *socket // which the upstream got
	opening       sync.Mutex   // held from a client's request until its socket is received
}

func newSite(t *testing.T, options string, echo bool) *wsSite {
	t.Helper()
	site := &wsSite{sockets: make(chan *socket, 10)}
	handler := http.Handler(http.HandlerFunc(site.accept))
	if echo {
		handler = wsEcho
	}
	upstream := httptest.NewServer(handler)
	t.Cleanup(upstream.Close)
	site.start(t, options, upstream.Listener.Addr().String())
	return site
}

var wsEcho = websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }}

// start starts its Caddy, before this upstream.
func (site *wsSite) start(t *testing.T, options, upstream string) {
	t.Helper()
	// This is what Caddy needs for WebSockets over HTTP/2.
	s := program.StartWith(t, t.TempDir(), []string{"GODEBUG=http2xconnect=1"})
	ports := program.FreePorts(t, 2)
	site.plain, site.secure = fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	require.NoError(t, s.Load(program.AsCaddyfile, fmt.Sprintf(`{
	admin %s
	auto_https disable_redirects
	skip_install_trust
	storage_clean_interval off
	local_certs
	servers {
		timeouts { # which Caddy has for streams of HTTP/2, a minute long: they are lifted
			read_body_idle 300ms
			write_idle 300ms
		}
	}
}
http://localhost:%d, https://localhost:%d {
	log
	websocket_timeouts {
		%s
	}
	reverse_proxy %s
}
`, s.Admin, ports[0], ports[1], options, upstream)))
	require.Eventually(t, func() bool { // until Caddy has its certificate
		conn, err := tls.Dial("tcp", site.secure, wsTLS)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, guard, 50*time.Millisecond)
}

func (site *wsSite) accept(w http.ResponseWriter, r *http.Request) {
	accepted := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	w.Header().Set("Sec-Websocket-Accept", base64.StdEncoding.EncodeToString(accepted[:]))
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "websocket")
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		site.sockets <- newSocket(conn, false)
	}
}

var wsTLS = &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}

// ways are how a client comes by a WebSocket.
var ways = map[string]func(t *testing.T, site *wsSite) io.ReadWriteCloser{
	"HTTP/1": func(t *testing.T, site *wsSite) io.ReadWriteCloser {
		t.Helper()
		conn, err := net.Dial("tcp", site.plain)
		require.NoError(t, err)
		return upgraded(t, conn)
	},
	"HTTP/1 and TLS": func(t *testing.T, site *wsSite) io.ReadWriteCloser {
		t.Helper()
		conn, err := tls.Dial("tcp", site.secure, wsTLS)
		require.NoError(t, err)
		return upgraded(t, conn)
	},
	"HTTP/2": func(t *testing.T, site *wsSite) io.ReadWriteCloser {
		t.Helper()
		r, w := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://"+site.secure+"/", r)
		require.NoError(t, err)
		req.Host = "localhost"
		req.Header.Set(":protocol", "websocket")
		req.Header.Set("Sec-Websocket-Version", "13")
		transport := &http2.Transport{TLSClientConfig: wsTLS} //nolint:staticcheck // net/http refuses the field :protocol
		t.Cleanup(transport.CloseIdleConnections)             //nolint:staticcheck // as above
		res, err := transport.RoundTrip(req)                  //nolint:staticcheck // as above
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		t.Cleanup(func() { _ = w.Close(); _ = res.Body.Close() })
		return struct {
			io.ReadCloser
			io.Writer
		}{res.Body, w}
	},
}

func upgraded(t *testing.T, conn net.Conn) net.Conn {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(guard)))
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReaderSize(conn, 16) // takes nothing behind the head
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, " 101 ")
	for line != "\r\n" {
		line, err = r.ReadString('\n')
		require.NoError(t, err)
	}
	return &rest{conn, r}
}

// rest reads what a buffer holds first.
type rest struct {
	net.Conn
	r io.Reader
}

func (c *rest) Read(p []byte) (int, error) { return c.r.Read(p) }

// open opens a WebSocket and returns both ends.
func (site *wsSite) open(t *testing.T, way string) (client, server *socket) {
	t.Helper()
	site.opening.Lock()
	defer site.opening.Unlock()
	client = newSocket(ways[way](t, site), true)
	select {
	case server = <-site.sockets:
	case <-time.After(guard):
		t.Fatal("the upstream got no WebSocket")
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

func TestSilentWebSocketGets1001AtBothEnds(t *testing.T) {
	t.Parallel()
	site := newSite(t, "idle 1s", false)
	for way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			client, server := site.open(t, way)
			require.NoError(t, client.send(wsText, []byte("hello")))
			first, payload, err := server.next()
			require.NoError(t, err)
			require.EqualValues(t, wsText, first)
			require.Equal(t, "hello", string(payload))
			begin := time.Now()
			for _, end := range []*socket{server, client} {
				first, payload, err = end.next()
				require.NoError(t, err)
				require.EqualValues(t, wsClose, first)
				require.Equal(t, going1001, string(payload))
				require.NoError(t, end.send(wsClose, payload))
			}
			require.GreaterOrEqual(t, time.Since(begin), 900*time.Millisecond)
			_ = server.Close() // as servers do first
			_, _, err = client.next()
			require.ErrorIs(t, err, io.EOF, "TLS says so by close_notify, HTTP/2 by END_STREAM")
		})
	}
}

func TestQuietWebSocketIsKeptAndDeadEndIsFound(t *testing.T) {
	t.Parallel()
	site := newSite(t, "ping 500ms", false)
	for way := range ways {
		for _, dead := range []string{"client", "server"} {
			t.Run(way+", then the "+dead+" dies", func(t *testing.T) {
				t.Parallel()
				client, server := site.open(t, way)
				lost, living := client, server
				if dead == "server" {
					lost, living = server, client
				}
				// The one that dies answers five Pings before.
				answered := make(chan error, 1)
				go func() {
					for range 5 {
						first, payload, err := lost.read()
						if err == nil && first != wsPing {
							err = fmt.Errorf("got frame %x", first)
						}
						if err == nil {
							err = lost.send(wsPong, payload)
						}
						if err != nil {
							answered <- err
							return
						}
					}
					answered <- lost.send(wsText, []byte("last words"))
				}()
				first, payload, err := living.next()
				require.NoError(t, err)
				require.EqualValues(t, wsText, first, "no Pong to us may pass")
				require.Equal(t, "last words", string(payload))
				require.NoError(t, <-answered)
				require.GreaterOrEqual(t, living.pings.Load(), int64(3))
				first, payload, err = living.next()
				require.NoError(t, err)
				require.EqualValues(t, wsClose, first)
				require.Equal(t, going1001, string(payload))
			})
		}
	}
}

func TestLargeFragmentedMessagesArriveBetweenPings(t *testing.T) { //nolint:tparallel // megabytes, one way after the other
	t.Parallel()
	site := newSite(t, "ping 1s", false)
	message := make([]byte, 24<<20)
	_, _ = rand.Read(message)
	for way := range ways {
		for _, from := range []string{"client", "server"} {
			t.Run(way+" from the "+from, func(t *testing.T) {
				sender, receiver := site.open(t, way)
				if from == "server" {
					sender, receiver = receiver, sender
				}
				go func() {
					for { // answers Pings
						if _, _, err := sender.next(); err != nil {
							return
						}
					}
				}()
				go func() {
					opcode := byte(wsBinaryPart)
					for left := message; len(left) > 0; opcode = 0 {
						n := min(700_001, len(left))
						if len(left) == n {
							opcode |= wsLastPart
						}
						if sender.send(opcode, left[:n]) != nil {
							return
						}
						left = left[n:]
						if len(left) < len(message)/2 {
							time.Sleep(120 * time.Millisecond) // two seconds in all, so that Pings have their time
						}
					}
				}()
				var got []byte
				for {
					first, payload, err := receiver.next()
					require.NoError(t, err)
					require.Less(t, first&^wsLastPart, byte(3), "got frame %x", first)
					got = append(got, payload...)
					if first&wsLastPart != 0 {
						break
					}
				}
				require.True(t, bytes.Equal(message, got))
				require.Positive(t, receiver.pings.Load(), "it said nothing for long")
			})
		}
	}
}

// Another implementation at both ends.
func TestWebSocketLibraryIsContent(t *testing.T) {
	t.Parallel()
	site := newSite(t, "idle 1m\nping 200ms", true)
	for _, way := range []string{"ws", "wss"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			config, err := websocket.NewConfig("ws://"+site.plain, "http://localhost")
			if way == "wss" {
				config, err = websocket.NewConfig("wss://"+site.secure, "https://localhost")
			}
			require.NoError(t, err)
			config.Location.Host = "localhost"
			var conn net.Conn
			if way == "ws" {
				conn, err = net.Dial("tcp", site.plain)
			} else {
				conn, err = tls.Dial("tcp", site.secure, wsTLS)
			}
			require.NoError(t, err)
			client, err := websocket.NewClient(config, conn)
			require.NoError(t, err)
			defer client.Close()
			require.NoError(t, client.SetDeadline(time.Now().Add(guard)))
			for i := range 3 {
				sent := bytes.Repeat([]byte{byte('a' + i)}, 100_000)
				_, err = client.Write(sent)
				require.NoError(t, err)
				got := make([]byte, len(sent))
				quiet := time.AfterFunc(time.Second, func() { _, _ = client.Write([]byte("tick")) })
				_, err = io.ReadFull(client, got)
				require.NoError(t, err)
				require.True(t, bytes.Equal(sent, got))
				tick := make([]byte, 4)
				_, err = io.ReadFull(client, tick) // five intervals later
				require.NoError(t, err)
				require.Equal(t, "tick", string(tick))
				quiet.Stop()
			}
		})
	}
}
