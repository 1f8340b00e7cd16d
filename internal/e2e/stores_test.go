// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// app is an application server that says its name.
type app struct {
	name, address string
	broken        atomic.Bool // hangs up
}

func apps(t *testing.T, n int) []*app {
	t.Helper()
	all := make([]*app, n)
	for i := range all {
		a := &app{name: fmt.Sprint("app", i)}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if a.broken.Load() {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, a.name)
		}))
		t.Cleanup(s.Close)
		a.address = strings.TrimPrefix(s.URL, "http://")
		all[i] = a
	}
	return all
}

// balancer is a Caddy that balances applications' load.
type balancer struct {
	*program.Server
	t              *testing.T
	url, upstreams string
}

// balance gives a Caddy global options and a load balancer whose sessions come
// from the header X-Session, or else from the cookie.
func balance(t *testing.T, s *program.Server, options string, all []*app) *balancer {
	t.Helper()
	b := &balancer{Server: s, t: t, url: fmt.Sprintf("http://127.0.0.1:%d", program.FreePorts(t, 1)[0])}
	for _, a := range all {
		b.upstreams += " " + a.address
	}
	b.configure(options)
	return b
}

func (b *balancer) configure(options string) {
	b.t.Helper()
	require.NoError(b.t, b.Load(program.AsCaddyfile, fmt.Sprintf(`{
	admin %s
	%s
}
%s {
	reverse_proxy%s {
		lb_policy sticky shop {
			header X-Session
			cookie
		}
		lb_retries 2
	}
}
`, b.Admin, options, b.url, b.upstreams)))
}

// visit returns which application a session of the header gets.
func (b *balancer) visit(id string) string {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.url, nil)
	require.NoError(b.t, err)
	req.Header.Set("X-Session", id)
	res, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	require.Equal(b.t, http.StatusOK, res.StatusCode, "%s", body)
	return string(body)
}

// visits returns which application each of n sessions gets.
func (b *balancer) visits(prefix string, n int) []string {
	b.t.Helper()
	got := make([]string, n)
	for i := range got {
		got[i] = b.visit(fmt.Sprint(prefix, i))
	}
	return got
}

// lastingRedis starts a server that keeps what it answered, also if it is
// killed. Again starts it again.
func lastingRedis(t *testing.T) (server *peer.Process, again func()) {
	t.Helper()
	options := []string{"--dir", t.TempDir(), "--appendonly", "yes", "--appendfsync", "always"}
	server = peer.Redis(t, options...)
	return server, func() {
		t.Helper()
		var port int
		_, err := fmt.Sscanf(server.Address, "127.0.0.1:%d", &port)
		require.NoError(t, err)
		require.Equal(t, server.Address, peer.RedisAt(t, port, options...).Address)
	}
}

// onRedis are the options of a Caddy whose store is on a server.
func onRedis(server *peer.Process) string {
	return "sticky {\n\t\tstore redis " + server.Address + " {\n\t\t\ttimeout 10s\n\t\t}\n\t}"
}

// found says how often this Caddy found its server there.
func (b *balancer) found() int { return len(b.Lines(testlog.Fields{"msg": "session store is there"})) }

func TestTwoCaddysOnOneRedis(t *testing.T) {
	redis, again := lastingRedis(t)
	all := apps(t, 3)
	one, two := balance(t, program.Start(t), onRedis(redis), all), balance(t, program.Start(t), onRedis(redis), all)

	before := one.visits("s", 20)
	require.Equal(t, before, two.visits("s", 20), "sessions of one are kept at the other")

	// One moves a session. Its application is back before the other one hears of
	// that session again.
	var first *app
	for _, a := range all {
		if a.name == before[0] {
			first = a
		}
	}
	first.broken.Store(true)
	before[0] = one.visit("s0")
	require.NotEqual(t, first.name, before[0], "it moves")
	first.broken.Store(false)
	require.Eventually(t, func() bool { return two.visit("s0") == before[0] }, guard, time.Millisecond, "the move is seen")
	require.Equal(t, before, one.visits("s", 20))

	require.Empty(t, commandsOf(t, redis, func() {
		for range 5 {
			require.Equal(t, before, one.visits("s", 20))
			require.Equal(t, before, two.visits("s", 20))
		}
	}), "a kept session sends no command")
	require.Len(t, commandsOf(t, redis, func() { one.visit("new") }), 2, "a new one is looked up and claimed")

	redis.Kill()
	require.Equal(t, before, one.visits("s", 20), "known sessions are kept")
	require.Equal(t, before, two.visits("s", 20))
	unknown := one.visits("unknown", 20)
	require.Equal(t, unknown, two.visits("unknown", 20), "others land on the same application at both")
	require.NotEqual(t, slices.Repeat(unknown[:1], 20), unknown, "and are spread")

	found := []int{one.found(), two.found()}
	again()
	require.Eventually(t, func() bool { return one.found() > found[0] && two.found() > found[1] }, guard, 10*time.Millisecond)
	for range 2 {
		for _, b := range []*balancer{two, one} {
			require.Equal(t, before, b.visits("s", 20), "nobody moves")
			require.Equal(t, unknown, b.visits("unknown", 20))
		}
	}
}

