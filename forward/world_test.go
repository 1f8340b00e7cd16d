// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	_ "github.com/caddy-sticky/caddy-sticky"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// guard is how long anything may take before a test says that it hangs.
const guard = time.Minute

func TestMain(m *testing.M) {
	caddy.RegisterModule(logWriter{})
	// Whoever asks the environment for a proxy gets one that is not there, and
	// each test that forwards a request fails.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		_ = os.Setenv(name, "http://127.0.0.1:9")
	}
	_ = os.Unsetenv("NO_PROXY")
	_ = os.Unsetenv("no_proxy")
	// Stores keep their sessions in Caddy's data directory.
	dir, err := os.MkdirTemp("", "sticky")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("XDG_DATA_HOME", dir)
	code := m.Run()
	_ = os.RemoveAll(dir)
	if code == 0 {
		if err := leaks(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaks waits for the goroutines that are still ending: net/http holds a
// connection for half a second that it closes early.
func leaks() (err error) {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for deadline := time.Now().Add(guard); time.Now().Before(deadline); {
		if err = goleak.Find(); err == nil {
			return nil
		}
	}
	return err
}

// Lines of a sticky_proxy block. The hashes are of the passwords below, at
// bcrypt's lowest cost.
const (
	alice = "account alice $2a$04$K3kKau3IwHX47oTO8W6OeelqRLY4teCn.uodCrc9tubUx1xZD2O6O\n"
	bob   = "account bob $2a$04$jWeqkGxPXUph8a3Y9GJoJezGxclVcM5pYA6zJW5SLdIWUcuZkCbW6\n"

	fourExits = "exit direct://127.0.0.11\nexit direct://127.0.0.12\n" +
		"exit direct://127.0.0.13\nexit direct://127.0.0.14\n"
	oneExit = "exit direct://127.0.0.11\n"

	loopback = "allow 127.0.0.1\nports 1-65535\n"
)

const (
	alicePassword = "secret"
	bobPassword   = "pass:word"
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

	config *site
	load   func(site) error
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

// originOf starts a web server on 127.0.0.1 and returns its address.
func originOf(t testing.TB, serve http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// serverOf starts a server on 127.0.0.1 whose connections are each served by
// serve and closed when it returns. They are closed at the end of the test.
func serverOf(t testing.TB, serve func(conn *net.TCPConn)) string {
	t.Helper()
	return newPuppet(t, serve).address
}

func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

func passwordOf(user string) string {
	if strings.HasPrefix(user, "bob") {
		return bobPassword
	}
	return alicePassword
}

// basic returns the value of a Proxy-Authorization header.
func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// credentials returns the header line of a user, with the right password.
func credentials(user string) string {
	if user == "" {
		return ""
	}
	return "Proxy-Authorization: " + basic(user, passwordOf(user)) + "\r\n"
}

// connect returns the head of a CONNECT request.
func connect(user, destination string) string {
	return "CONNECT " + destination + " HTTP/1.1\r\nHost: " + destination + "\r\n" + credentials(user) + "\r\n"
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

// wire is a connection of which a test sees each byte.
type wire struct {
	*bufio.Reader
	t    testing.TB
	conn *net.TCPConn
}

func (w *world) dial() *wire {
	w.t.Helper()
	return dial(w.t, w.proxy)
}

func dial(t testing.TB, address string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(guard)))
	return &wire{Reader: bufio.NewReader(conn), t: t, conn: conn.(*net.TCPConn)}
}

func (c *wire) send(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.conn, text)
	require.NoError(c.t, err)
}

// reply is an answer that was read to its end.
type reply struct {
	status          int
	header, trailer http.Header
	body            string
	response        *http.Response
}

// reason returns the error of a Proxy-Status header (RFC 9209 §2.3).
func (r reply) reason() string {
	_, kind, _ := strings.Cut(r.header.Get("Proxy-Status"), "; error=")
	kind, _, _ = strings.Cut(kind, ";")
	return kind
}

// answer reads an answer. Of a tunnel's 2xx it reads the head only.
func (c *wire) answer(method string) reply {
	c.t.Helper()
	res, err := http.ReadResponse(c.Reader, &http.Request{Method: method})
	require.NoError(c.t, err)
	r := reply{status: res.StatusCode, header: res.Header, response: res}
	if method == http.MethodConnect && res.StatusCode/100 == 2 || res.StatusCode/100 == 1 {
		return r
	}
	body, err := io.ReadAll(res.Body)
	require.NoError(c.t, err)
	_ = res.Body.Close()
	r.body, r.trailer = string(body), res.Trailer
	return r
}

// expect reads this text.
func (c *wire) expect(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(c.Reader, got)
	require.NoError(c.t, err, "read %q", got[:n])
	require.Equal(c.t, text, string(got))
}

// expectEnd reads to the end, which must be a FIN and not a RST, and returns
// what came before.
func (c *wire) expectEnd() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.Reader)
	require.NoError(c.t, err, "after %q", rest)
	return string(rest)
}

// expectClosed waits until the connection ends, whichever way.
func (c *wire) expectClosed() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.Reader)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded, "the connection stays open")
}

// silent reports whether nothing comes for a moment. It is for what must not
// happen: too short a moment lets a test pass, never fail.
func (c *wire) silent() bool {
	c.t.Helper()
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err := c.Peek(1)
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(guard)))
	return err != nil
}

func (c *wire) closeWrite() {
	c.t.Helper()
	require.NoError(c.t, c.conn.CloseWrite())
}

func (c *wire) close() { _ = c.conn.Close() }

// eventually asks until the answer is yes.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(guard); !yes(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s", what, guard)
		}
	}
}

// logs is what Caddy logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

var captured logs

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (*logs) Close() error { return nil }

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// fields are fields of a line of the log.
type fields = testlog.Fields

// lines returns the lines with this message, or of all messages if it is "", that
// have all of these fields.
func (l *logs) lines(message string, with ...fields) []fields {
	want := fields{}
	for _, some := range with {
		maps.Copy(want, some)
	}
	if message != "" {
		want["msg"] = message
	}
	return testlog.Lines(l.String(), want)
}

// logWriter lets Caddy log into captured.
type logWriter struct{}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.sticky_test",
		New: func() caddy.Module { return new(logWriter) },
	}
}

func (logWriter) String() string                                { return "sticky_test" }
func (logWriter) WriterKey() string                             { return "sticky_test" }
func (logWriter) OpenWriter() (io.WriteCloser, error)           { return &captured, nil }
func (logWriter) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
