// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e_test has the tests of the built program: each starts it in a process
// of its own.
package e2e_test

import (
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
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

// guard is how long anything may take before a test says that it hangs.
const guard = 2 * time.Minute

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
	program.Remove()
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

// adapted returns a Caddyfile as JSON, by the program's own command.
func adapted(t *testing.T, caddyfile string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	require.NoError(t, os.WriteFile(file, []byte(caddyfile), 0o600))
	out, err := exec.Command(program.Caddy(t), "adapt", "--config", file, "--adapter", "caddyfile").Output()
	require.NoError(t, err)
	return string(out)
}

// demo is the demonstration's configuration on free ports.
type demo struct {
	config                  string
	balancer, proxy, origin string
	echo                    string // see withPeers
}

func newDemo(t *testing.T, s *program.Server) *demo {
	t.Helper()
	text, err := os.ReadFile("../../testdata/examples/demo.caddyfile")
	require.NoError(t, err)
	names := []string{"8080", "8081", "9000", "9001", "9002", "9003"}
	var pairs []string
	address := make(map[string]string)
	for i, port := range program.FreePorts(t, len(names)) {
		pairs = append(pairs, names[i], fmt.Sprint(port))
		address[names[i]] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return &demo{
		config:   "{\n\tadmin " + s.Admin + "\n}\n" + strings.NewReplacer(pairs...).Replace(string(text)),
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
