// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
)

func init() {
	caddy.RegisterModule(foreign{})
}

// foreign is a transport as a third party may write it: it knows no more than
// http.RoundTripper. It goes nowhere and answers with the upstream's address.
type foreign struct{}

func (foreign) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.test_foreign", New: func() caddy.Module { return new(foreign) }}
}

func (*foreign) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*foreign) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:  http.Header{"X-Seen": {strings.Join(r.Header["Cookie"], "; ")}},
		Body:    io.NopCloser(strings.NewReader(r.URL.Host)),
		Request: r, ContentLength: int64(len(r.URL.Host)),
	}, nil
}

func TestForeignTransport(t *testing.T) {
	s := run(t, "", "reverse_proxy a:1 b:1 c:1 {\nlb_policy sticky shop\ntransport test_foreign\n}")
	seen := make(map[string]bool)
	for range 30 {
		v := s.visitor()
		name := v.reach()
		seen[name] = true
		v.stays(name, "Cookie: theme=dark")
		require.Equal(t, "theme=dark", v.get("Cookie: theme=dark").header.Get("X-Seen"))
	}
	require.Len(t, seen, 3)
}

// listen returns a listener that ends with the test.
func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// serveFastCGI lets an application speak FastCGI.
func serveFastCGI(t *testing.T, a *app) (address string) {
	t.Helper()
	ln := listen(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = fcgi.Serve(ln, a)
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-ended
	})
	return ln.Addr().String()
}

// serveH2C lets an application speak HTTP/2 without TLS, and nothing else.
func serveH2C(t *testing.T, a *app) (address string) {
	t.Helper()
	server := httptest.NewUnstartedServer(a)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// serveTLS lets an application speak HTTP/1 and HTTP/2 over TLS.
func serveTLS(t *testing.T, a *app) (address string) {
	t.Helper()
	server := httptest.NewUnstartedServer(a)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// serveHTTP3 lets an application speak HTTP/3.
func serveHTTP3(t *testing.T, a *app) (address string) {
	t.Helper()
	certified := httptest.NewTLSServer(http.NotFoundHandler())
	certified.Close()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http3.Server{
		Handler:   a,
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: certified.TLS.Certificates}),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(conn)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
		_ = conn.Close()
	})
	return conn.LocalAddr().String()
}

func TestTransportsOfCaddy(t *testing.T) {
	for _, test := range []struct {
		name, transport string
		serve           func(t *testing.T, a *app) (address string)
		proto           string
	}{
		{"fastcgi", "transport fastcgi {\nroot /srv\n}", serveFastCGI, "HTTP/1.1"},
		{"h2c", "transport http {\nversions h2c\n}", serveH2C, "HTTP/2.0"},
		{"HTTP/2", "transport http {\ntls_insecure_skip_verify\n}", serveTLS, "HTTP/2.0"},
		{"HTTP/1 over TLS", "transport http {\ntls_insecure_skip_verify\nversions 1.1\n}", serveTLS, "HTTP/1.1"},
		{"HTTP/3", "transport http {\ntls_insecure_skip_verify\nversions 3\n}", serveHTTP3, "HTTP/3.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			apps, line := make(map[string]*app), "reverse_proxy"
			for _, name := range []string{"a", "b", "c"} {
				a := &app{t: t, name: name}
				a.answers(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Proto", r.Proto)
					w.Header().Add("Set-Cookie", "theme=dark")
					if body, err := io.ReadAll(r.Body); err != nil || r.Method == http.MethodPost && string(body) != "order" {
						w.WriteHeader(http.StatusBadRequest)
					}
					_, _ = io.WriteString(w, a.name)
				})
				line += " " + test.serve(t, a)
				apps[name] = a
			}
			s := run(t, "", line+" {\nlb_policy sticky shop\n"+test.transport+"\n}")
			seen := make(map[string]bool)
			for range 20 {
				v := s.visitor()
				first := v.get()
				require.Equal(t, http.StatusOK, first.status)
				require.Len(t, first.cookies(), 2, "the application's and ours")
				require.Equal(t, test.proto, first.header.Get("X-Proto"))
				seen[first.body] = true
				for range 3 {
					got, err := v.send(http.MethodPost, "/", strings.NewReader("order"))
					require.NoError(t, err)
					require.Equal(t, http.StatusOK, got.status)
					require.Equal(t, first.body, got.body)
					require.Equal(t, []string{"theme=dark"}, got.cookies())
					require.Equal(t, []string{"theme=dark"}, apps[got.body].last()["Cookie"])
				}
			}
			require.Len(t, seen, 3)
		})
	}
}

func TestWebSocketThroughThePolicy(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	for _, a := range apps {
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			websocket.Handler(func(ws *websocket.Conn) {
				_, _ = io.WriteString(ws, a.name)
				_, _ = io.Copy(ws, ws)
			}).ServeHTTP(w, r)
		})
	}
	s := balance(t, apps, "lb_policy sticky shop")
	// open returns the application's name, and the cookies that came with the 101.
	open := func(cookie string) (string, []string) {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		require.NoError(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", cookie)
		require.NoError(t, err)
		reader := bufio.NewReader(conn)
		res, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
		frame := make([]byte, 3) // a text of one byte
		_, err = io.ReadFull(reader, frame)
		require.NoError(t, err)
		require.Equal(t, []byte{0x81, 1}, frame[:2])
		return string(frame[2]), res.Header["Set-Cookie"]
	}
	seen := make(map[string]bool)
	for range 20 {
		name, cookies := open("")
		require.Len(t, cookies, 1, "set on the 101")
		seen[name] = true
		pair, _, _ := strings.Cut(cookies[0], ";")
		for range 3 {
			again, more := open("Cookie: " + pair + "\r\n")
			require.Equal(t, name, again)
			require.Empty(t, more)
		}
	}
	require.Len(t, seen, 3)
}

func TestServerSentEventsFlowAsTheyAreSent(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	next, ended := make(chan struct{}), make(chan struct{})
	for _, a := range apps {
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			defer func() { ended <- struct{}{} }()
			w.Header().Set("Content-Type", "text/event-stream")
			for {
				_, _ = io.WriteString(w, "data: "+a.name+"\n\n")
				w.(http.Flusher).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		})
	}
	s := balance(t, apps, "lb_policy sticky shop")
	v := s.visitor()
	v.client.Timeout = 0
	first := ""
	for i := range 3 {
		res, err := v.client.Get(s.url)
		require.NoError(t, err)
		events := bufio.NewReader(res.Body)
		for range 5 {
			line, err := events.ReadString('\n')
			require.NoError(t, err)
			_, err = events.ReadString('\n')
			require.NoError(t, err)
			if first == "" {
				first = line
			}
			require.Equal(t, first, line)
			next <- struct{}{} // the event was seen before the next one was made
		}
		require.NoError(t, res.Body.Close())
		<-ended // else it might take the next one's turn
		require.Len(t, res.Header["Set-Cookie"], map[bool]int{true: 1}[i == 0])
	}
}
