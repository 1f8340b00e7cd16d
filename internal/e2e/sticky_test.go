// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

// What xcaddy does: a main of its own, in a module of its own.
func TestPluginBuildsIntoAnotherMain(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	main := `package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/caddy-sticky/caddy-sticky"
)

func main() { caddycmd.Main() }
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(main), 0o600))
	// The versions are those of this repository, so that nothing is looked up.
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		text = bytes.Replace(text, []byte("module github.com/caddy-sticky/caddy-sticky\n"), []byte("module caddy\n"), 1)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	for _, command := range [][]string{
		{"mod", "edit", "-require", "github.com/caddy-sticky/caddy-sticky@v0.0.0", "-replace", "github.com/caddy-sticky/caddy-sticky=" + root},
		{"build", "-o", "caddy", "."},
	} {
		cmd := exec.Command("go", command...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s\n%s", strings.Join(command, " "), out)
	}
	out, err := exec.Command(filepath.Join(dir, "caddy"), "list-modules").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "http.handlers.sticky_proxy")
}

func TestDemoDoesTheSameAsCaddyfileAndAsJSON(t *testing.T) {
	needLoopback(t)
	for _, form := range []string{program.AsCaddyfile, program.AsJSON} {
		t.Run(form, func(t *testing.T) {
			s := program.Start(t)
			d := newDemo(t, s)
			config := d.config
			if form == program.AsJSON {
				config = adapted(t, config)
			}
			require.NoError(t, s.Load(form, config))

			client := visitor(t)
			first, err := get(client, d.balancer)
			require.NoError(t, err)
			require.Contains(t, []string{"app1", "app2", "app3"}, first)
			for range 10 {
				again, err := get(client, d.balancer)
				require.NoError(t, err)
				require.Equal(t, first, again)
			}

			abc, err := get(d.through("alice-session-abc-sessionttl-1"), d.origin)
			require.NoError(t, err)
			require.Regexp(t, `^127\.0\.0\.1[1-4]$`, abc)
			for range 10 {
				again, err := get(d.through("alice-session-abc"), d.origin)
				require.NoError(t, err)
				require.Equal(t, abc, again)
			}
			def, err := get(d.through("alice-session-def"), d.origin)
			require.NoError(t, err)
			require.NotEqual(t, abc, def, "a second session takes an exit that has none")
			last := ""
			for range 8 {
				exit, err := get(d.through("alice"), d.origin)
				require.NoError(t, err)
				require.NotEqual(t, last, exit, "without a session, each request has its own exit")
				last = exit
			}
			_, err = get(d.through("alice-session-abc-sessionttl-0"), d.origin)
			require.ErrorContains(t, err, "400: sessionttl")
			_, err = get(d.through("bob-session-abc"), d.origin)
			require.ErrorContains(t, err, "407")
		})
	}
}

// needLoopback skips where the addresses of the demo's exits do not exist.
func needLoopback(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.11:0")
	if err != nil {
		t.Skip("skipped: needs the loopback addresses 127.0.0.11 to 127.0.0.14")
	}
	_ = ln.Close()
}

func TestThousandClientsStayWhereTheyAre(t *testing.T) {
	s := program.Start(t)
	d := newDemo(t, s)
	require.NoError(t, s.Load(program.AsCaddyfile, d.config))

	clients, requests := 1000, 3
	if long() {
		requests = 10
	}
	var mu sync.Mutex
	servers := make(map[string]int)
	next := make(chan *http.Client, clients)
	for range clients {
		next <- visitor(t)
	}
	close(next)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for client := range next {
				first := ""
				for range requests {
					server, err := get(client, d.balancer)
					if err != nil {
						t.Errorf("request: %v", err)
						return
					}
					if first == "" {
						first = server
					}
					if server != first {
						t.Errorf("a client went from %s to %s", first, server)
					}
				}
				mu.Lock()
				servers[first]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("clients: %v", servers)
	require.Len(t, servers, 3)
	for server, n := range servers {
		require.GreaterOrEqual(t, n, clients/4, "clients of %s", server)
	}
}

// tunnelled asks the origin for the address it sees, through a CONNECT.
func (d *demo) tunnelled(user string) (string, error) {
	conn, err := net.Dial("tcp", d.proxy)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(guard)); err != nil {
		return "", err
	}
	host := strings.TrimPrefix(d.origin, "http://")
	_, err = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n\r\n",
		host, host, base64.StdEncoding.EncodeToString([]byte(user+":secret")))
	if err != nil {
		return "", err
	}
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("CONNECT: %s", res.Status)
	}
	// From here on the tunnel stands, and nothing may cut it: its errors are none
	// that a client would try again.
	if _, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host); err != nil {
		return "", errors.New("tunnel: " + err.Error())
	}
	res, err = http.ReadResponse(reader, nil)
	if err != nil {
		return "", errors.New("tunnel: " + err.Error())
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", errors.New("tunnel: " + err.Error())
	}
	return string(body), nil
}

func TestConcurrentFirstConnectsShareOneExit(t *testing.T) {
	needLoopback(t)
	s := program.Start(t)
	d := newDemo(t, s)
	require.NoError(t, s.Load(program.AsCaddyfile, d.config))
	for round := range 3 {
		var mu sync.Mutex
		exits := make(map[string]int)
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range 200 {
			wg.Go(func() {
				<-begin
				exit, err := d.tunnelled(fmt.Sprintf("alice-session-new%d", round))
				if err != nil {
					t.Errorf("tunnel: %v", err)
					return
				}
				mu.Lock()
				exits[exit]++
				mu.Unlock()
			})
		}
		close(begin)
		wg.Wait()
		require.Len(t, exits, 1, "exits of round %d: %v", round, exits)
	}
}

// Caddy replaces its listeners at a reload; a connection that the kernel gave
// to the old one in that moment is reset before it was answered. Every client
// sees such, and tries again.
func retried(resets *atomic.Int64, ask func() (string, error)) (string, error) {
	for {
		answer, err := ask()
		if err == nil || !program.IsReset(err) || resets.Add(1) > 1000 {
			return answer, err
		}
	}
}

func TestReloadsMoveNoSessionAndFailNoRequest(t *testing.T) {
	needLoopback(t)
	s := program.Start(t)
	d := newDemo(t, s).withPeers(t)
	require.NoError(t, s.Load(program.AsCaddyfile, d.config))
	changed := strings.Replace(d.config, "{\n", "{\n\tgrace_period 5s\n\tsticky {\n\t\tstore memory {\n\t\t\tmax_sessions 500\n\t\t}\n\t}\n", 1)

	var resets, requests atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	keep := func(what string, ask func() (string, error)) {
		wg.Go(func() {
			first := ""
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := retried(&resets, ask)
				requests.Add(1)
				switch {
				case err != nil:
					t.Errorf("%s: %v", what, err)
					return
				case first == "":
					first = got
				case got != first:
					t.Errorf("%s went from %s to %s", what, first, got)
					return
				}
			}
		})
	}
	for i := range 8 {
		client := visitor(t)
		keep(fmt.Sprint("visitor ", i), func() (string, error) { return get(client, d.balancer) })
		proxied := d.through(fmt.Sprint("alice-session-s", i))
		keep(fmt.Sprint("session s", i), func() (string, error) { return get(proxied, d.origin) })
		user := fmt.Sprint("alice-session-t", i)
		keep("session t", func() (string, error) { return d.tunnelled(user) })
	}
	tunnel := d.openTunnel(t)
	for i := range 20 {
		seen := requests.Load()
		config := d.config
		if i%2 == 0 {
			config = changed
		}
		require.NoError(t, s.Load(program.AsCaddyfile, config))
		for deadline := time.Now().Add(guard); requests.Load() < seen+100; runtime.Gosched() {
			require.True(t, time.Now().Before(deadline) && !t.Failed(), "no requests come through")
		}
	}
	close(stop)
	wg.Wait()
	tunnel.say(t, "still here")
	t.Logf("%d requests, of which %d were reset by Caddy's listener hand-over and tried again", requests.Load(), resets.Load())
}

// longTunnel is a tunnel to an echo.
type longTunnel struct {
	conn   net.Conn
	reader *bufio.Reader
}

// openTunnel opens a tunnel that stays.
func (d *demo) openTunnel(t *testing.T) *longTunnel {
	t.Helper()
	conn, err := net.Dial("tcp", d.proxy)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(guard)))
	_, err = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n\r\n",
		d.echo, d.echo, base64.StdEncoding.EncodeToString([]byte("alice-session-long:secret")))
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	tunnel := &longTunnel{conn, reader}
	tunnel.say(t, "hello")
	return tunnel
}

// say sends a line and expects it back.
func (l *longTunnel) say(t *testing.T, line string) {
	t.Helper()
	_, err := fmt.Fprintln(l.conn, line)
	require.NoError(t, err)
	got, err := l.reader.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, line+"\n", got)
}

func TestRefusedConfigurationChangesNothing(t *testing.T) {
	needLoopback(t)
	s := program.Start(t)
	d := newDemo(t, s)
	require.NoError(t, s.Load(program.AsCaddyfile, d.config))
	client := visitor(t)
	app, err := get(client, d.balancer)
	require.NoError(t, err)
	exit, err := get(d.through("alice-session-abc"), d.origin)
	require.NoError(t, err)

	for want, bad := range map[string]string{
		`sticky_proxy "default": it has no accounts`:       strings.ReplaceAll(d.config, "account alice", "# account alice"),
		`exit 1: "ftp" is not an exit scheme (have direct`: strings.ReplaceAll(d.config, "exit direct://127.0.0.11", "exit ftp://127.0.0.11"),
		"ttl is 0s, it must be positive":                   strings.ReplaceAll(d.config, "lb_policy sticky shop", "lb_policy sticky shop {\n\t\t\tttl 0\n\t\t}"),
		"ttl is 5h0m0s, above max_ttl of 4h0m0s":           strings.ReplaceAll(d.config, "\t\tports ", "\t\tttl 5h\n\t\tports "),
		`policy "shop" is used with different targets`: d.config + `
			http://other.example {
				reverse_proxy 127.0.0.1:1 {
					lb_policy sticky shop
				}
			}`,
	} {
		require.ErrorContains(t, s.Load(program.AsCaddyfile, bad), want)
		got, err := get(client, d.balancer)
		require.NoError(t, err)
		require.Equal(t, app, got)
		got, err = get(d.through("alice-session-abc"), d.origin)
		require.NoError(t, err)
		require.Equal(t, exit, got)
	}
}

func TestTimeLineInSmall(t *testing.T) {
	needLoopback(t)
	s := program.Start(t)
	d := newDemo(t, s)
	const ttl = 3 * time.Second
	require.NoError(t, s.Load(program.AsCaddyfile, strings.ReplaceAll(d.config, "\t\tports ", "\t\tttl 3s\n\t\tports ")))
	ask := func() string {
		exit, err := get(d.through("alice-session-abc"), d.origin)
		require.NoError(t, err)
		return exit
	}
	begin := time.Now()
	first := ask()
	for {
		before := time.Now()
		exit := ask()
		after := time.Now()
		if exit == first {
			// A session that is used all the time is over all the same.
			require.Less(t, before.Sub(begin), ttl+2*time.Second, "the ttl was prolonged")
			continue
		}
		require.GreaterOrEqual(t, after.Sub(begin), ttl, "the session ended early")
		return
	}
}
