// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/nettest"

	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

// listen returns a listener with the timeout on a network, closed with the test.
func listen(t *testing.T, network string, timeout time.Duration) *Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "sock")
	}
	inner, err := net.Listen(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = inner.Close() })
	return &Listener{Listener: inner, Timeout: timeout}
}

func TestSilentConnectionIsClosed(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			const timeout = 300 * time.Millisecond
			client, server := conntest.Accept(t, listen(t, network, timeout))
			begin := time.Now()
			_, err := client.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF, "silence must end with a FIN")
			// The kernel's clock has jiffies.
			require.GreaterOrEqual(t, time.Since(begin), timeout-20*time.Millisecond)
			_, err = server.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
		})
	}
}

func TestConnectionStaysOpenDuringOneWayTraffic(t *testing.T) {
	const timeout = 400 * time.Millisecond
	for name, swap := range map[string]bool{"upload": false, "download": true} {
		t.Run(name, func(t *testing.T) {
			client, server := conntest.Accept(t, listen(t, "tcp", timeout))
			from, to := client, server
			if swap {
				from, to = to, from
			}
			tick := time.NewTicker(timeout / 4)
			defer tick.Stop()
			for range 12 { // three timeouts
				<-tick.C
				_, err := from.Write([]byte("x"))
				require.NoError(t, err)
				_, err = io.ReadFull(to, make([]byte, 1))
				require.NoError(t, err)
			}
		})
	}
}

func TestCountedSilenceIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, side := net.Pipe()
		ln := &Listener{Listener: &oneConn{conn: side}, Timeout: 2 * time.Minute}
		conn, err := ln.Accept()
		require.NoError(t, err)
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		for range 10 {
			time.Sleep(2*time.Minute - time.Second)
			_, err := peer.Write([]byte("x"))
			require.NoError(t, err)
		}
		begin := time.Now()
		_, err = peer.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, 2*time.Minute, time.Since(begin))
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	net.Listener
	conn net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) { return l.conn, nil }

func TestAcceptedTCPConnectionIsNotHidden(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("skipped: needs Linux")
	}
	_, server := conntest.Accept(t, listen(t, "tcp", time.Minute))
	require.Implements(t, (*io.ReaderFrom)(nil), server, "sendfile and splice need it")
	require.Implements(t, (*interface{ CloseWrite() error })(nil), server)
	inner, ok := server.(interface{ NetConn() net.Conn })
	require.True(t, ok)
	require.IsType(t, (*net.TCPConn)(nil), inner.NetConn())
}

func TestConnsAreConns(t *testing.T) {
	for name, network := range map[string]string{"kernel clock": "tcp", "counting": "unix"} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				ln := listen(t, network, time.Hour)
				client, server := conntest.Accept(t, ln)
				return client, server, func() {
					_ = client.Close()
					_ = server.Close()
				}, client.SetDeadline(time.Time{})
			})
		})
	}
	t.Run("counting TLS", func(t *testing.T) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			peer, side := net.Pipe()
			ln := &Listener{Listener: &oneConn{conn: statedConn{side}}, Timeout: time.Hour}
			server, err := ln.Accept()
			require.IsType(t, &countingTLSConn{}, server)
			return peer, server, func() {
				_ = peer.Close()
				_ = server.Close()
			}, err
		})
	})
}

// statedConn says that it is TLS. (crypto/tls itself fails nettest: a timeout
// ends its connections.)
type statedConn struct{ net.Conn }

func (statedConn) ConnectionState() (s tls.ConnectionState) { return s }

func TestLongWriteToASlowReaderIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, side := net.Pipe()
		ln := &Listener{Listener: &oneConn{conn: side}, Timeout: time.Minute}
		conn, err := ln.Accept()
		require.NoError(t, err)
		defer conn.Close()
		go func() {
			for { // 32 KiB in 50 s
				time.Sleep(50 * time.Second)
				if _, err := io.CopyN(io.Discard, peer, 32<<10); err != nil {
					return
				}
			}
		}()
		n, err := conn.Write(make([]byte, 1<<20))
		require.NoError(t, err)
		require.Equal(t, 1<<20, n)
		_ = peer.Close()
		time.Sleep(time.Minute)
	})
}