// commandsOf returns the commands about sessions that a server got during some
// work.
func commandsOf(t *testing.T, redis *peer.Process, work func()) []string {
	t.Helper()
	conn, err := net.Dial("tcp", redis.Address)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(guard)))
	_, err = conn.Write([]byte("MONITOR\r\n"))
	require.NoError(t, err)
	heard := bufio.NewScanner(conn)
	require.True(t, heard.Scan())
	require.Equal(t, "+OK", heard.Text())
	work()
	redisCLI(t, redis, "time") // what was sent before stands before it
	var commands []string
	for heard.Scan() {
		line := heard.Text()
		switch {
		case strings.Contains(line, `"time"`):
			return commands
		case strings.Contains(line, "sticky:s{") && !strings.Contains(line, " lua]"):
			commands = append(commands, line)
		}
	}
	t.Fatalf("the server's monitor ended: %v", heard.Err())
	return nil
}

func redisCLI(t *testing.T, server *peer.Process, args ...string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(server.Address)
	out, err := exec.Command(peer.Need(t, "redis-cli"), append([]string{"-p", port}, args...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.TrimSpace(string(out))
}

func TestReloadCarriesSessionsToRedisAndBack(t *testing.T) {
	redis := peer.Redis(t)
	b := balance(t, program.Start(t), "", apps(t, 5))
	want := b.visits("s", 30)
	b.configure(onRedis(redis))
	require.Equal(t, want, b.visits("s", 30))
	require.Equal(t, "30", redisCLI(t, redis, "eval", "return #redis.call('keys', 'sticky:s{*')", "0"))
	more := b.visits("more", 30)
	b.configure("")
	require.Equal(t, want, b.visits("s", 30))
	require.Equal(t, more, b.visits("more", 30))
}

// get returns which application a client with cookies gets, and whether it was
// given a cookie.
func (b *balancer) get(client *http.Client) (name string, given bool) {
	b.t.Helper()
	res, err := client.Get(b.url)
	require.NoError(b.t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	require.Equal(b.t, http.StatusOK, res.StatusCode, "%s", body)
	return string(body), len(res.Header["Set-Cookie"]) > 0
}

func TestTwoCaddysOnOneStorageReadEachOthersCookies(t *testing.T) {
	storage := "storage file_system " + t.TempDir()
	all := apps(t, 5)
	one, two := balance(t, program.Start(t), storage, all), balance(t, program.Start(t), storage, all)
	both := []*balancer{one, two}
	clients, want := make([]*http.Client, 20), make([]string, 20)
	for i := range clients {
		clients[i] = visitor(t)
		var given bool
		want[i], given = both[i%2].get(clients[i])
		require.True(t, given)
	}
	kept := func(at ...*balancer) {
		t.Helper()
		for i, client := range clients {
			for _, b := range at {
				name, given := b.get(client)
				require.Equal(t, want[i], name)
				require.False(t, given, "the cookie is good as it is")
			}
		}
	}
	kept(two, one)

	// The header's sessions are in one's table only.
	headers := one.visits("s", 20)
	require.FileExists(t, filepath.Join(one.Home, "caddy", "sticky", "default.db"))
	one.Stop()
	kept(two)
	three := balance(t, program.StartIn(t, one.Home), storage, all)
	require.Equal(t, headers, three.visits("s", 20), "a restart keeps every session")
	kept(three, two)
}

func TestKilledCaddyRemembersWhatWasWritten(t *testing.T) {
	const killedAfter = 5 * time.Second
	every := 5 * time.Millisecond // how often each client begins a session
	if long() {
		every = time.Nanosecond
	}
	all := apps(t, 8)
	b := balance(t, program.Start(t), "", all)
	type answer struct {
		id, app string
		at      time.Time
	}
	const clients = 8
	answers := make([][]answer, clients)
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	var visitors sync.WaitGroup
	for c := range clients {
		visitors.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for n := 0; ; n++ { // until Caddy is gone
				<-tick.C
				a := answer{id: fmt.Sprint(c, "-", n)}
				req, _ := http.NewRequest(http.MethodGet, b.url, nil)
				req.Header.Set("X-Session", a.id)
				res, err := transport.RoundTrip(req)
				if err != nil {
					return
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK {
					return
				}
				a.app, a.at = string(body), time.Now()
				answers[c] = append(answers[c], a)
			}
		})
	}
	time.AfterFunc(killedAfter, b.Kill)
	visitors.Wait()
	killed := time.Now()

	again := balance(t, program.StartIn(t, b.Home), "", all)
	sessions, lost := 0, 0
	var oldest time.Duration
	for _, a := range slices.Concat(answers...) {
		sessions++
		if again.visit(a.id) != a.app {
			lost++
			oldest = max(oldest, killed.Sub(a.at))
		}
	}
	t.Logf("of %d sessions in %s the kill lost %d, the first of them %s before the end", sessions, killedAfter, lost, oldest)
	require.NotZero(t, sessions)
	// It is a second and the time that a write takes, on a machine that is busy.
	require.Less(t, oldest, killedAfter-time.Second)
}
