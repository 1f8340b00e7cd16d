// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package networkproxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

func TestNetworkProxyKeepsTheExit(t *testing.T) {
	secure := httptest.NewTLSServer(http.HandlerFunc(proxytest.Mirror))
	t.Cleanup(secure.Close)
	for name, upstream := range map[string]struct{ address, transport string }{
		"http":  {proxytest.OriginOf(t, proxytest.Mirror), ""},
		"https": {secure.Listener.Addr().String(), "tls_insecure_skip_verify"},
	} {
		t.Run(name, func(t *testing.T) {
			block := proxytest.FourProxies(t)
			e := proxytest.NewEgress(t, upstream.address, "", upstream.transport, block)
			kept, exits := make(map[string]string), make(map[string]bool)
			for i := range 12 {
				session := fmt.Sprint("s", i)
				_, kept[session] = e.Get(session)
				exits[kept[session]] = true
			}
			require.GreaterOrEqual(t, len(exits), 3)
			for range 3 {
				for session, exit := range kept {
					status, again := e.Get(session)
					require.Equal(t, http.StatusOK, status)
					require.Equal(t, exit, again)
				}
			}
			exits = make(map[string]bool)
			for range 4 {
				_, exit := e.Get("")
				exits[exit] = true
			}
			require.Equal(t, map[string]bool{"127.0.0.11": true, "127.0.0.12": true, "127.0.0.13": true, "127.0.0.14": true}, exits)

			require.NoError(t, e.Reconfigure(block+"max_idle 10m"))
			for session, exit := range kept {
				_, again := e.Get(session)
				require.Equal(t, exit, again, "after a reload")
			}
			require.Len(t, e.Logs.Lines("", proxytest.Fields{"outcome": "new"}), 12+12, "in the access log and in the debug log")
			require.NotContains(t, e.Logs.String(), "s3cret")
		})
	}
}

// Without a source, the session is the client's address.
func TestNetworkProxyByAddress(t *testing.T) {
	block := strings.TrimPrefix(proxytest.FourProxies(t), "header X-Session\n")
	e := proxytest.NewEgress(t, proxytest.OriginOf(t, proxytest.Mirror), "", "", block)
	_, exit := e.Get("")
	for range 8 {
		_, again := e.Get("")
		require.Equal(t, exit, again)
	}
}

func TestNetworkProxySessionsEnd(t *testing.T) {
	e := proxytest.NewEgress(t, proxytest.OriginOf(t, proxytest.Mirror), "", "", proxytest.FourProxies(t)+"ttl 1s")
	_, exit := e.Get("a")
	proxytest.Eventually(t, "another exit", func() bool {
		_, now := e.Get("a")
		return now != exit
	})
	require.NotEmpty(t, e.Logs.Lines("", proxytest.Fields{"reason": "expired"}))
}

// An attempt that follows another one of the same request leaves through another
// exit, and the session moves; norotate waits for its own.
func TestNetworkProxyExitFails(t *testing.T) {
	for mode, want := range map[string]struct {
		options string
		status  int
	}{
		"strict":                  {"lb_retries 1", http.StatusOK},
		"strict, without retries": {"", http.StatusBadGateway},
		"norotate":                {"lb_retries 1", http.StatusBadGateway},
	} {
		t.Run(mode, func(t *testing.T) {
			one := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.11"}, nil))
			two := proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{From: "127.0.0.12"}))
			block := fmt.Sprintf("header X-Session\nmode %s\nexit http://%s\nexit socks5://%s", strings.Split(mode, ",")[0], one.Address, two.Address)
			e := proxytest.NewEgress(t, proxytest.OriginOf(t, proxytest.Mirror), want.options, "", block)
			_, exit := e.Get("a")
			mine, other := one, "127.0.0.12"
			if exit == other {
				mine, other = two, "127.0.0.11"
			}
			mine.Refuse()
			status, now := e.Get("a")
			require.Equal(t, want.status, status)
			if status == http.StatusOK {
				require.Equal(t, other, now)
				require.NotEmpty(t, e.Logs.Lines("", proxytest.Fields{"outcome": "moved"}))
				exit = other
			}
			mine.Listen()
			for range 3 {
				_, again := e.Get("a")
				require.Equal(t, exit, again)
			}
		})
	}
}

