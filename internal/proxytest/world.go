// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package proxytest is what tests of the forward proxy share: a proxy in a Caddy of
// the test's process, a client's connection to it, and the servers behind it.
//
// NewWorld starts a proxy with lines of a sticky_proxy block and an origin that
// answers with the address it sees, so that a test sees through which exit a
// request left. Dial gives a Wire, a connection of which a test sees each byte. A
// Puppet is an exit, a target or an origin that does what the test says. A Pair
// has two exits that can fail, an Egress is a site with network_proxy sticky, a
// Provider is a gateway, Names is a DNS server.
//
// TestMain of each package that uses it calls Main.
//
// It imports the root package, so only external tests import it.
package proxytest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // with the modules of its HTTP server
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-sticky/caddy-sticky" // and ours
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

// World is a proxy in a Caddy of this process, and an origin that answers with
// the address it sees.
type World struct {
	T      testing.TB
	Proxy  string // host:port
	Origin string // host:port
	Logs   *Logs

	// Reload gives the proxy another block.
	Reload func(block string) error

	Config *Site            // with which it started
	Load   func(Site) error // gives Caddy another site
}

// NewWorld starts a proxy with these lines in its block.
func NewWorld(t testing.TB, lines ...string) *World {
	t.Helper()
	origin := OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, HostOf(r.RemoteAddr))
	})
	return NewWorldWith(t, origin, Site{Block: strings.Join(lines, "\n")})
}

// Site is what a test says about its Caddyfile.
type Site struct {
	Block  string // in sticky_proxy
	Global string // global options
	Server string // in the site's block, before sticky_proxy
	Sites  string // further sites
	Level  string // of the log; default: DEBUG
}

// NewWorldWith starts a proxy with this site. The origin is at host:port; "" if the
// test has none.
func NewWorldWith(t testing.TB, origin string, s Site) *World {
	t.Helper()
	NeedLoopback(t)
	w := &World{T: t, Origin: origin, Logs: &Captured}
	Captured.Reset()
	if !strings.Contains(s.Global, "admin ") {
		s.Global += "\nadmin off"
	}
	if s.Level == "" {
		s.Level = "DEBUG"
	}
	storage := t.TempDir()
	t.Setenv("XDG_DATA_HOME", storage) // or sessions of other tests go on in this one
	w.Config = &s
	w.Reload = func(block string) error {
		config := s
		config.Block = block
		return w.Load(config)
	}
	w.Load = func(s Site) error {
		port := w.Proxy[strings.LastIndexByte(w.Proxy, ':')+1:]
		err := Load(fmt.Sprintf(`{
	%s
	persist_config off
	storage file_system %s
	storage_clean_interval off
	auto_https off
	grace_period 2s
	log {
		output sticky_test
		level %s
		format json
		# Caddy's events read what its TLS app may be writing when an early
		# handshake over HTTP/3 raises one; without a log for them they do not.
		exclude events
	}
}

:%s {
	bind 127.0.0.1
	%s
	sticky_proxy {
		%s
	}
	respond "not proxied"
}

%s
`, s.Global, storage, s.Level, port, s.Server, s.Block, s.Sites))
		if err == nil {
			Eventually(t, "the old configuration stops listening", func() bool { return listeners(port) <= 1 })
		}
		return err
	}
	w.Proxy = fmt.Sprintf("127.0.0.1:%d", peer.Port(t))
	require.NoError(t, w.Reload(s.Block))
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("caddy does not stop: %v", err)
		}
		if t.Failed() {
			text := Captured.String()
			t.Logf("the end of Caddy's log:\n%s", text[max(0, len(text)-1000):])
		}
	})
	return w
}

// Load gives the Caddy of this process a Caddyfile.
func Load(config string) error {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		return err
	}
	return caddy.Load(adapted, true)
}

// listeners returns how many TCP sockets of IPv4 listen at a port, 0 where the
// system does not tell. Caddy's old configuration goes on listening for a moment
// after a reload, and a connection that it does not accept any more is closed.
func listeners(port string) int {
	const listening = " 0A "
	table, err := os.ReadFile("/proc/net/tcp")
	number, errPort := strconv.Atoi(port)
	if err != nil || errPort != nil {
		return 0
	}
	n := 0
	for line := range strings.Lines(string(table)) {
		local, rest, _ := strings.Cut(line, " 00000000:0000")
		if strings.HasSuffix(local, fmt.Sprintf(":%04X", number)) && strings.HasPrefix(rest, listening) {
			n++
		}
	}
	return n
}

// NeedLoopback skips where the addresses of the exits do not exist.
func NeedLoopback(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.11:0")
	if err != nil {
		t.Skip("skipped: needs the loopback addresses 127.0.0.11 to 127.0.0.31")
	}
	_ = ln.Close()
}

// Tunnel opens a tunnel.
func (w *World) Tunnel(user, destination string) *Wire {
	w.T.Helper()
	c := w.Dial()
	c.Send(Connect(user, destination))
	res := c.Answer(http.MethodConnect)
	require.Equal(w.T, http.StatusOK, res.Status, res.Body)
	return c
}

// Connect asks for a tunnel and returns the answer.
func (w *World) Connect(user, destination string) Reply {
	w.T.Helper()
	c := w.Dial()
	defer c.Close()
	c.Send(Connect(user, destination))
	return c.Answer(http.MethodConnect)
}

// Exit asks the origin through a tunnel for the address it sees.
func (w *World) Exit(user string) string {
	w.T.Helper()
	exit, err := w.TryExit(user)
	require.NoError(w.T, err)
	return exit
}

// TryExit is Exit for other goroutines than the test's own.
func (w *World) TryExit(user string) (string, error) {
	conn, err := net.Dial("tcp", w.Proxy)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Guard)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, Connect(user, w.Origin)); err != nil {
		return "", err
	}
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("CONNECT: %s (%s)", res.Status, res.Header.Get("Proxy-Status"))
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	if res, err = http.ReadResponse(reader, nil); err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// Forwarded asks the origin for the address it sees, with a request in absolute
// form.
func (w *World) Forwarded(user string) Reply {
	w.T.Helper()
	c := w.Dial()
	defer c.Close()
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: " + w.Origin + "\r\n" + Credentials(user) + "\r\n")
	return c.Answer(http.MethodGet)
}

// Client is a web client that uses the proxy.
func (w *World) Client(user string) *http.Client {
	w.T.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{
		Scheme: "http", Host: w.Proxy, User: url.UserPassword(user, PasswordOf(user)),
	})}
	w.T.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: Guard}
}

// Dial connects to the proxy.
func (w *World) Dial() *Wire {
	w.T.Helper()
	return Dial(w.T, w.Proxy)
}

// Ask sends a request in absolute form with alice's credentials and these lines
// and body behind the empty line.
func (w *World) Ask(c *Wire, method, path, lines, body string) Reply {
	w.T.Helper()
	c.Send(method + " http://" + w.Origin + path + " HTTP/1.1\r\nHost: " + w.Origin + "\r\n" + Credentials("alice") + lines + "\r\n" + body)
	return c.Answer(method)
}
