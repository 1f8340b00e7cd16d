// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package bench measures tunnels side by side with other proxies: each is a
// process of its own, and what counts is what that process uses. BenchmarkBalancer
// measures the load balancer, beside the policies of Caddy.
//
//	go test -run '^$' -bench . -benchtime 10x -timeout 1h ./bench
//
// Where a proxy is not installed, its measurement is skipped. With -short there
// are few tunnels, and memory is read once: whether it runs, not what it shows.
package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

func init() {
	roles["minimal"] = minimal
	roles["source"] = source
	roles["origin"] = origin
}

// minimal is the smallest proxy that Go can be: two goroutines a tunnel, and
// io.Copy, which splices.
func minimal(address string) {
	collect := make(chan os.Signal, 1)
	signal.Notify(collect, syscall.SIGUSR1)
	go func() {
		for range collect {
			debug.FreeOSMemory()
		}
	}()
	server := &http.Server{Addr: address, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			twoIdle.ServeHTTP(w, r)
			return
		}
		target, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(target, client)
			_ = target.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(client, target)
		_ = client.Close()
		_ = target.Close()
	})}
	_ = server.ListenAndServe()
}

// proxy is a proxy in a process of its own.
type proxy struct {
	pid     int
	address string
	// admin is Caddy's admin API, "" for others.
	admin string
	// credentials are header lines for requests, or nothing.
	credentials string
	// direct is set for one that knows no CONNECT and leads to one target.
	direct bool
}

// contestant starts a proxy that leads to a target, as a user without
// capabilities if asked to.
type contestant struct {
	name  string
	start func(b *testing.B, target string, as []string) *proxy
}

var contestants = []contestant{
	{"sticky", startSticky}, {"minimal", startMinimal}, {"haproxy", startHAProxy},
	{"squid", startSquid}, {"tinyproxy", startTinyproxy},
}

// nobody is how to run a program as a user without capabilities.
var nobody = []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"}

func startSticky(b *testing.B, _ string, as []string) *proxy {
	b.Helper()
	return startCaddy(b, "open", as)
}

// startCaddy starts the program that this repository is, with these accounts.
func startCaddy(b *testing.B, accounts string, as []string) *proxy {
	b.Helper()
	port, admin := peer.Port(b), fmt.Sprintf("127.0.0.1:%d", peer.Port(b))
	file := writeFile(b, "Caddyfile", fmt.Sprintf(`{
	admin %s
	auto_https off
	persist_config off
	grace_period 1s
	log {
		level ERROR
	}
	servers {
		listener_wrappers {
			idle_timeout 10m
		}
	}
}
:%d {
	bind 127.0.0.1
	sticky_proxy {
		%s
		exit direct://
		allow 127.0.0.1
		ports 1-65535
		idle_timeout 10m
	}
}
`, admin, port, accounts))
	p := run(b, port, as, program.Caddy(b), "run", "--config", file, "--adapter", "caddyfile")
	p.admin = admin
	return p
}

func startMinimal(b *testing.B, _ string, as []string) *proxy {
	b.Helper()
	return startRole(b, "minimal", as)
}

// startSource starts what tunnels lead to and returns its address. It is a
// process of its own, so that this one has one descriptor a tunnel, not two.
func startSource(b *testing.B) string {
	b.Helper()
	return startRole(b, "source", nil).address
}

func startRole(b *testing.B, role string, as []string) *proxy {
	b.Helper()
	port := peer.Port(b)
	self, err := os.Executable()
	require.NoError(b, err)
	b.Setenv(roleEnv, fmt.Sprintf("%s 127.0.0.1:%d", role, port))
	p := run(b, port, as, self)
	require.NoError(b, os.Unsetenv(roleEnv))
	return p
}

func startHAProxy(b *testing.B, target string, as []string) *proxy {
	b.Helper()
	port := peer.Port(b)
	file := writeFile(b, "haproxy.cfg", fmt.Sprintf(`global
	maxconn 6000
defaults
	mode tcp
	timeout connect 10s
	timeout client 10m
	timeout server 10m
	option splice-auto
listen tunnels
	bind 127.0.0.1:%d
	server target %s
`, port, target))
	p := run(b, port, as, "haproxy", "-db", "-f", file)
	p.direct = true
	return p
}

