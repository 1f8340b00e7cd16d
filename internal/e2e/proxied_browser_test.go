// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// mirrors are web servers that answer with the address that they see.
type mirrors struct {
	urls []string

	mu    sync.Mutex
	peers map[string]bool // host:port, one for each connection
}

// newMirrors starts servers for these schemes.
func newMirrors(t *testing.T, schemes ...string) *mirrors {
	t.Helper()
	m := &mirrors{peers: make(map[string]bool)}
	for _, scheme := range schemes {
		server := httptest.NewUnstartedServer(m)
		if scheme == "https" {
			server.StartTLS()
		} else {
			server.Start()
		}
		t.Cleanup(server.Close)
		m.urls = append(m.urls, server.URL)
	}
	return m
}

// ServeHTTP implements http.Handler.
func (m *mirrors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.peers[r.RemoteAddr] = true
	m.mu.Unlock()
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Cache-Control", "no-store")
	switch r.URL.Path {
	case "/":
		_, _ = fmt.Fprintf(w, `<title>%s</title><link rel="icon" href="data:,">`, host)
	case "/ws":
		websocket.Handler(func(ws *websocket.Conn) {
			_ = websocket.Message.Send(ws, host)
			_, _ = io.Copy(io.Discard, ws) // the client leaves first
		}).ServeHTTP(w, r)
	case "/bye":
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, host)
	default:
		_, _ = io.WriteString(w, host)
	}
}

// connections is how many the mirrors have seen.
func (m *mirrors) connections() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.peers)
}

// authenticate lets the browser answer the proxy that asks for credentials.
func (b *browser) authenticate(user, password string) {
	b.t.Helper()
	type event struct {
		RequestID     string
		AuthChallenge struct{ Source string }
	}
	on := func(name string, does func(event)) {
		b.on[name] = func(params json.RawMessage) {
			var e event
			require.NoError(b.t, json.Unmarshal(params, &e))
			does(e)
		}
	}
	on("Fetch.requestPaused", func(e event) {
		b.send("Fetch.continueRequest", map[string]any{"requestId": e.RequestID})
	})
	on("Fetch.authRequired", func(e event) {
		require.Equal(b.t, "Proxy", e.AuthChallenge.Source)
		b.send("Fetch.continueWithAuth", map[string]any{
			"requestId":             e.RequestID,
			"authChallengeResponse": map[string]any{"response": "ProvideCredentials", "username": user, "password": password},
		})
	})
	b.call("Fetch.enable", map[string]any{"handleAuthRequests": true})
}

// Whatever connections a browser opens, its session has one exit, and it is the
// one that other clients have in this session.
func TestBrowserBehindTheProxy(t *testing.T) {
	needLoopback(t)
	s := program.Start(t)
	ports := program.FreePorts(t, 4)
	// A browser asks for things of its own as well: they do not leave.
	block := `
	bind 127.0.0.1
	log
	sticky_proxy {
		account alice $2a$10$xjAxB6Y67jcnSvv7mbOsYOb2/5YzUbLfV04moY7NDVmaQ3KcigZ2W
		exit direct://127.0.0.11
		exit direct://127.0.0.12
		exit direct://127.0.0.13
		exit direct://127.0.0.14
		ports 1-65535
		deny *
		allow 127.0.0.1
	}
`
	require.NoError(t, s.Load(program.AsCaddyfile, fmt.Sprintf(`{
	admin %s
	skip_install_trust
	storage_clean_interval off
	http_port %d
	auto_https disable_redirects
}
http://:%d {%s}
:%[5]d, one.localhost:%[5]d {
	tls internal
	%[4]s
}
:%[6]d, two.localhost:%[6]d {
	tls internal {
		alpn http/1.1
	}
	%[4]s
}
`, s.Admin, ports[3], ports[0], block, ports[1], ports[2])))

	for i, front := range []struct {
		proxy, protocol string
		mirrors         []string // the schemes; the first one's has the page
	}{
		{fmt.Sprintf("http://127.0.0.1:%d", ports[0]), "HTTP/1.1", []string{"http", "http", "https"}},
		// What is not a tunnel is not for a proxy over HTTP/2.
		{fmt.Sprintf("https://one.localhost:%d", ports[1]), "HTTP/2.0", []string{"https", "https", "https"}},
		{fmt.Sprintf("https://two.localhost:%d", ports[2]), "HTTP/1.1", []string{"http", "http", "https"}},
	} {
		t.Run(front.proxy[:5]+" "+front.protocol, func(t *testing.T) {
			user := fmt.Sprint("alice-session-", i)
			proxy := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", ports[0]), User: url.UserPassword(user, "secret")}
			others := &http.Client{Timeout: guard, Transport: &http.Transport{
				Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			}}
			m := newMirrors(t, front.mirrors...)
			exit, err := get(others, m.urls[0]+"/address")
			require.NoError(t, err)
			before := m.connections()

			b := openBrowser(t, "--proxy-server="+front.proxy, "--proxy-bypass-list=<-loopback>", "--ignore-certificate-errors")
			b.authenticate(user, "secret")
			require.Equal(t, exit, b.open(m.urls[0]+"/"))
			urls, err := json.Marshal(m.urls)
			require.NoError(t, err)
			seen := b.run(fmt.Sprintf(`Promise.all([].concat(...Array(6).fill(%s)).map((url, i) =>
				fetch(url + "/address?" + i).then(r => r.text()))).then(all => all.length + " " + [...new Set(all)].join(" "))`, urls))
			require.Equal(t, "18 "+exit, seen)
			require.Equal(t, exit, b.run(fmt.Sprintf(`new Promise((done, fail) => {
				const ws = new WebSocket(%q.replace("http", "ws") + "/ws")
				ws.onmessage = m => done(m.data)
				ws.onerror = () => fail("no WebSocket") })`, m.urls[1])))
			require.Equal(t, exit, b.run(fmt.Sprintf(`fetch(%q + "/bye").then(r => r.text())`, m.urls[2])))
			require.Equal(t, exit, b.reload())
			require.GreaterOrEqual(t, m.connections()-before, len(m.urls), "the page takes several connections")
			var hosts []string
			for _, line := range s.Lines(testlog.Fields{
				"msg": "handled request", "request": testlog.Fields{"proto": front.protocol, "method": http.MethodConnect},
			}) {
				hosts = append(hosts, testlog.Fields(line["request"].(map[string]any)).Text("host"))
			}
			require.Regexp(t, `(?m)^127\.0\.0\.1:`, strings.Join(hosts, "\n"))
			require.NotContains(t, s.Log.String(), user)
		})
	}
}
