// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package forward_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// ending is a way in which a tunnel ends.
type ending struct {
	name        string
	destination func(*net.TCPConn)     // what the destination does
	client      func(clientConn) error // what the client does in the open tunnel
	refuses     bool                   // the tunnel may not come about
}

// clientConn is a client's connection to the proxy, plain or with TLS.
type clientConn interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

type secureConn struct{ *tls.Conn }

func (c secureConn) SetLinger(seconds int) error {
	return c.NetConn().(*net.TCPConn).SetLinger(seconds)
}

func hear(conn *net.TCPConn) { _, _ = io.ReadFull(conn, make([]byte, 4)) }

func say(conn io.Writer) error {
	_, err := io.WriteString(conn, "ping")
	return err
}

func saySome(conn clientConn) error {
	_ = say(conn)
	_, _ = io.Copy(io.Discard, conn)
	return nil
}

func exchange(conn clientConn) error {
	if err := say(conn); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 4))
	return err
}

func listen(conn clientConn) error {
	_, err := io.Copy(io.Discard, conn)
	return err
}

func reset(conn *net.TCPConn) {
	hear(conn)
	_ = conn.SetLinger(0)
}

func lecture(conn *net.TCPConn) {
	_, _ = conn.Write(make([]byte, 1<<20))
	proxytest.Hang(conn)
}

// endings are those that somebody brings about.
var endings = []ending{
	{name: "the target closes", destination: hear, client: saySome},
	{name: "the target resets", destination: reset, client: saySome},
	{name: "the target resets at once", refuses: true, destination: func(conn *net.TCPConn) { _ = conn.SetLinger(0) }, client: saySome},
	{name: "the client closes", destination: proxytest.Echo, client: exchange},
	{name: "the client closes at once", destination: proxytest.Echo, client: func(clientConn) error { return nil }},
	{name: "the client resets", destination: proxytest.Echo, client: func(conn clientConn) error {
		_ = conn.SetLinger(0)
		return exchange(conn)
	}},
	{name: "the client has heard enough", destination: lecture, client: func(conn clientConn) error {
		_, err := io.CopyN(io.Discard, conn, 100_000)
		return err
	}},
	{name: "the client closes its half first", destination: proxytest.Echo, client: func(conn clientConn) error {
		if err := say(conn); err != nil {
			return err
		}
		_ = conn.CloseWrite()
		text, err := io.ReadAll(conn)
		if err == nil && string(text) != "ping" {
			err = fmt.Errorf("read %q", text)
		}
		return err
	}},
	{name: "the target closes its half first", destination: func(conn *net.TCPConn) { _ = conn.CloseWrite(); proxytest.Hang(conn) },
		client: func(conn clientConn) error {
			if err := listen(conn); err != nil {
				return err
			}
			return say(conn)
		}},
	{name: "nobody is there", refuses: true},
}

// silences are ended by the idle timeout. A target that is to stay silent when it
// has read all waits for release.
func silences(release <-chan struct{}) []ending {
	return []ending{
		{name: "both are silent", destination: proxytest.Hang, client: listen},
		{name: "the client has closed its half", destination: func(conn *net.TCPConn) { proxytest.Hang(conn); <-release }, client: func(conn clientConn) error {
			if err := conn.CloseWrite(); err != nil {
				return err
			}
			return listen(conn)
		}},
	}
}

// repetitions is n in the long run, and a tenth of it otherwise.
func repetitions(n int) int {
	if os.Getenv("STICKY_LONG") == "1" {
		return n / proxytest.Slowdown
	}
	return n / 10
}

