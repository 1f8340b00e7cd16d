// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// streams are the clients of the versions in which a tunnel is a stream.
var streams = map[string]func(t testing.TB, config *tls.Config) http.RoundTripper{
	"HTTP/2": func(t testing.TB, config *tls.Config) http.RoundTripper {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		return transport
	},
	"HTTP/3": func(t testing.TB, config *tls.Config) http.RoundTripper {
		t.Helper()
		transport := &http3.Transport{TLSClientConfig: config.Clone()}
		t.Cleanup(func() { _ = transport.Close() })
		return transport
	},
}

// overStreams runs a test over HTTP/2 and HTTP/3.
func overStreams(t *testing.T, s proxytest.Site, test func(w *proxytest.World, client http.RoundTripper)) {
	t.Helper()
	for name, client := range streams {
		t.Run(name, func(t *testing.T) {
			option, config := proxytest.Certificate(t)
			mine := s
			mine.Server += "\n" + option
			origin := proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, proxytest.HostOf(r.RemoteAddr))
			})
			w := proxytest.NewWorldWith(t, origin, mine)
			test(w, client(t, config))
		})
	}
}

// overStreamsAtOnce is overStreams with one proxy, at which the protocols take
// their time together.
func overStreamsAtOnce(t *testing.T, s proxytest.Site, test func(w *proxytest.World, client http.RoundTripper)) {
	t.Helper()
	option, config := proxytest.Certificate(t)
	s.Server += "\n" + option
	w := proxytest.NewWorldWith(t, "", s)
	for name, client := range streams {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mine := *w
			mine.T = t
			test(&mine, client(t, config))
		})
	}
}

// streamTunnel is a tunnel as its client sees it.
type streamTunnel struct {
	t      testing.TB
	res    *http.Response
	writer *io.PipeWriter
	cancel context.CancelFunc
}

// openStream opens a tunnel with a client of HTTP/2 or HTTP/3.
func openStream(w *proxytest.World, client http.RoundTripper, user, destination string) *streamTunnel {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(w.T.Context(), proxytest.Guard)
	w.T.Cleanup(cancel)
	reader, writer := io.Pipe()
	r := &http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: w.Proxy}, Host: destination,
		Header: http.Header{}, Body: reader, ContentLength: -1,
	}
	if user != "" {
		r.Header.Set("Proxy-Authorization", proxytest.Basic(user, proxytest.PasswordOf(user)))
	}
	res, err := client.RoundTrip(r.WithContext(ctx))
	require.NoError(w.T, err)
	w.T.Cleanup(func() {
		_ = writer.Close()
		_ = res.Body.Close()
	})
	return &streamTunnel{t: w.T, res: res, writer: writer, cancel: cancel}
}

// reset ends the stream without an end. A body that is being read keeps the
// clients from noticing that their context ended.
func (s *streamTunnel) reset() {
	s.cancel()
	_ = s.writer.CloseWithError(context.Canceled)
}

func (s *streamTunnel) send(text string) {
	s.t.Helper()
	_, err := io.WriteString(s.writer, text)
	require.NoError(s.t, err)
}

func (s *streamTunnel) expect(text string) {
	s.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(s.res.Body, got)
	require.NoError(s.t, err, "read %q", got[:n])
	require.True(s.t, text == string(got), "other bytes came than were sent")
}

func (s *streamTunnel) expectEnd() string {
	s.t.Helper()
	all, err := io.ReadAll(s.res.Body)
	require.NoError(s.t, err)
	return string(all)
}

// A2 and B5: the 2xx of a tunnel has no length, and each write leaves at once.
func TestStreamIsATunnel(t *testing.T) {
	s := proxytest.Site{Block: proxytest.Alice + proxytest.FourExits + proxytest.Loopback, Server: "log\nencode gzip"}
	overStreams(t, s, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		target := proxytest.NewPuppet(t, proxytest.Echo)
		c := openStream(w, client, "alice-session-abc", target.Address)
		require.Equal(t, http.StatusOK, c.res.StatusCode)
		require.Greater(t, c.res.ProtoMajor, 1)
		require.NotContains(t, c.res.Header, "Content-Length")
		require.NotContains(t, c.res.Header, "Content-Type")
		for range 3 {
			c.send("ping")
			c.expect("ping")
		}
		text := proxytest.RandomText(2 << 20)
		go func() {
			_, _ = io.WriteString(c.writer, text)
			_ = c.writer.Close() // B2: END_STREAM becomes a FIN
		}()
		require.True(t, text == c.expectEnd(), "other bytes came than were sent")
		proxytest.Eventually(t, "the tunnel's log", func() bool { return len(w.Logs.Lines("tunnel closed")) == 1 })
		require.Len(t, w.Logs.Lines("tunnel closed", proxytest.Fields{
			"level": "info", "account": "alice", "destination": target.Address,
			"sent": 2097164, "received": 2097164, "closed": "finished",
		}), 1)
		proxytest.Eventually(t, "the target's end", func() bool { return target.Open() == 0 })
	})
}

