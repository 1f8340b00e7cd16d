// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sticky_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// guard is how long anything may take before a test says that it hangs.
const guard = 2 * time.Minute

var program struct {
	once sync.Once
	path string
	err  error
}

// roleEnv lets this program be another one, at an address: "<role>@<address>".
const roleEnv = "STICKY_TEST_ROLE"

var roles = make(map[string]func(address string))

func TestMain(m *testing.M) {
	if role, address, ok := strings.Cut(os.Getenv(roleEnv), "@"); ok {
		roles[role](address)
		return
	}
	runAtOnce(atOnce)
	code := m.Run()
	if program.path != "" {
		_ = os.RemoveAll(filepath.Dir(program.path))
	}
	os.Exit(code)
}

// atOnce is how many parallel tests run at the same time. They wait for timeouts of
// programs in processes of their own, and need no core of theirs. A test that works
// all the time is not parallel.
const atOnce = 6

// runAtOnce sets the number of parallel tests, unless the command line sets it.
func runAtOnce(n int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(n))
	}
}

// long reports whether this is the long run, which repeats more often.
func long() bool { return os.Getenv("STICKY_LONG") == "1" }

// caddy returns the program that this repository is, built once.
func caddy(t testing.TB) string {
	t.Helper()
	program.once.Do(func() {
		dir, err := os.MkdirTemp("", "sticky") //nolint:usetesting // for all tests, see TestMain
		if err != nil {
			program.err = err
			return
		}
		program.path = filepath.Join(dir, "caddy")
		args := append([]string{"build", "-ldflags=-s -w"}, buildFlags...) // links in half the time
		out, err := exec.Command("go", append(args, "-o", program.path, "./cmd/caddy")...).CombinedOutput()
		if err != nil {
			program.err = fmt.Errorf("building caddy: %w\n%s", err, out)
		}
	})
	require.NoError(t, program.err)
	return program.path
}

// freePorts returns ports that no other test has and no program uses.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		ports[i] = peer.Port(t)
	}
	return ports
}

// server is a Caddy in a process of its own.
type server struct {
	t     testing.TB
	admin string
	home  string // where its data is
	log   *lockedBuffer
	cmd   *exec.Cmd
	ended sync.Once
}

// start runs Caddy without a configuration but for its admin API.
func start(t testing.TB) *server {
	t.Helper()
	return startIn(t, t.TempDir())
}

// startIn is start with data that may be there since an earlier one, and with a
// command that the program's is an argument of. It must be the same process.
func startIn(t testing.TB, home string, before ...string) *server {
	t.Helper()
	return startWith(t, home, nil, before...)
}

// startWith is startIn with more variables in the environment.
func startWith(t testing.TB, home string, environment []string, before ...string) *server {
	t.Helper()
	s := &server{t: t, admin: fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0]), home: home, log: new(lockedBuffer)}
	command := append(before, caddy(t), "run")
	s.cmd = exec.Command(command[0], command[1:]...)
	s.cmd.Env = append(os.Environ(), "CADDY_ADMIN="+s.admin, "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home,
		"GORACE=exitcode=0") // the log is looked at, see hasRace
	s.cmd.Env = append(s.cmd.Env, environment...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() {
		s.stop()
		if hasRace(s.log.String()) || strings.Contains(s.log.String(), "panic") {
			t.Error("caddy has a race or a panic")
		}
		if t.Failed() {
			t.Logf("caddy's log:\n%s", s.log.String())
		}
	})
	s.await("/config/")
	return s
}

// hasRace reports whether a log has the report of a data race. Caddy's reverse
// proxy has one of its own where stream_close_delay is set: at a reload it notes
// that it will close connections while requests look at that note (streaming.go,
// cleanupConnections).
func hasRace(log string) bool {
	for report := range strings.SplitSeq(log, "==================") {
		if strings.Contains(report, "DATA RACE") && !strings.Contains(report, "reverseproxy.(*Handler).cleanupConnections()") {
			return true
		}
	}
	return false
}

// lines returns the lines of Caddy's log that have these fields.
func (s *server) lines(want testlog.Fields) []testlog.Fields {
	return testlog.Lines(s.log.String(), want)
}

// stop ends Caddy as an operator would.
func (s *server) stop() { s.stopBy(os.Interrupt) }

