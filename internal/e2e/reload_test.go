// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

// talk opens a WebSocket of a visitor, over which the server says its name
// first. Cookies of the visitor go along.
func talk(t *testing.T, client *http.Client, address string) (ws *websocket.Conn, server string, err error) {
	t.Helper()
	config, err := websocket.NewConfig("ws://"+address+"/ws", "http://"+address)
	require.NoError(t, err)
	page, err := http.NewRequest(http.MethodGet, "http://"+address, nil)
	require.NoError(t, err)
	for _, cookie := range client.Jar.Cookies(page.URL) {
		config.Header.Add("Cookie", cookie.String())
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, "", err
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err = conn.SetDeadline(time.Now().Add(3 * guard)); err != nil {
		return nil, "", err
	}
	if ws, err = websocket.NewClient(config, conn); err != nil {
		return nil, "", err
	}
	err = websocket.Message.Receive(ws, &server)
	return ws, server, err
}

func TestHundredReloadsMoveNoSessionAndCutNoWebSocket(t *testing.T) {
	apps := ""
	for _, name := range []string{"app1", "app2", "app3"} {
		mux := http.NewServeMux()
		mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
		mux.Handle("/ws", websocket.Handler(func(ws *websocket.Conn) {
			_ = websocket.Message.Send(ws, name)
			_, _ = io.Copy(ws, ws)
		}))
		app := httptest.NewServer(mux)
		t.Cleanup(app.Close)
		apps += " " + strings.TrimPrefix(app.URL, "http://")
	}
	s := program.Start(t)
	address := fmt.Sprintf("127.0.0.1:%d", program.FreePorts(t, 1)[0])
	config := func(i int) string {
		ttl := []string{"1h", "2h"}[i%2] // so that it is another configuration
		return fmt.Sprintf(`{
	admin %s
	auto_https off
}
http://%s {
	bind 127.0.0.1
	reverse_proxy%s {
		lb_policy sticky shop {
			ttl %s
		}
		stream_close_delay 1h
	}
}
`, s.Admin, address, apps, ttl)
	}
	require.NoError(t, s.Load(program.AsCaddyfile, config(0)))

	var resets, requests, messages atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	again := func(what string, one func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := one(); err != nil {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	for i := range 4 {
		client := visitor(t)
		home, err := get(client, "http://"+address)
		require.NoError(t, err)
		ws, server, err := talk(t, client, address)
		require.NoError(t, err)
		require.Equal(t, home, server, "the WebSocket is where its session is")
		again(fmt.Sprint("visitor ", i), func() error {
			got, err := retried(&resets, func() (string, error) { return get(client, "http://"+address) })
			requests.Add(1)
			if err == nil && got != home {
				err = fmt.Errorf("went from %s to %s", home, got)
			}
			return err
		})
		again(fmt.Sprint("websocket ", i), func() error {
			want := fmt.Sprint("message ", messages.Add(1))
			if err := websocket.Message.Send(ws, want); err != nil {
				return err
			}
			var got string
			if err := websocket.Message.Receive(ws, &got); err != nil || got == want {
				return err
			}
			return fmt.Errorf("sent %q, got %q", want, got)
		})
	}
	for i := range 100 {
		asked, said := requests.Load(), messages.Load()
		require.NoError(t, s.Load(program.AsCaddyfile, config(i+1)))
		require.Eventually(t, func() bool {
			return t.Failed() || requests.Load() >= asked+8 && messages.Load() >= said+8
		}, guard, time.Millisecond)
		require.False(t, t.Failed())
	}
	close(stop)
	wg.Wait()
	t.Logf("%d requests, %d messages; %d requests were reset by Caddy's listener hand-over and tried again",
		requests.Load(), messages.Load(), resets.Load())
}