// Sessions are the same over all versions.
func TestStreamsHaveSessions(t *testing.T) {
	s := proxytest.Site{Block: proxytest.Alice + proxytest.FourExits + proxytest.Loopback}
	overStreams(t, s, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		seen := map[string]bool{}
		target := proxytest.ServerOf(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, proxytest.HostOf(conn.RemoteAddr().String())) })
		for range 5 {
			seen[openStream(w, client, "alice-session-abc", target).expectEnd()] = true
		}
		require.Len(t, seen, 1)
	})
}

// B2, the other way: what a target said before it closed arrives, then the end.
func TestStreamEndsWithItsTarget(t *testing.T) {
	text := proxytest.RandomText(300 << 10)
	overStreams(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback}, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		target := proxytest.ServerOf(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, text) })
		c := openStream(w, client, "alice", target)
		require.True(t, text == c.expectEnd(), "other bytes came than were sent")
	})
}

// B2: half of the client's is closed, and the target goes on.
func TestStreamsHalfCloseArrives(t *testing.T) {
	text := proxytest.RandomText(300 << 10)
	overStreams(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback}, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		target := proxytest.ServerOf(t, func(conn *net.TCPConn) {
			all, _ := io.ReadAll(conn)
			_, _ = conn.Write(all)
			_, _ = io.WriteString(conn, text)
		})
		c := openStream(w, client, "alice", target)
		c.send("question")
		require.NoError(t, c.writer.Close())
		require.True(t, "question"+text == c.expectEnd(), "other bytes came than were sent")
	})
}

// B3: a connection that breaks is a reset and no end.
func TestBrokenTargetResetsTheStream(t *testing.T) {
	overStreams(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback}, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		target := proxytest.ServerOf(t, func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "half of it")
			_, _ = io.ReadFull(conn, make([]byte, 4))
			_ = conn.SetLinger(0)
		})
		c := openStream(w, client, "alice", target)
		c.expect("half of it")
		c.send("more")
		_, err := io.ReadAll(c.res.Body)
		require.Error(t, err)
	})
}

// B2 and B3: over HTTP/3 the target may end its half, and the client goes on; a
// target that breaks off is CONNECT_ERROR.
func TestHalvesOfAnHTTP3Stream(t *testing.T) {
	option, config := proxytest.Certificate(t)
	w := proxytest.NewWorldWith(t, "", proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback, Server: option})
	config = config.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	conn, err := quic.DialAddr(t.Context(), w.Proxy, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	client := new(http3.Transport).NewClientConn(conn)
	// The transport's own requests end their half when the answer has ended.
	open := func(serve func(*net.TCPConn)) *http3.RequestStream {
		c, err := client.OpenRequestStream(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(proxytest.Guard)))
		require.NoError(t, c.SendRequestHeader(&http.Request{
			Method: http.MethodConnect, Host: proxytest.ServerOf(t, serve), URL: new(url.URL),
			Header: http.Header{"Proxy-Authorization": {proxytest.Basic("alice", proxytest.AlicePassword)}},
		}))
		res, err := c.ReadResponse()
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		return c
	}

	heard := make(chan string, 1)
	c := open(func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "all I have to say")
		_ = conn.CloseWrite()
		rest, _ := io.ReadAll(conn)
		heard <- string(rest)
	})
	said, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "all I have to say", string(said))
	text := proxytest.RandomText(1 << 20)
	_, err = io.WriteString(c, text)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.True(t, text == <-heard)

	c = open(func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "half of it")
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
	})
	_, err = io.ReadFull(c, make([]byte, len("half of it")))
	require.NoError(t, err)
	_, err = io.WriteString(c, "more")
	require.NoError(t, err)
	_, err = io.ReadAll(c)
	failure, ok := errors.AsType[*http3.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, http3.ErrCodeConnectError, failure.ErrorCode)

	// An answer that is complete stays so, though the target takes no more.
	closed := make(chan struct{})
	c = open(func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, text[:100<<10])
		_ = conn.CloseWrite()
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
		_ = conn.Close()
		close(closed)
	})
	_, err = io.WriteString(c, "x")
	require.NoError(t, err)
	<-closed
	for range 100 { // until nobody wants it any more
		if _, err = io.WriteString(c, "upload"); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	said, err = io.ReadAll(c)
	require.NoError(t, err)
	require.True(t, text[:100<<10] == string(said))
}