func (s *server) stopBy(signal os.Signal) {
	s.ended.Do(func() {
		_ = s.cmd.Process.Signal(signal)
		done := make(chan error, 1)
		go func() { done <- s.cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				s.t.Errorf("caddy ended with %v", err)
			}
		case <-time.After(guard):
			_ = s.cmd.Process.Kill()
			s.t.Error("caddy did not stop")
		}
	})
}

// kill ends Caddy without giving it time to do anything.
func (s *server) kill() {
	s.ended.Do(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
}

func (s *server) await(path string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), guard)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		res, err := http.Get("http://" + s.admin + path)
		if err == nil {
			_ = res.Body.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("caddy does not answer: %v\n%s", err, s.log.String())
		}
	}
}

// load gives Caddy a configuration and returns its refusal, if it refuses.
func (s *server) load(contentType, config string) error {
	s.t.Helper()
	res, err := http.Post("http://"+s.admin+"/load", contentType, strings.NewReader(config))
	for range 100 { // the admin API's listener is handed over as well
		if err == nil || !isReset(err) {
			break
		}
		res, err = http.Post("http://"+s.admin+"/load", contentType, strings.NewReader(config))
	}
	require.NoError(s.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(s.t, err)
	if res.StatusCode == http.StatusOK {
		return nil
	}
	var refusal struct{ Error string }
	require.NoError(s.t, json.Unmarshal(body, &refusal))
	return errors.New(refusal.Error)
}

const (
	asCaddyfile = "text/caddyfile"
	asJSON      = "application/json"
)

// adapted returns a Caddyfile as JSON, by the program's own command.
func adapted(t *testing.T, caddyfile string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	require.NoError(t, os.WriteFile(file, []byte(caddyfile), 0o600))
	out, err := exec.Command(caddy(t), "adapt", "--config", file, "--adapter", "caddyfile").Output()
	require.NoError(t, err)
	return string(out)
}

// lockedBuffer takes a process's output.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// demo is the demonstration's configuration on free ports.
type demo struct {
	config                  string
	balancer, proxy, origin string
	echo                    string // see withPeers
}

func newDemo(t *testing.T, s *server) *demo {
	t.Helper()
	text, err := os.ReadFile("testdata/examples/demo.caddyfile")
	require.NoError(t, err)
	names := []string{"8080", "8081", "9000", "9001", "9002", "9003"}
	var pairs []string
	address := make(map[string]string)
	for i, port := range freePorts(t, len(names)) {
		pairs = append(pairs, names[i], fmt.Sprint(port))
		address[names[i]] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return &demo{
		config:   "{\n\tadmin " + s.admin + "\n}\n" + strings.NewReplacer(pairs...).Replace(string(text)),
		balancer: "http://" + address["8081"], proxy: address["8080"], origin: "http://" + address["9000"],
	}
}

// withPeers lets the demonstration's proxies lead to an origin and to
// application servers of the test, outside of the Caddy under test.
func (d *demo) withPeers(t *testing.T) *demo {
	t.Helper()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	}))
	t.Cleanup(origin.Close)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = echo.Close() })
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	peers := *d
	peers.echo = echo.Addr().String()
	_, originPort, _ := net.SplitHostPort(strings.TrimPrefix(origin.URL, "http://"))
	_, echoPort, _ := net.SplitHostPort(peers.echo)
	peers.config = strings.ReplaceAll(d.config, "ports ", "ports "+originPort+" "+echoPort+" ")
	peers.origin = origin.URL
	upstreams := regexp.MustCompile(`reverse_proxy .* {`)
	line := "reverse_proxy"
	for _, name := range []string{"app1", "app2", "app3"} {
		app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, name)
		}))
		t.Cleanup(app.Close)
		line += " " + strings.TrimPrefix(app.URL, "http://")
	}
	peers.config = upstreams.ReplaceAllString(peers.config, line+" {")
	return &peers
}

// get fetches a URL over a connection of its own and returns the body.
func get(client *http.Client, target string) (string, error) {
	defer client.CloseIdleConnections()
	res, err := client.Get(target)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d: %s", res.StatusCode, body)
	}
	return string(body), err
}

// visitor is a client with a cookie jar.
func visitor(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: jar, Transport: &http.Transport{}, Timeout: guard}
}

// through is a client that uses the proxy, with the given user.
func (d *demo) through(user string) *http.Client {
	proxy := &url.URL{Scheme: "http", User: url.UserPassword(user, "secret"), Host: d.proxy}
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}, Timeout: guard}
}