func startSquid(b *testing.B, _ string, as []string) *proxy {
	b.Helper()
	port := peer.Port(b)
	dir := sharedDir(b)
	file := writeFile(b, "squid.conf", fmt.Sprintf(`http_port 127.0.0.1:%d
http_access allow all
cache deny all
cache_log %[2]s/cache.log
access_log none
pid_filename none
coredump_dir %[2]s
max_filedescriptors 20000
shutdown_lifetime 0 seconds
`, port, dir))
	return run(b, port, as, "squid", "-N", "-n", peer.SquidService(), "-f", file)
}

func startTinyproxy(b *testing.B, _ string, as []string) *proxy {
	b.Helper()
	port := peer.Port(b)
	file := writeFile(b, "tinyproxy.conf", fmt.Sprintf("Port %d\nListen 127.0.0.1\nTimeout 600\nMaxClients 20000\nLogLevel Critical\n", port))
	return run(b, port, as, "tinyproxy", "-d", "-c", file)
}

func sharedDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("", "sticky-bench") //nolint:usetesting // one that other users may enter
	require.NoError(b, err)
	require.NoError(b, os.Chmod(dir, 0o777))
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func writeFile(b *testing.B, name, text string) string {
	b.Helper()
	file := filepath.Join(sharedDir(b), name)
	require.NoError(b, os.WriteFile(file, []byte(text), 0o644))
	return file
}

// run starts a program that listens on a port, and ends it with the benchmark.
func run(b *testing.B, port int, as []string, name string, args ...string) *proxy {
	b.Helper()
	if _, err := exec.LookPath(name); err != nil {
		b.Skipf("skipped: needs %s", name)
	}
	command := append(append([]string(nil), as...), name)
	home := sharedDir(b)
	cmd := exec.Command(command[0], append(command[1:], args...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(b, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	p := &proxy{pid: cmd.Process.Pid, address: fmt.Sprintf("127.0.0.1:%d", port)}
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", p.address)
		if err == nil {
			_ = conn.Close()
			return p
		}
		select {
		case <-ended:
			b.Fatalf("%s has ended", name)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s does not listen: %v", name, err)
		}
	}
}

// tunnel opens a tunnel to a target.
func (p *proxy) tunnel(target string) (*net.TCPConn, error) {
	conn, err := net.Dial("tcp", p.address)
	if err != nil || p.direct {
		return conn.(*net.TCPConn), err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, target, p.credentials); err != nil {
		return nil, err
	}
	// The reader takes what is behind the head only if the target speaks first.
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return conn.(*net.TCPConn), nil
}

// cpu returns what the process has used.
func (p *proxy) cpu(b *testing.B) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	require.NoError(b, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	require.NoError(b, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(b, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// files returns how many descriptors the process has.
func (p *proxy) files(b *testing.B) int {
	b.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	require.NoError(b, err)
	return len(entries)
}

// memory returns the process's share of memory in bytes, after a garbage
// collection where there is one.
func (p *proxy) memory(b *testing.B) int {
	b.Helper()
	if p.admin != "" {
		// Go returns memory to the system slowly, in the background.
		for range 3 {
			_, _ = p.get("/debug/pprof/heap?gc=1")
		}
	}
	least := p.pss(b)
	if testing.Short() {
		return least
	}
	for begin, last := time.Now(), time.Now(); time.Since(begin) < 20*time.Second && time.Since(last) < 3*time.Second; {
		time.Sleep(200 * time.Millisecond)
		if now := p.pss(b); now < least {
			least, last = now, time.Now()
		}
	}
	return least
}

func (p *proxy) pss(b *testing.B) int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
	require.NoError(b, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(b, err)
			return kib << 10
		}
	}
	b.Fatal("no Pss")
	return 0
}

// goroutines returns how many there are, or -1 where that cannot be asked.
func (p *proxy) goroutines() int {
	if p.admin == "" {
		return -1
	}
	text, err := p.get("/debug/pprof/goroutine?debug=1")
	if err != nil {
		return -1
	}
	n := -1
	_, _ = fmt.Sscanf(text, "goroutine profile: total %d", &n)
	return n
}

func (p *proxy) get(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+path, nil)
	if err != nil {
		return "", err
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}
