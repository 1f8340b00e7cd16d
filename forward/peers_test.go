// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// through uses a proxy whose only exit is this one, in each way there is.
func through(t *testing.T, exit string) {
	t.Helper()
	origin, requests := recording(t)
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.Loopback + "exit " + exit})
	text := proxytest.RandomText(300 << 10)
	echoing := proxytest.ServerOf(t, proxytest.Echo)

	c := w.Tunnel("alice-session-abc", echoing)
	c.Send("early")
	c.Expect("early")
	go func() {
		_, _ = io.WriteString(c.Conn, text)
	}()
	got := make([]byte, len(text))
	_, err := io.ReadFull(c.Reader, got)
	require.NoError(t, err)
	require.True(t, text == string(got), "other bytes came back than were sent")
	c.Close()

	client := w.Client("alice-session-abc")
	for i := range 4 {
		// Tinyproxy closes without having said so, and then only what is
		// idempotent is sent again (RFC 9110 §9.2.2): so the body comes first.
		method, body := http.MethodPost, text
		if i > 0 {
			method, body = http.MethodGet, ""
		}
		r, err := http.NewRequest(method, "http://"+origin+"/path?query", strings.NewReader(body))
		require.NoError(t, err)
		res, err := client.Do(r)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
		r = <-requests
		require.Equal(t, "/path?query", r.RequestURI)
		require.NotContains(t, r.Header, "Proxy-Authorization")
	}

	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "secure")
	}))
	t.Cleanup(secure.Close)
	transport := client.Transport.(*http.Transport)
	transport.TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig
	res, err := client.Get(secure.URL)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, "secure", string(body))

	refused := w.Connect("alice-session-abc", proxytest.DeadPort(t))
	require.Equal(t, http.StatusBadGateway, refused.Status, refused.Body)
	require.Empty(t, w.Logs.Lines("exit failed"), "the target's refusal is not the exit's error")
	transport.CloseIdleConnections()
}

func TestSquidIsAnExit(t *testing.T) {
	through(t, "http://"+peer.Squid(t, peer.SquidOptions{}).Address)
}

func TestSquidWithAPasswordIsAnExit(t *testing.T) {
	address := peer.Squid(t, peer.SquidOptions{User: "me", Password: "p4ss:word"}).Address
	through(t, "http://me:p4ss%3Aword@"+address)

	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit http://me:wrong@"+address)
	res := w.Connect("alice", w.Origin)
	require.Equal(t, http.StatusBadGateway, res.Status)
	require.NotContains(t, res.Header, "Proxy-Authenticate", "the client's credentials are good")
	res = w.Forwarded("alice")
	require.Equal(t, http.StatusBadGateway, res.Status)
	require.NotContains(t, res.Header, "Proxy-Authenticate")
	require.NotContains(t, w.Logs.String(), "p4ss")
}

func TestTinyproxyIsAnExit(t *testing.T) { through(t, "http://"+peer.Tinyproxy(t).Address) }

func TestDanteIsAnExit(t *testing.T) { through(t, "socks5://"+peer.Dante(t).Address) }

func TestMicrosocksIsAnExit(t *testing.T) {
	through(t, "socks5://"+peer.Microsocks(t, "", "").Address)
}

func TestMicrosocksWithAPasswordIsAnExit(t *testing.T) {
	address := peer.Microsocks(t, "me", "p4ss:word").Address
	through(t, "socks5://me:p4ss%3Aword@"+address)

	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit socks5://me:wrong@"+address)
	require.Equal(t, http.StatusBadGateway, w.Connect("alice", w.Origin).Status)
	require.Len(t, w.Logs.Lines("exit failed"), 1)
	w = proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "exit socks5://"+address)
	require.Equal(t, http.StatusBadGateway, w.Connect("alice", w.Origin).Status)
}

