// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-sticky/caddy-sticky"
)

// guard is how long anything may take before a test says that it hangs.
const guard = time.Minute

// app is an application server. It answers with its name.
type app struct {
	t      *testing.T
	name   string
	socket string

	mu     sync.Mutex
	server *httptest.Server
	answer http.HandlerFunc // instead of the name, if set
	seen   []*http.Request
}

// newApps starts application servers. They listen on Unix sockets, since
// nobody else takes the address of one that is stopped.
func newApps(t *testing.T, names ...string) []*app {
	t.Helper()
	dir, err := os.MkdirTemp("", "apps") //nolint:usetesting // t.TempDir() may be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	apps := make([]*app, len(names))
	for i, name := range names {
		apps[i] = &app{t: t, name: name, socket: filepath.Join(dir, name)}
		apps[i].start()
		t.Cleanup(apps[i].stop)
	}
	return apps
}

func (a *app) start() {
	a.t.Helper()
	ln, err := net.Listen("unix", a.socket)
	require.NoError(a.t, err)
	server := httptest.NewUnstartedServer(a)
	_ = server.Listener.Close()
	server.Listener = ln
	server.Start()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = server
}

func (a *app) stop() {
	a.mu.Lock()
	server := a.server
	a.server = nil
	a.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

// answers lets the application answer in another way, nil: with its name.
func (a *app) answers(answer http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

// requests returns what the application was asked so far.
func (a *app) requests() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*http.Request(nil), a.seen...)
}

// last returns the header of the application's latest request.
func (a *app) last() http.Header {
	seen := a.requests()
	return seen[len(seen)-1].Header
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen = append(a.seen, &http.Request{Method: r.Method, URL: r.URL, Host: r.Host, Header: r.Header.Clone()})
	answer := a.answer
	a.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	_, _ = io.WriteString(w, a.name)
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// upstreams writes applications as reverse_proxy takes them.
func upstreams(apps ...*app) string {
	var text string
	for _, a := range apps {
		text += " unix/" + a.socket
	}
	return text
}

// site is a Caddy that runs with one site.
type site struct {
	t    *testing.T
	url  string
	apps map[string]*app
}

// balance runs a Caddy that proxies to the applications, with the options of
// reverse_proxy.
func balance(t *testing.T, apps []*app, options string) *site {
	t.Helper()
	s := run(t, "", fmt.Sprintf("reverse_proxy %s {\n%s\n}", upstreams(apps...), options))
	s.apps = make(map[string]*app)
	for _, a := range apps {
		s.apps[a.name] = a
	}
	return s
}

// configured is the configuration of a Caddy with global options and one site,
// which tells in the header of its answers what was decided.
func configured(t *testing.T, global, directives, storage string) []byte {
	t.Helper()
	config := configuredText(global, directives, storage)
	text, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	require.NoError(t, err, config)
	for _, warning := range warnings {
		require.Contains(t, warning.Message, "not formatted")
	}
	return text
}

// configuredText is that configuration as a Caddyfile.
func configuredText(global, directives, storage string) string {
	return fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	storage file_system %s
	log {
		output discard
	}
	%s
}
http://:0 {
	bind 127.0.0.1
	header {
		defer
		X-Session {http.sticky.session}
		X-Target {http.sticky.target}
		X-Outcome {http.sticky.outcome}
		X-Reason {http.sticky.reason}
	}
	%s
}
`, storage, global, directives)
}

// load loads a configuration and returns what Caddy thinks of it.
func load(t *testing.T, directives string) error {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	return caddy.Load(configured(t, "", directives, t.TempDir()), true)
}

// run runs a Caddy. Its storage is a new one unless it is given.
func run(t *testing.T, global, directives string, storage ...string) *site {
	t.Helper()
	storage = append(storage, t.TempDir())
	t.Setenv("XDG_DATA_HOME", storage[0]) // where sessions are written
	require.NoError(t, caddy.Load(configured(t, global, directives, storage[0]), true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })

	module, err := caddy.ActiveContext().App("http")
	require.NoError(t, err)
	for _, server := range module.(*caddyhttp.App).Servers {
		return &site{t: t, url: "http://" + server.Listeners()[0].Addr().String()}
	}
	t.Fatal("no server runs")
	return nil
}

// visitor is a client, which keeps cookies as a browser does.
type visitor struct {
	t      *testing.T
	url    string
	client *http.Client
}

func (s *site) visitor() *visitor { return s.visitorFrom("127.0.0.1") }

// visitorFrom is a visitor with an address of its own.
func (s *site) visitorFrom(address string) *visitor {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(s.t, err)
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &visitor{t: s.t, url: s.url, client: &http.Client{
		Jar: jar, Timeout: guard,
		// A connection for each request: a session is none.
		Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true},
	}}
}

// answer is what a visitor got.
type answer struct {
	status int
	body   string
	header http.Header
}

func (a answer) cookies() []string { return a.header.Values("Set-Cookie") }
func (a answer) outcome() string   { return a.header.Get("X-Outcome") + " " + a.header.Get("X-Reason") }

// send sends a request with header lines ("name: value").
func (v *visitor) send(method, path string, body io.Reader, lines ...string) (answer, error) {
	r, err := http.NewRequestWithContext(context.Background(), method, v.url+path, body)
	if err != nil {
		return answer{}, err
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	res, err := v.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(text), res.Header}, err
}

func (v *visitor) get(lines ...string) answer {
	v.t.Helper()
	got, err := v.send(http.MethodGet, "/", nil, lines...)
	require.NoError(v.t, err)
	return got
}

// reach is a get that an application answers, whose name it returns.
func (v *visitor) reach(lines ...string) string {
	v.t.Helper()
	got := v.get(lines...)
	require.Equal(v.t, http.StatusOK, got.status)
	require.NotEmpty(v.t, got.body)
	return got.body
}

// stays checks that the next requests are all answered by one application and
// set no cookie.
func (v *visitor) stays(name string, lines ...string) {
	v.t.Helper()
	for range 8 {
		got := v.get(lines...)
		require.Equal(v.t, http.StatusOK, got.status)
		require.Equal(v.t, name, got.body)
		require.Empty(v.t, got.cookies())
	}
}

// cookie returns the value of a cookie that the visitor has.
func (v *visitor) cookie(name string) string {
	v.t.Helper()
	u, err := url.Parse(v.url)
	require.NoError(v.t, err)
	for _, cookie := range v.client.Jar.Cookies(u) {
		if cookie.Name == name {
			return cookie.Value
		}
	}
	return ""
}

// until repeats what until it is true.
func until(t *testing.T, what func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(guard)
	for !what() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it never happens")
		}
	}
}