// G7: however tunnels end, nothing is left of them. With the tests below, these
// are 10,000 tunnels in the long run.
func TestTunnelsLeaveNothingBehind(t *testing.T) {
	dies := func(how func(*net.TCPConn)) func(t *testing.T) string {
		return func(t *testing.T) string {
			t.Helper()
			return "exit http://" + proxytest.NewPuppet(t, func(conn *net.TCPConn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
					how(conn)
				}
			}).Address
		}
	}
	direct := func(*testing.T) string { return proxytest.OneExit }
	proxy := func(t *testing.T) string {
		t.Helper()
		return "exit http://" + proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{}, nil)).Address
	}
	socks := func(t *testing.T) string {
		t.Helper()
		return "exit socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{})).Address
	}
	exitDies := []ending{{name: "the exit dies", refuses: true, destination: proxytest.Echo, client: saySome}}
	for name, kind := range map[string]struct {
		exit    func(t *testing.T) string
		endings []ending
		timeout string
		secure  bool
		tunnels int
	}{
		"direct":              {exit: direct, endings: endings, tunnels: 3000},
		"direct, TLS":         {exit: direct, endings: endings, tunnels: 1000, secure: true},
		"http":                {exit: proxy, endings: endings, tunnels: 1000},
		"socks5":              {exit: socks, endings: endings, tunnels: 1000},
		"silent":              {exit: direct, tunnels: 800, timeout: "400ms"},
		"silent, TLS":         {exit: direct, tunnels: 200, timeout: "400ms", secure: true},
		"the exit closes":     {exit: dies(hear), endings: exitDies, tunnels: 500},
		"the exit resets":     {exit: dies(reset), endings: exitDies, tunnels: 500},
		"the exit never says": {exit: dies(func(conn *net.TCPConn) { _ = conn.SetLinger(0) }), endings: exitDies, tunnels: 500},
	} {
		t.Run(name, func(t *testing.T) {
			s := proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + kind.exit(t), Level: "INFO"}
			release := make(chan struct{})
			if kind.timeout != "" {
				kind.endings = silences(release)
				s.Block += "\nidle_timeout " + kind.timeout
			}
			var config *tls.Config
			if kind.secure {
				s.Server, config = proxytest.Certificate(t)
			}
			w := proxytest.NewWorldWith(t, "", s)
			destinations := make([]string, len(kind.endings))
			for i, e := range kind.endings {
				if e.destination == nil {
					destinations[i] = proxytest.DeadPort(t)
					continue
				}
				destinations[i] = proxytest.ServerOf(t, e.destination)
			}
			// What is made once, such as the poller's files, is no leak.
			require.NoError(t, endTunnel(w, config, destinations[0], kind.endings[0]))
			before := settled(t)
			const batch = 200
			for left := repetitions(kind.tunnels); left > 0; left -= batch {
				var wg sync.WaitGroup
				for n := range min(left, batch) {
					i := n % len(kind.endings)
					wg.Go(func() {
						if err := endTunnel(w, config, destinations[i], kind.endings[i]); err != nil {
							t.Errorf("%s: %v", kind.endings[i].name, err)
						}
					})
				}
				wg.Wait()
			}
			close(release)
			before.expect(t)
		})
	}
}

// severalTunnels opens this many tunnels to a destination.
func severalTunnels(w *proxytest.World, n int, user, destination string) []*proxytest.Wire {
	w.T.Helper()
	tunnels := make([]*proxytest.Wire, n)
	for i := range tunnels {
		tunnels[i] = w.Tunnel(user, destination)
	}
	return tunnels
}

func closeAll(tunnels []*proxytest.Wire) {
	for _, c := range tunnels {
		c.Close()
	}
}

// G6 and G7: a reload that takes away an account and an exit leaves nothing of
// their tunnels, once their grace is over; of those that it keeps, nothing is left
// when they end.
func TestReloadedTunnelsLeaveNothingBehind(t *testing.T) {
	const exits = "exit direct://127.0.0.11\nexit direct://127.0.0.12\n"
	w := proxytest.NewWorldWith(t, "", proxytest.Site{Block: proxytest.Alice + proxytest.Bob + exits + proxytest.Loopback, Level: "INFO"})
	target := proxytest.NewPuppet(t, proxytest.Echo)
	w.Tunnel("alice", target.Address).Close()
	w.Tunnel("bob", target.Address).Close()
	proxytest.Eventually(t, "their end", func() bool { return target.Open() == 0 })
	require.NoError(t, w.Reload(proxytest.Alice+proxytest.Bob+exits+proxytest.Loopback+"ttl 14m"))
	before := settled(t)
	n := repetitions(500)
	hers, his := severalTunnels(w, n, "alice", target.Address), severalTunnels(w, n, "bob", target.Address)
	require.NoError(t, w.Reload(proxytest.Alice+proxytest.OneExit+proxytest.Loopback))
	for _, c := range his {
		require.Empty(t, c.ExpectEnd())
	}
	closeAll(his)
	// Half of hers were at the exit that is gone.
	proxytest.Eventually(t, "the end of the tunnels of the gone exit", func() bool { return target.OpenFrom("127.0.0.12") == 0 })
	left := 0
	for _, c := range hers {
		if c.Alive() {
			left++
		}
	}
	require.Equal(t, target.Open(), left)
	require.Positive(t, left)
	closeAll(hers)
	require.NoError(t, w.Reload(proxytest.Alice+proxytest.Bob+exits+proxytest.Loopback+"ttl 14m"))
	before.expect(t)
}

// G6 and G7: a Caddy that is stopped within its process leaves tunnels to their
// idle timeout, and then nothing.
func TestTunnelsOfAStoppedCaddyLeaveNothingBehind(t *testing.T) {
	target := proxytest.NewPuppet(t, proxytest.Hang)
	lines := proxytest.Alice + proxytest.OneExit + proxytest.Loopback + "idle_timeout "
	w := proxytest.NewWorldWith(t, "", proxytest.Site{Block: lines + "1s", Level: "INFO"})
	w.Tunnel("alice", target.Address).ExpectEnd()
	require.NoError(t, caddy.Stop())
	before := settled(t)
	require.NoError(t, w.Reload(lines+"3s"))
	tunnels := severalTunnels(w, repetitions(500), "alice", target.Address)
	require.NoError(t, caddy.Stop())
	for _, c := range tunnels {
		require.Empty(t, c.ExpectEnd())
	}
	closeAll(tunnels)
	before.expect(t)
}

