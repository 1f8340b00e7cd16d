// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

// browser is Chromium with one page, driven over its DevTools protocol.
type browser struct {
	t  *testing.T
	ws *websocket.Conn
	id int
	on map[string]func(params json.RawMessage) // events, while a call is under way
}

// openBrowser starts Chromium with these options.
func openBrowser(t *testing.T, options ...string) *browser {
	t.Helper()
	profile := t.TempDir()
	arguments := []string{
		"--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-quic",
		"--remote-debugging-port=0", "--remote-allow-origins=*", "--user-data-dir=" + profile, "about:blank",
	}
	arguments = append(options, arguments...)
	if os.Geteuid() == 0 {
		arguments = append([]string{"--no-sandbox"}, arguments...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, peer.Need(t, "chromium"), arguments...)
	said := new(program.LockedBuffer)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.WaitDelay = time.Second
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		// Its children may write to the profile for a moment longer.
		require.Eventually(t, func() bool { return os.RemoveAll(profile) == nil }, guard, 50*time.Millisecond)
		if t.Failed() {
			t.Logf("chromium said:\n%s", said)
		}
	})
	var port string
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(profile, "DevToolsActivePort"))
		line, _, whole := strings.Cut(string(text), "\n")
		port = line
		return err == nil && whole
	}, guard, 20*time.Millisecond)
	var pages []struct{ Type, WebSocketDebuggerURL string }
	require.Eventually(t, func() bool {
		res, err := http.Get("http://127.0.0.1:" + port + "/json/list")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return json.NewDecoder(res.Body).Decode(&pages) == nil && len(pages) > 0 && pages[0].Type == "page"
	}, guard, 20*time.Millisecond)
	ws, err := websocket.Dial(pages[0].WebSocketDebuggerURL, "", "http://127.0.0.1")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ws.Close() })
	require.NoError(t, ws.SetDeadline(time.Now().Add(guard)))
	return &browser{t: t, ws: ws, on: make(map[string]func(json.RawMessage))}
}

// call calls a method of the protocol and returns its result.
func (b *browser) call(method string, params any) json.RawMessage {
	b.t.Helper()
	id := b.send(method, params)
	for {
		var answer struct {
			ID             int
			Error          *struct{ Message string }
			Method         string
			Result, Params json.RawMessage
		}
		require.NoError(b.t, websocket.JSON.Receive(b.ws, &answer))
		if answer.ID == id {
			require.Nil(b.t, answer.Error, method)
			return answer.Result
		}
		if event := b.on[answer.Method]; event != nil {
			event(answer.Params)
		}
	}
}

// send calls a method whose result does not matter.
func (b *browser) send(method string, params any) int {
	b.t.Helper()
	b.id++
	require.NoError(b.t, websocket.JSON.Send(b.ws, map[string]any{"id": b.id, "method": method, "params": params}))
	return b.id
}

// run runs a script in the page and returns what it comes to, as text.
func (b *browser) run(script string) string {
	b.t.Helper()
	var got struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	result := b.call("Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true})
	require.NoError(b.t, json.Unmarshal(result, &got))
	require.Empty(b.t, string(got.ExceptionDetails), script)
	return fmt.Sprint(got.Result.Value)
}

// visit leads to a page by what a user does, and waits until it is there. What
// the page says is in its title.
func (b *browser) visit(does func()) string {
	b.t.Helper()
	b.run("window.old = true")
	does()
	require.Eventually(b.t, func() bool {
		return b.run("String(!window.old && document.readyState == 'complete')") == "true"
	}, guard, 10*time.Millisecond)
	return b.run("document.title")
}

func (b *browser) open(url string) string {
	b.t.Helper()
	return b.visit(func() { b.call("Page.navigate", map[string]any{"url": url}) })
}

func (b *browser) reload() string {
	b.t.Helper()
	return b.visit(func() { b.call("Page.reload", map[string]any{"ignoreCache": true}) })
}

func (b *browser) click(selector string) string {
	b.t.Helper()
	return b.visit(func() { b.run(fmt.Sprintf("document.querySelector(%q).click()", selector)) })
}