// A connection that the exit closed while it was kept says nothing of the exit.
func TestNetworkProxyStaysWhereConnectionsWereClosed(t *testing.T) {
	var through [2]atomic.Int64
	block := "header X-Session\n"
	for i := range through {
		p := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil && proxytest.ForwardOne(conn, r, proxytest.Away{From: fmt.Sprintf("127.0.0.1%d", i+1)}) {
				through[i].Add(1)
			}
		})
		block += "exit http://" + p.Address + "\n"
	}
	e := proxytest.NewEgress(t, proxytest.OriginOf(t, proxytest.Mirror), "lb_retries 1", "", block)
	_, exit := e.Get("a")
	for range 20 {
		_, again := e.Get("a")
		require.Equal(t, exit, again)
	}
	require.Empty(t, e.Logs.Lines("", proxytest.Fields{"outcome": "moved"}))
}

// Whatever happens, no request leaves without an exit.
func TestNetworkProxyNeverLeavesByItself(t *testing.T) {
	var direct atomic.Int64
	upstream := proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		if proxytest.HostOf(r.RemoteAddr) == "127.0.0.1" {
			direct.Add(1)
		}
		proxytest.Mirror(w, r)
	})
	file := filepath.Join(t.TempDir(), "exits.txt")
	p := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.11"}, nil))
	require.NoError(t, os.WriteFile(file, []byte("http://"+p.Address+"\n"), 0o600))
	e := proxytest.NewEgress(t, upstream, "lb_retries 2", "", "header X-Session\nexits_file "+file)
	_, exit := e.Get("a")
	require.Equal(t, "127.0.0.11", exit)
	require.NoError(t, os.WriteFile(file, []byte("# none\n"), 0o600))
	proxytest.Eventually(t, "file read again", func() bool { return len(e.Logs.Lines("exits file read again")) > 0 })
	for _, session := range []string{"a", "b", ""} {
		status, _ := e.Get(session)
		require.Equal(t, http.StatusBadGateway, status)
	}
	p.Refuse()
	require.NoError(t, e.Reconfigure("header X-Session\nexit http://"+p.Address))
	for _, session := range []string{"a", "b", ""} {
		status, _ := e.Get(session)
		require.Equal(t, http.StatusBadGateway, status)
	}
	require.Zero(t, direct.Load())
}

// An exit that its check finds down loses its sessions without a retry.
func TestNetworkProxyCheck(t *testing.T) {
	origin := proxytest.OriginOf(t, proxytest.Mirror)
	one := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.11"}, nil))
	two := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.12"}, nil))
	check := " {\n check http://" + origin + "/ 100ms\n}\n"
	e := proxytest.NewEgress(t, origin, "", "", "header X-Session\nexit http://"+one.Address+check+"exit http://"+two.Address+check)
	_, exit := e.Get("a")
	mine, other := one, "127.0.0.12"
	if exit == other {
		mine, other = two, "127.0.0.11"
	}
	mine.Refuse()
	proxytest.Eventually(t, "exit down", func() bool { return len(e.Logs.Lines("exit is down")) > 0 })
	status, now := e.Get("a")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, other, now)
}