// B4: a stream that is reset closes its connection, and no other one.
func TestResetStreamClosesItsOwnTarget(t *testing.T) {
	overStreams(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback}, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		kept, reset := proxytest.NewPuppet(t, proxytest.Echo), proxytest.NewPuppet(t, proxytest.Echo)
		a, b := openStream(w, client, "alice", kept.Address), openStream(w, client, "alice", reset.Address)
		for _, c := range []*streamTunnel{a, b} {
			c.send("ping")
			c.expect("ping")
		}
		b.reset()
		proxytest.Eventually(t, "the target's end", func() bool { return reset.Open() == 0 })
		a.send("ping")
		a.expect("ping")
		require.Equal(t, 1, kept.Open())
	})
}

// B6: Caddy's own idle timeouts do not cut a tunnel; its own does.
func TestQuietStreamHasTheTunnelsTimeout(t *testing.T) {
	const own = 3 * time.Second
	s := proxytest.Site{
		Block:  proxytest.Alice + proxytest.OneExit + proxytest.Loopback + "idle_timeout " + own.String(),
		Global: "servers {\n timeouts {\n read_body_idle 300ms\n write_idle 300ms\n}\n}\n",
	}
	overStreams(t, s, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		target := proxytest.NewPuppet(t, proxytest.Echo)
		counted := conntest.Closed(t, idle.ClosedCollector{}, idle.Tunnels, string(idle.Idle))
		c := openStream(w, client, "alice-session-abc", target.Address)
		c.send("ping")
		c.expect("ping")
		begin := time.Now()
		require.Empty(t, c.expectEnd(), "an end, no reset")
		require.GreaterOrEqual(t, time.Since(begin), own-200*time.Millisecond)
		proxytest.Eventually(t, "the target's end", func() bool { return target.Open() == 0 })
		proxytest.Eventually(t, "the tunnel's log", func() bool {
			return len(w.Logs.Lines("tunnel closed", proxytest.Fields{"sent": 4, "received": 4, "closed": "idle"})) == 1
		})
		require.Equal(t, counted+1, conntest.Closed(t, idle.ClosedCollector{}, idle.Tunnels, string(idle.Idle)))
	})
}

// G1, over streams: a byte now and then keeps a tunnel, whichever way it goes,
// also when the client has closed its half.
func TestTrickleKeepsAStreamOpen(t *testing.T) { //nolint:tparallel // one configuration of Caddy for each process
	const own = 2 * time.Second
	overStreamsAtOnce(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback + "idle_timeout " + own.String()}, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		const bytes = 8
		trickle := func(to io.Writer) {
			tick := time.NewTicker(own / 4)
			defer tick.Stop()
			for range bytes {
				<-tick.C
				if _, err := io.WriteString(to, "x"); err != nil {
					return
				}
			}
		}
		heard := make(chan string, 1)
		listener := proxytest.ServerOf(t, func(conn *net.TCPConn) {
			text, _ := io.ReadAll(conn)
			heard <- string(text)
		})
		speaker := proxytest.ServerOf(t, func(conn *net.TCPConn) { trickle(conn) })
		up, down := openStream(w, client, "alice", listener), openStream(w, client, "alice", speaker)
		go func() {
			trickle(up.writer)
			_ = up.writer.Close()
		}()
		require.NoError(t, down.writer.Close())
		require.Equal(t, strings.Repeat("x", bytes), down.expectEnd())
		require.Equal(t, strings.Repeat("x", bytes), <-heard)
		require.Empty(t, up.expectEnd())
	})
}

// A client that takes nothing does not hold its tunnel for ever.
func TestStreamOfADeafClientEnds(t *testing.T) { //nolint:tparallel // one configuration of Caddy for each process
	s := proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback + "idle_timeout 500ms"}
	overStreamsAtOnce(t, s, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		target := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
			for _, err := conn.Write(make([]byte, 64<<10)); err == nil; _, err = conn.Write(make([]byte, 64<<10)) {
			}
		})
		c := openStream(w, client, "alice", target.Address)
		require.Equal(t, http.StatusOK, c.res.StatusCode)
		proxytest.Eventually(t, "the target's end", func() bool { return target.Open() == 0 })
	})
}