// A session stays with squid until squid is gone.
func TestSessionMovesFromASquidThatDies(t *testing.T) {
	squids := map[string]*peer.Process{}
	block := proxytest.Alice + proxytest.Loopback
	for _, from := range []string{"127.0.0.31", "127.0.0.32"} {
		squids[from] = peer.Squid(t, peer.SquidOptions{Outgoing: from})
		block += "exit http://" + squids[from].Address + "\n"
	}
	w := proxytest.NewWorld(t, block)
	first := w.Exit("alice-session-abc")
	require.Contains(t, squids, first)
	require.Equal(t, first, w.Exit("alice-session-abc"))
	require.Equal(t, first, w.Forwarded("alice-session-abc").Body)
	squids[first].Stop()
	second := w.Exit("alice-session-abc")
	require.NotEqual(t, first, second)
	require.Equal(t, second, w.Forwarded("alice-session-abc").Body)
}

// An exit that is another such proxy: here a second site of the same Caddy, so
// that a request passes two of them. The first one adds no Via, by which the
// second one would know its own process.
func TestAnotherSuchProxyIsAnExit(t *testing.T) {
	inner := peer.Port(t)
	origin, requests := recording(t)
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{
		Block: proxytest.Alice + proxytest.Loopback + "via off\nexit http://bob-session-inner:pass%3Aword@127.0.0.1:" + strconv.Itoa(inner),
		Sites: ":" + strconv.Itoa(inner) + ` {
	bind 127.0.0.1
	sticky_proxy inner {
		` + proxytest.Bob + proxytest.FourExits + proxytest.Loopback + `
	}
}`,
	})
	require.Equal(t, http.StatusOK, w.Forwarded("alice-session-abc").Status)
	from := proxytest.HostOf((<-requests).RemoteAddr)
	require.Regexp(t, `^127\.0\.0\.1[1-4]$`, from)
	for range 5 {
		c := w.Tunnel("alice-session-abc", origin)
		c.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
		c.Close()
		require.Equal(t, from, proxytest.HostOf((<-requests).RemoteAddr))
	}
	res := w.Connect("alice-session-abc", "10.0.0.1:443")
	require.Equal(t, http.StatusForbidden, res.Status)
	res = w.Connect("alice-session-abc", proxytest.DeadPort(t))
	require.Equal(t, http.StatusBadGateway, res.Status)
	require.Empty(t, w.Logs.Lines("exit failed"))
}

func TestCurlIsAClient(t *testing.T) {
	curl := peer.Need(t, "curl")
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, proxytest.FourExits, proxytest.Loopback)
	run := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), proxytest.Guard)
		defer cancel()
		cmd := exec.CommandContext(ctx, curl, append([]string{"-q", "-sS", "--noproxy", "", "-w", " %{http_code} %{http_connect}"}, args...)...)
		cmd.Env = append(os.Environ(), "http_proxy=", "https_proxy=", "HTTPS_PROXY=")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	first := w.Exit("alice-session-abc")
	for _, args := range [][]string{
		{"-x", "http://alice-session-abc:secret@" + w.Proxy},
		{"-x", w.Proxy, "--proxy-user", "alice-session-abc:secret"},
		{"-x", w.Proxy, "--proxy-user", "alice-session-abc:secret", "--http1.0"},
		{"-x", w.Proxy, "--proxy-user", "alice-session-abc:secret", "--proxy-anyauth"},
	} {
		out, err := run(append(args, "http://"+w.Origin)...)
		require.NoError(t, err, out)
		require.Equal(t, first+" 200 000", out, args)
		out, err = run(append(args, "-p", "http://"+w.Origin)...)
		require.NoError(t, err, out)
		require.Equal(t, first+" 200 200", out, args)
	}
	out, err := run("-x", w.Proxy, "--proxy-user", "bob:pass:word", "-p", "http://"+w.Origin)
	require.NoError(t, err, out)
	require.Regexp(t, `^127\.0\.0\.1[1-4] 200 200$`, out)
	out, err = run("-x", w.Proxy, "--proxy-user", "alice:wrong", "-p", "http://"+w.Origin)
	require.Error(t, err)
	require.Contains(t, out, "407")
	out, err = run("-x", w.Proxy, "--proxy-user", "alice:wrong", "http://"+w.Origin)
	require.NoError(t, err)
	require.Contains(t, out, "407")
	out, err = run("-x", w.Proxy, "--proxy-user", "alice:secret", "-d", strings.Repeat("x", 100_000), "http://"+w.Origin)
	require.NoError(t, err)
	require.Contains(t, out, " 200 000")
}
