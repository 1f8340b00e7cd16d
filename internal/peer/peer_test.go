// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a test that may be skipped or fail without ending this one.
type recorder struct {
	testing.TB
	skipped string
	failed  bool
}

func (*recorder) Helper()                 {}
func (r *recorder) Skip(args ...any)      { r.skipped = args[0].(string) }
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

func TestMissingProgramSkips(t *testing.T) {
	t.Setenv("STICKY_NEED_PEERS", "")
	var r recorder
	require.Empty(t, Need(&r, "no-such-program"))
	require.Equal(t, "skipped: needs no-such-program", r.skipped)
	require.False(t, r.failed)
}

func TestMissingProgramFailsWherePeersAreNeeded(t *testing.T) {
	t.Setenv("STICKY_NEED_PEERS", "1")
	var r recorder
	require.Empty(t, Need(&r, "no-such-program"))
	require.Empty(t, r.skipped)
	require.True(t, r.failed)
}

func TestNodeNeedsItsPackages(t *testing.T) {
	t.Setenv("STICKY_NEED_PEERS", "")
	var r recorder
	require.Empty(t, Node(&r, "no-such-directory"))
	require.Equal(t, "skipped: needs the packages of no-such-directory (npm ci)", r.skipped)
}

func TestProxiesReachTheLoopback(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	t.Cleanup(origin.Close)
	for name, start := range map[string]func(*testing.T) (scheme string, p *Process, who *url.Userinfo){
		"squid": func(t *testing.T) (string, *Process, *url.Userinfo) {
			return "http", Squid(t, SquidOptions{}), nil
		},
		"squid with a password": func(t *testing.T) (string, *Process, *url.Userinfo) {
			return "http", Squid(t, SquidOptions{User: "me", Password: "secret"}), url.UserPassword("me", "secret")
		},
		"tinyproxy": func(t *testing.T) (string, *Process, *url.Userinfo) { return "http", Tinyproxy(t), nil },
		"danted":    func(t *testing.T) (string, *Process, *url.Userinfo) { return "socks5", Dante(t), nil },
		"microsocks": func(t *testing.T) (string, *Process, *url.Userinfo) {
			return "socks5", Microsocks(t, "", ""), nil
		},
		"microsocks with a password": func(t *testing.T) (string, *Process, *url.Userinfo) {
			return "socks5", Microsocks(t, "me", "secret"), url.UserPassword("me", "secret")
		},
	} {
		t.Run(name, func(t *testing.T) {
			scheme, p, who := start(t)
			transport := &http.Transport{
				DisableKeepAlives: true,
				Proxy:             http.ProxyURL(&url.URL{Scheme: scheme, Host: p.Address, User: who}),
			}
			res, err := (&http.Client{Transport: transport}).Get(origin.URL)
			require.NoError(t, err)
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode, string(body))
			require.Equal(t, "hello", string(body))
			if who == nil {
				return
			}
			transport.Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: p.Address, User: url.UserPassword("me", "wrong")})
			res, err = (&http.Client{Transport: transport}).Get(origin.URL)
			if err == nil {
				_ = res.Body.Close()
				require.Equal(t, http.StatusProxyAuthRequired, res.StatusCode)
			}
		})
	}
}

func TestSquidLeavesFromTheAddressItIsGiven(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	}))
	t.Cleanup(origin.Close)
	p := Squid(t, SquidOptions{Outgoing: "127.0.0.31"})
	transport := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: p.Address})}
	res, err := (&http.Client{Transport: transport}).Get(origin.URL)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.31", string(body))
}

func TestProcessEndsWithItsTest(t *testing.T) {
	var p *Process
	t.Run("inner", func(t *testing.T) { p = Microsocks(t, "", "") })
	if p == nil {
		return // skipped
	}
	_, err := net.Dial("tcp", p.Address)
	require.Error(t, err)
}

func TestProgramThatEndsIsReported(t *testing.T) {
	program, err := os.Executable()
	require.NoError(t, err)
	p := &Process{
		Address: "127.0.0.1:1", output: new(output), exited: make(chan struct{}),
		cmd: exec.Command(program, "-test.run=^$"),
	}
	require.NoError(t, p.cmd.Start())
	go p.wait()
	require.False(t, p.accepts())
	p.Stop()
}