func TestMultipathConnectionCountsForItself(t *testing.T) {
	ln := listen(t, "tcp", time.Hour)
	var d net.Dialer
	d.SetMultipathTCP(true)
	client, err := d.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	server, err := ln.Accept()
	require.NoError(t, err)
	defer server.Close()
	if multipath, err := client.(*net.TCPConn).MultipathTCP(); err != nil || !multipath {
		t.Skip("skipped: needs multipath TCP")
	}
	require.IsType(t, &countingConn{}, server, "the kernel would tell about one of its paths")
}

func TestHalfOfACountedConnectionCanBeClosed(t *testing.T) {
	client, server := conntest.Accept(t, listen(t, "unix", time.Hour))
	require.NoError(t, server.(interface{ CloseWrite() error }).CloseWrite())
	_, err := client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = client.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(server, make([]byte, 1))
	require.NoError(t, err)

	peer, side := net.Pipe()
	defer peer.Close()
	defer side.Close()
	require.ErrorIs(t, (&countingConn{Conn: side}).CloseWrite(), errors.ErrUnsupported)
}

func TestWrapperAfterTLSIsWarnedAboutAtLoad(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer inner.Close()
	core, logs := observer.New(zap.WarnLevel)
	w := &Wrapper{Timeout: caddy.Duration(time.Minute), logger: zap.New(core)}
	w.WrapListener(inner)
	require.Zero(t, logs.Len())
	w.WrapListener(tls.NewListener(inner, nil))
	require.Equal(t, 1, logs.Len())

	_, side := net.Pipe()
	between := w.WrapListener(&oneConn{Listener: inner, conn: statedConn{side}})
	for range 2 {
		conn, err := between.Accept()
		require.NoError(t, err)
		_ = conn.Close()
	}
	require.Equal(t, 2, logs.Len(), "once, when the first connection shows it")
}

func TestUnknownJSONFieldsAreRefused(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	_, err := ctx.LoadModuleByID("caddy.listeners.idle_timeout", []byte(`{"timeout": "2m", "max_request": 3}`))
	require.ErrorContains(t, err, "max_request")
	_, err = ctx.LoadModuleByID("caddy.listeners.idle_timeout", []byte(`{}`))
	require.ErrorContains(t, err, "must be positive")
	for config, want := range map[string]string{
		`{"timeout": "2m", "requests": "counted"}`:                                       "can only be exempt",
		`{"timeout": "2m", "requests": "exempt"}`:                                        "only the listener wrapper of an HTTP server learns of requests",
		`{"timeout": "2m", "max_requests": 3}`:                                           "leave out requests and max_requests",
		`{"timeout": "2m", "max_requests": -1}`:                                          "",
		`{"timeout": "2m", "max_lifetime": -1}`:                                          "max_lifetime is -1ns, it must be positive",
		`{"timeout": "2m", "keepalive": {}}`:                                             "keepalive's idle is 0s, it must be at least 1s",
		`{"timeout": "2m", "keepalive": {"idle": "1s"}}`:                                 "keepalive's interval is 0s, it must be at least 1s",
		`{"timeout": "2m", "keepalive": {"idle": "1s", "interval": "1s", "count": 128}}`: "keepalive's count is 128, it must be 1 to 127",
	} {
		_, err = ctx.LoadModuleByID("caddy.listeners.idle_timeout", []byte(config))
		require.ErrorContains(t, err, want, config)
	}
	for range 2 { // the metrics of a registry are there once
		_, err = ctx.LoadModuleByID("caddy.listeners.idle_timeout", []byte(`{"timeout": "2m", "max_lifetime": "1h"}`))
		require.NoError(t, err)
	}
}