// A7, E1 and H: what is refused is an answer, and the connection goes on.
func TestRefusedStreamIsAnAnswer(t *testing.T) {
	overStreams(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback}, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		for _, c := range []struct {
			user, destination string
			status            int
		}{
			{"", w.Origin, http.StatusProxyAuthRequired},
			{"alice", "10.0.0.1:443", http.StatusForbidden},
			{"alice", "127.0.0.1:0", http.StatusBadRequest},
			{"alice", proxytest.DeadPort(t), http.StatusBadGateway},
			{"alice", w.Origin, http.StatusOK},
		} {
			res := openStream(w, client, c.user, c.destination).res
			require.Equal(t, c.status, res.StatusCode, c.destination)
			require.Equal(t, c.user == "", res.Header.Get("Proxy-Authenticate") != "")
			require.Equal(t, c.status != http.StatusOK, res.Header.Get("Proxy-Status") != "")
		}
	})
}

// G7: nothing is left of streams, however they end.
func TestStreamsLeaveNothingBehind(t *testing.T) {
	overStreams(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback}, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T
		target := proxytest.NewPuppet(t, proxytest.Echo)
		end := func(i int) {
			c := openStream(w, client, "alice", target.Address)
			c.send("ping")
			c.expect("ping")
			if i%2 == 0 {
				c.reset()
				return
			}
			require.NoError(t, c.writer.Close())
			require.Empty(t, c.expectEnd())
		}
		end(0)
		proxytest.Eventually(t, "the target's end", func() bool { return target.Open() == 0 })
		before := runtime.NumGoroutine()
		for i := range 50 {
			end(i)
		}
		proxytest.Eventually(t, "the targets' end", func() bool { return target.Open() == 0 })
		proxytest.Eventually(t, "goroutines as before", func() bool { return runtime.NumGoroutine() <= before+2 })
	})
}

// C8 and C9: browsers send what has no TLS of its own over HTTP/2 with the scheme
// http, but Go's server does not tell the scheme. What might be https must not go
// on without TLS. A request with proxy credentials is refused until it can be
// forwarded: no other handler may serve it, and nothing checked its credentials.
func TestProxyRequestsOverHTTP2Are421(t *testing.T) {
	option, config := proxytest.Certificate(t)
	for name, s := range map[string]proxytest.Site{
		"TLS":              {Server: option},
		"TLS, then SOCKS5": {Server: option, Global: proxytest.Wrapped("", "sticky_socks5").Global},
		"h2c":              {Global: "servers {\nprotocols h1 h2c\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			origin, requests := recording(t)
			s.Block = proxytest.Alice + proxytest.OneExit + proxytest.Loopback
			w := proxytest.NewWorldWith(t, origin, s)
			dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
				if s.Server == "" {
					return new(net.Dialer).DialContext(ctx, network, w.Proxy)
				}
				config := config.Clone()
				config.NextProtos = []string{"h2"}
				return (&tls.Dialer{Config: config}).DialContext(ctx, network, w.Proxy)
			}
			client := &http.Transport{DialContext: dial, Protocols: new(http.Protocols)}
			client.Protocols.SetUnencryptedHTTP2(true) // to be spoken over TLS, too
			t.Cleanup(client.CloseIdleConnections)
			schemes := []string{"http"}
			if s.Server != "" {
				client.DialTLSContext = dial
				client.Protocols.SetHTTP2(true)
				schemes = append(schemes, "https")
			}
			for _, scheme := range schemes {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+origin+"/", http.NoBody)
				require.NoError(t, err)
				r.Header.Set("Proxy-Authorization", proxytest.Basic("alice", proxytest.AlicePassword))
				res, err := client.RoundTrip(r)
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				require.Equal(t, 2, res.ProtoMajor)
				require.Equal(t, http.StatusMisdirectedRequest, res.StatusCode)
				require.Equal(t, "plain http over HTTP/2 or HTTP/3 is not proxied yet\n", string(body))
				require.Equal(t, `caddy; error=http_request_error; details="plain http over HTTP/2 or HTTP/3 is not proxied yet"`, res.Header.Get("Proxy-Status"))

				r.Header.Del("Proxy-Authorization") // a request to the site itself
				res, err = client.RoundTrip(r)
				require.NoError(t, err)
				body, err = io.ReadAll(res.Body)
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				require.Equal(t, "not proxied", string(body))
			}
			require.Empty(t, requests)
		})
	}
}
