// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

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
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-sticky/caddy-sticky"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

// world is a proxy in a Caddy of this process, and an origin that answers with
// the address it sees.
type world struct {
	t      testing.TB
	proxy  string // host:port
	origin string // host:port
	logs   *logs

	// reload gives the proxy another block.
	reload func(block string) error

	config *site            // with which it started
	load   func(site) error // gives Caddy another site
}

// newWorld starts a proxy with these lines in its block.
func newWorld(t testing.TB, lines ...string) *world {
	t.Helper()
	origin := originOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, hostOf(r.RemoteAddr))
	})
	return newWorldWith(t, origin, site{block: strings.Join(lines, "\n")})
}

// site is what a test says about its Caddyfile.
type site struct {
	block  string // in sticky_proxy
	global string // global options
	server string // in the site's block, before sticky_proxy
	sites  string // further sites
	level  string // of the log; default: DEBUG
}

// newWorldWith starts a proxy with this site. The origin is at host:port; "" if the
// test has none.
func newWorldWith(t testing.TB, origin string, s site) *world {
	t.Helper()
	needLoopback(t)
	w := &world{t: t, origin: origin, logs: &captured}
	captured.reset()
	if !strings.Contains(s.global, "admin ") {
		s.global += "\nadmin off"
	}
	if s.level == "" {
		s.level = "DEBUG"
	}
	storage := t.TempDir()
	t.Setenv("XDG_DATA_HOME", storage) // or sessions of other tests go on in this one
	w.config = &s
	w.reload = func(block string) error {
		config := s
		config.block = block
		return w.load(config)
	}
	w.load = func(s site) error {
		port := w.proxy[strings.LastIndexByte(w.proxy, ':')+1:]
		err := load(fmt.Sprintf(`{
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
`, s.global, storage, s.level, port, s.server, s.block, s.sites))
		if err == nil {
			eventually(t, "the old configuration stops listening", func() bool { return listeners(port) <= 1 })
		}
		return err
	}
	w.proxy = fmt.Sprintf("127.0.0.1:%d", peer.Port(t))
	require.NoError(t, w.reload(s.block))
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("caddy does not stop: %v", err)
		}
		if t.Failed() {
			text := captured.String()
			t.Logf("the end of Caddy's log:\n%s", text[max(0, len(text)-1000):])
		}
	})
	return w
}

// load gives the Caddy of this process a Caddyfile.
func load(config string) error {
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

// needLoopback skips where the addresses of the exits do not exist.
func needLoopback(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.11:0")
	if err != nil {
		t.Skip("skipped: needs the loopback addresses 127.0.0.11 to 127.0.0.31")
	}
	_ = ln.Close()
}

// tunnel opens a tunnel.
func (w *world) tunnel(user, destination string) *wire {
	w.t.Helper()
	c := w.dial()
	c.send(connect(user, destination))
	res := c.answer(http.MethodConnect)
	require.Equal(w.t, http.StatusOK, res.status, res.body)
	return c
}

// connect asks for a tunnel and returns the answer.
func (w *world) connect(user, destination string) reply {
	w.t.Helper()
	c := w.dial()
	defer c.close()
	c.send(connect(user, destination))
	return c.answer(http.MethodConnect)
}

// exit asks the origin through a tunnel for the address it sees.
func (w *world) exit(user string) string {
	w.t.Helper()
	exit, err := w.tryExit(user)
	require.NoError(w.t, err)
	return exit
}

// tryExit is exit for other goroutines than the test's own.
func (w *world) tryExit(user string) (string, error) {
	conn, err := net.Dial("tcp", w.proxy)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(guard)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, connect(user, w.origin)); err != nil {
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

// forwarded asks the origin for the address it sees, with a request in absolute
// form.
func (w *world) forwarded(user string) reply {
	w.t.Helper()
	c := w.dial()
	defer c.close()
	c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: " + w.origin + "\r\n" + credentials(user) + "\r\n")
	return c.answer(http.MethodGet)
}

// client is a web client that uses the proxy.
func (w *world) client(user string) *http.Client {
	w.t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{
		Scheme: "http", Host: w.proxy, User: url.UserPassword(user, passwordOf(user)),
	})}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: guard}
}

// dial connects to the proxy.
func (w *world) dial() *wire {
	w.t.Helper()
	return dial(w.t, w.proxy)
}

// ask sends a request in absolute form with alice's credentials and these lines
// and body behind the empty line.
func (w *world) ask(c *wire, method, path, lines, body string) reply {
	w.t.Helper()
	c.send(method + " http://" + w.origin + path + " HTTP/1.1\r\nHost: " + w.origin + "\r\n" + credentials("alice") + lines + "\r\n" + body)
	return c.answer(method)
}