func TestServerBehindTheListenerServesAndCloses(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	})
	for _, name := range []string{"plain", "below tls", "above tls"} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(handler)
			defer server.Close()
			plain := server.Listener
			var client *http.Client
			switch name {
			case "plain":
				server.Listener = &Listener{Listener: plain, Timeout: 300 * time.Millisecond}
				server.Start()
				client = server.Client()
			case "below tls":
				server.Listener = &Listener{Listener: plain, Timeout: 300 * time.Millisecond}
				server.StartTLS()
				client = server.Client()
			case "above tls":
				certified := httptest.NewUnstartedServer(nil)
				certified.StartTLS()
				config := &tls.Config{Certificates: certified.TLS.Certificates}
				client = certified.Client()
				certified.Close()
				server.Listener = &Listener{Listener: tls.NewListener(plain, config), Timeout: 300 * time.Millisecond}
				server.Start()
				server.URL = "https://" + plain.Addr().String()
			}
			defer client.CloseIdleConnections()
			closed := make(chan struct{}, 1)
			client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				var d net.Dialer
				conn, err := d.DialContext(ctx, network, address)
				return &notifyingConn{Conn: conn, closed: closed}, err
			}
			res, err := client.Get(server.URL)
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			_ = res.Body.Close()
			require.Equal(t, "HTTP/1.1", string(body))
			select {
			case <-closed: // the idle keep-alive connection
			case <-time.After(time.Minute):
				t.Fatal("the silent connection was kept")
			}
		})
	}
}

// notifyingConn tells when it ends: by a FIN, or after a close_notify.
type notifyingConn struct {
	net.Conn
	closed chan struct{}
}

func (c *notifyingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.notify()
	}
	return n, err
}

func (c *notifyingConn) Close() error {
	c.notify()
	return c.Conn.Close()
}

func (c *notifyingConn) notify() {
	select {
	case c.closed <- struct{}{}:
	default:
	}
}

func TestWrapperReadsItsLine(t *testing.T) {
	var w Wrapper
	require.NoError(t, w.UnmarshalCaddyfile(caddyfile.NewTestDispenser("idle_timeout 2m")))
	require.Equal(t, 2*time.Minute, time.Duration(w.Timeout))
	require.NoError(t, w.Validate())
	for input, want := range map[string]string{
		"idle_timeout":                             "needs an argument",
		"idle_timeout 0":                           "must be positive",
		"idle_timeout 2m {\n requests\n}":          "needs an argument",
		"idle_timeout 2m {\n max_lifetime 0\n}":    "must be positive",
		"idle_timeout 2m {\n max_requests none\n}": "not a whole number",
		"idle_timeout 2m {\n keepalive 1s\n}":      "needs <idle> <interval> <count>",
		"idle_timeout 2m {\n keepalive 1s x 3\n}":  "not a duration",
		"idle_timeout 2m {\n keepalive 1s 1s x\n}": "not a whole number",
		"idle_timeout 2m {\n other\n}":             "unknown option other",
		"idle_timeout 2m 3m":                       "surplus argument",
	} {
		err := new(Wrapper).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		require.ErrorContains(t, err, want, input)
	}
	require.ErrorContains(t, new(Wrapper).Validate(), "must be positive")

	w = Wrapper{}
	require.NoError(t, w.UnmarshalCaddyfile(caddyfile.NewTestDispenser(
		"idle_timeout 2m {\n requests exempt\n max_lifetime 1h\n max_requests 100\n keepalive 1m 15s 4\n}")))
	require.NoError(t, w.Validate())
	require.Equal(t, Wrapper{
		Timeout: caddy.Duration(2 * time.Minute), Requests: "exempt", MaxLifetime: caddy.Duration(time.Hour), MaxRequests: 100,
		KeepAlive: &KeepAlive{Idle: caddy.Duration(time.Minute), Interval: caddy.Duration(15 * time.Second), Count: 4},
	}, w)
}