func TestNetworkProxyThroughAGateway(t *testing.T) {
	for scheme, start := range proxytest.Providers {
		t.Run(scheme, func(t *testing.T) {
			p := start(t)
			e := proxytest.NewEgress(t, proxytest.OriginOf(t, proxytest.Mirror), "", "", fmt.Sprintf("header X-Session\nexit %s://me-{session}-{ttl_minutes}:pw@%s {\n slots 3\n}", scheme, p.Address))
			users := make(map[string]bool)
			for _, session := range []string{"a", "b"} {
				for range 4 {
					status, _ := e.Get(session)
					require.Equal(t, http.StatusOK, status)
				}
				users[p.Login().User] = true
			}
			require.Len(t, users, 2)
			for user := range users {
				require.Regexp(t, `^me-[0-9a-z]{8}-15$`, user)
			}
		})
	}
}

// A proxy within TLS, with the transport's own options.
func TestNetworkProxyOverTLS(t *testing.T) {
	behind := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.11"}, nil))
	secure := httptest.NewUnstartedServer(nil)
	secure.StartTLS()
	config := secure.TLS.Clone()
	secure.Close()
	config.NextProtos = []string{"http/1.1"}
	front := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
		client := tls.Server(conn, config)
		target, err := net.Dial("tcp", behind.Address)
		if err != nil {
			return
		}
		defer target.Close()
		go func() {
			_, _ = io.Copy(target, client)
			_ = target.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(client, target)
	})
	upstream := httptest.NewTLSServer(http.HandlerFunc(proxytest.Mirror))
	t.Cleanup(upstream.Close)
	e := proxytest.NewEgress(t, upstream.Listener.Addr().String(), "", "tls_insecure_skip_verify", "header X-Session\nexit https://user:pw@"+front.Address)
	status, exit := e.Get("a")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "127.0.0.11", exit)
}

// The client's Host says nothing about where the request goes.
func TestNetworkProxyGoesToTheUpstream(t *testing.T) {
	var elsewhere atomic.Int64
	other := proxytest.OriginOf(t, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	hosts := make(chan string, 1)
	upstream := proxytest.OriginOf(t, func(_ http.ResponseWriter, r *http.Request) { hosts <- r.Host })
	for exit, host := range map[string]string{
		"http://" + proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.11"}, nil)).Address: upstream,
		"socks5://" + proxytest.NewPuppet(t, proxytest.SocksProxy(proxytest.Away{From: "127.0.0.12"})).Address:   other,
	} {
		e := proxytest.NewEgress(t, upstream, "", "", "exit "+exit)
		c := proxytest.Dial(t, e.Site)
		c.Send("GET / HTTP/1.1\r\nHost: " + other + "\r\n\r\n")
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).Status)
		require.Equal(t, host, <-hosts)
	}
	require.Zero(t, elsewhere.Load())
}

func TestNetworkProxyRefused(t *testing.T) {
	for block, want := range map[string]string{
		"":                                      "it has no exits",
		"exit direct://":                        "direct:// cannot be an exit here, where Caddy itself connects to the proxy of a URL: use http, https or socks5",
		"exit http://a.example\nexit direct://": "exit 2: direct:// cannot be an exit here",
		"exit https://a.example {\n tls_insecure\n}":   "its TLS options have no effect here",
		"exit http://a.example\nmode flex":             "mode flex has to know how requests end",
		"exit http://a.example\nmode gentle":           `"gentle"`,
		"exit http://a.example\nttl 0s":                "ttl is 0s, it must be positive",
		"exit http://a.example\nmax_idle -1s":          "max_idle",
		"exit http://a.example\nfallback first":        `fallback "first" is unknown`,
		"exit http://a.example\ncookie":                "unknown option cookie",
		"exit http://a.example\nstore other":           `no session store is named "other"`,
		"exit http://a.example\nexit http://a.example": "exit http://a.example:80 is given twice",
	} {
		err := proxytest.Load(fmt.Sprintf(`{
	admin off
	persist_config off
	storage file_system %s
}
:0 {
	reverse_proxy 127.0.0.1:1 {
		transport http {
			network_proxy sticky {
				%s
			}
		}
	}
}`, t.TempDir(), block))
		require.ErrorContains(t, err, want, block)
	}
}