// G7, where tunnels are streams of HTTP/2 and HTTP/3.
func TestStreamsOfEveryEndLeaveNothingBehind(t *testing.T) {
	overStreams(t, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback + "idle_timeout 1s", Level: "INFO"}, func(w *proxytest.World, client http.RoundTripper) {
		t := w.T.(*testing.T)
		targets := map[string]*proxytest.Puppet{"echo": proxytest.NewPuppet(t, proxytest.Echo), "close": proxytest.NewPuppet(t, hear), "reset": proxytest.NewPuppet(t, reset), "hang": proxytest.NewPuppet(t, proxytest.Hang)}
		open := func(target string) *streamTunnel {
			c := openStream(w, client, "alice", targets[target].Address)
			require.Equal(t, http.StatusOK, c.res.StatusCode)
			return c
		}
		ends := []func(){
			func() { // the target closes
				c := open("close")
				c.send("ping")
				require.Empty(t, c.expectEnd())
				_ = c.writer.Close()
			},
			func() { // the target resets
				c := open("reset")
				c.send("ping")
				_, err := io.ReadAll(c.res.Body)
				require.Error(t, err)
				_ = c.writer.Close()
			},
			func() { // the client closes its half
				c := open("echo")
				c.send("ping")
				c.expect("ping")
				require.NoError(t, c.writer.Close())
				require.Empty(t, c.expectEnd())
			},
			func() { // the client resets
				c := open("echo")
				c.send("ping")
				c.expect("ping")
				c.reset()
			},
			func() { // nobody is there
				c := openStream(w, client, "alice", "127.0.0.1:1")
				require.Equal(t, http.StatusBadGateway, c.res.StatusCode)
				_ = c.writer.Close()
				_ = c.res.Body.Close()
			},
		}
		all := func() {
			for _, end := range ends {
				end()
			}
		}
		ended := func() {
			proxytest.Eventually(t, "the targets' end", func() bool {
				for _, target := range targets {
					if target.Open() > 0 {
						return false
					}
				}
				return true
			})
		}
		all()
		ended()
		before := settled(t)
		for range repetitions(80) {
			all()
		}
		var silent []*streamTunnel
		for range repetitions(100) {
			silent = append(silent, open("hang"))
		}
		for _, c := range silent {
			_, _ = io.ReadAll(c.res.Body)
			_ = c.writer.Close()
		}
		ended()
		before.expect(t)
	})
}

// endTunnel opens a tunnel, with TLS if there is a configuration, and lets it end.
func endTunnel(w *proxytest.World, config *tls.Config, destination string, e ending) error {
	c, err := net.Dial("tcp", w.Proxy)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(proxytest.Guard)); err != nil {
		return err
	}
	conn := clientConn(c.(*net.TCPConn))
	if config != nil {
		conn = secureConn{tls.Client(c, config)}
		defer conn.Close()
	}
	if _, err := io.WriteString(conn, proxytest.Connect("alice", destination)); err != nil {
		return err
	}
	// One byte at a time: what is behind the head is the tunnel's.
	res, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{conn}, 16), &http.Request{Method: http.MethodConnect})
	switch {
	case err != nil:
		return err
	case e.refuses && res.StatusCode == http.StatusBadGateway:
		return nil
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("CONNECT: %s", res.Status)
	}
	return e.client(conn)
}

type oneByOne struct{ io.Reader }

func (r oneByOne) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }

// held is what this process holds of the system.
type held struct{ files, goroutines int }

func holds(t *testing.T) held {
	t.Helper()
	// The pipes that io.Copy of this test's servers keeps for the next splice are
	// in a sync.Pool, which gives them up to the collector.
	runtime.GC()
	entries, err := os.ReadDir("/proc/self/fd") // sockets and pipes among them
	require.NoError(t, err)
	return held{len(entries), runtime.NumGoroutine()}
}

// expect waits until there is no more than before.
func (before held) expect(t *testing.T) {
	t.Helper()
	var now held
	for deadline := time.Now().Add(proxytest.Guard); time.Now().Before(deadline); {
		if now = holds(t); now.files <= before.files && now.goroutines <= before.goroutines {
			return
		}
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("there were %+v, and now there are %+v:\n%s", before, now, stacks[:runtime.Stack(stacks, true)])
}

// settled returns what is held when nothing ends any more.
func settled(t *testing.T) held {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last held
	calm := 0
	for deadline := time.Now().Add(proxytest.Guard); calm < 10; <-tick.C {
		require.True(t, time.Now().Before(deadline), "files and goroutines come and go")
		now := holds(t)
		if calm++; now != last {
			calm = 0
		}
		last = now
	}
	return last
}
