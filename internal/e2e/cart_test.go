// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

// shop is an application server with carts, which are in its memory only.
type shop struct {
	name, address string
	server        *http.Server

	mu    sync.Mutex
	carts map[string][]string // by JSESSIONID
	n     int
}

// newShop starts a shop on a free port.
func newShop(t *testing.T, name string) *shop {
	t.Helper()
	// Clients of other tests get no such port while the shop is closed.
	s := &shop{name: name, address: fmt.Sprintf("127.0.0.1:%d", program.FreePorts(t, 1)[0])}
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

func (s *shop) start(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", s.address)
	require.NoError(t, err)
	s.address = ln.Addr().String()
	s.carts = make(map[string][]string)
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: guard}
	go func() { _ = s.server.Serve(ln) }()
}

func (s *shop) stop() { _ = s.server.Close() }

// ServeHTTP implements http.Handler. The title of a page is the shop's name and
// what is in the cart.
func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/app/") { // a browser asks for /favicon.ico, without the cookie
		http.NotFound(w, r)
		return
	}
	if r.URL.Path == "/app/ws" {
		websocket.Handler(func(ws *websocket.Conn) {
			_ = websocket.Message.Send(ws, s.name+" "+s.cart(ws.Request()))
			_, _ = io.Copy(ws, ws)
		}).ServeHTTP(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := ""
	if cookie, err := r.Cookie("JSESSIONID"); err == nil {
		id = cookie.Value
	}
	_, known := s.carts[id]
	if r.URL.Path == "/app/login" || !known {
		// The id changes at a login, the cart does not.
		cart := s.carts[id]
		delete(s.carts, id)
		s.n++
		id = fmt.Sprintf("%s-%d-%d", s.name, time.Now().UnixNano(), s.n)
		s.carts[id] = cart
		w.Header().Add("Set-Cookie", "JSESSIONID="+id+"; Path=/app; HttpOnly")
	}
	if item := r.URL.Query().Get("item"); r.URL.Path == "/app/add" {
		s.carts[id] = append(s.carts[id], item)
	}
	if r.URL.Path != "/app/" {
		http.Redirect(w, r, "/app/", http.StatusSeeOther)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = fmt.Fprintf(w, `<title>%s %s</title><link rel="icon" href="data:,">
<form action="/app/login" method="post"><button id="login">Log in</button></form>
<form action="/app/add" method="post"><button id="tea" formaction="/app/add?item=tea">Tea</button>
<button id="cup" formaction="/app/add?item=cup">Cup</button></form>`, s.name, strings.Join(s.carts[id], ","))
}

func (s *shop) cart(r *http.Request) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	cookie, err := r.Cookie("JSESSIONID")
	if err != nil {
		return ""
	}
	return strings.Join(s.carts[cookie.Value], ",")
}

// A browser shops at three servers that know nothing of one another's carts.
func TestCartInABrowser(t *testing.T) {
	for name, source := range map[string]string{
		"application's cookie": "app_cookie JSESSIONID",
		"our cookie":           "cookie",
	} {
		t.Run(name, func(t *testing.T) {
			shops, upstreams := make(map[string]*shop), ""
			for _, name := range []string{"app1", "app2", "app3"} {
				shops[name] = newShop(t, name)
				upstreams += " " + shops[name].address
			}
			s := program.Start(t)
			// It closes its connections before Caddy stops, which waits for them.
			b := openBrowser(t, "--no-proxy-server")
			address := fmt.Sprintf("127.0.0.1:%d", program.FreePorts(t, 1)[0])
			balance := func(options string) {
				t.Helper()
				require.NoError(t, s.Load(program.AsCaddyfile, fmt.Sprintf(`{
	admin %s
	auto_https off
}
http://%s {
	bind 127.0.0.1
	header {
		defer
		X-Outcome {http.sticky.outcome}
	}
	reverse_proxy%s {
		lb_policy sticky shop {
			%s
			%s
		}
		lb_retries 2
		stream_close_delay 1h
	}
}
`, s.Admin, address, upstreams, source, options)))
			}
			balance("")
			outcome := func() string { return b.run("fetch('/app/').then(r => r.headers.get('X-Outcome'))") }

			title := b.open("http://" + address + "/app/")
			home, cart, _ := strings.Cut(title, " ")
			require.Empty(t, cart)
			require.Equal(t, home, b.click("#login"))
			require.Equal(t, home+" tea", b.click("#tea"))
			require.Equal(t, home+" tea,cup", b.click("#cup"))
			for range 5 {
				require.Equal(t, home+" tea,cup", b.reload())
			}
			require.Equal(t, "kept", outcome())
			open := `new Promise((done, fail) => { window.ws = new WebSocket("ws://" + location.host + "/app/ws");
				ws.onmessage = m => done(m.data); ws.onerror = () => fail("no WebSocket") })`
			require.Equal(t, home+" tea,cup", b.run(open))
			require.Equal(t, "hello", b.run(`new Promise((done, fail) => { ws.onclose = () => fail("closed");
				ws.onmessage = m => done(m.data); ws.send("hello") })`))

			// Its server drains: it stays, and newcomers go elsewhere.
			balance("drain " + shops[home].address)
			require.Equal(t, home+" tea,cup", b.reload())
			require.Equal(t, home+" tea,cup,tea", b.click("#tea"))
			require.Equal(t, "kept", outcome())
			for range 10 {
				page, err := get(visitor(t), "http://"+address+"/app/")
				require.NoError(t, err)
				require.NotContains(t, page, "<title>"+home)
			}

			// Another server is started anew, then its own one dies.
			balance("")
			for name, other := range shops {
				if name != home {
					other.stop()
					other.start(t)
				}
			}
			require.Equal(t, home+" tea,cup,tea", b.reload())
			shops[home].stop()
			require.Equal(t, "moved", outcome(), "the cart is lost, and the outcome says so")
			title = b.reload()
			moved, cart, _ := strings.Cut(title, " ")
			require.NotEqual(t, home, moved)
			require.Empty(t, cart)
			shops[home].start(t)
			require.Equal(t, moved+" cup", b.click("#cup"))
			for range 5 {
				require.Equal(t, moved+" cup", b.reload())
			}
			require.Equal(t, "kept", outcome())
		})
	}
}
