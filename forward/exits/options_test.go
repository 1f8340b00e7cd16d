// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
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

func TestExitGetsSessionsByItsWeight(t *testing.T) {
	for _, fallback := range []string{"", "fallback least_sessions\n", "fallback random\n", "fallback hash\n"} {
		t.Run(strings.TrimSpace(fallback), func(t *testing.T) {
			w := proxytest.NewWorld(t, proxytest.Alice, "exit direct://127.0.0.11 {\nweight 4\n}\nexit direct://127.0.0.12\n", proxytest.Loopback, fallback)
			seen := make(map[string]int)
			for i := range 100 {
				seen[w.Exit(fmt.Sprintf("alice-session-%d", i))]++
			}
			require.InDelta(t, 80, seen["127.0.0.11"], 16)
			require.Equal(t, 100, seen["127.0.0.11"]+seen["127.0.0.12"])
		})
	}
}

func TestExitTakesOnlySoManySessions(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, "exit direct://127.0.0.11 {\nmax_sessions 2\n}\nexit direct://127.0.0.12 {\nmax_sessions 3\n}\n", proxytest.Loopback)
	exits := make(map[string]string)
	seen := make(map[string]int)
	for i := range 5 {
		user := fmt.Sprintf("alice-session-%d", i)
		exits[user] = w.Exit(user)
		seen[exits[user]]++
	}
	require.Equal(t, map[string]int{"127.0.0.11": 2, "127.0.0.12": 3}, seen)
	got := w.Connect("alice-session-more", w.Origin)
	require.Equal(t, http.StatusServiceUnavailable, got.Status)
	for user, exit := range exits {
		require.Equal(t, exit, w.Exit(user))
	}
}

func TestExitOverItsRateIsLeftForAWhile(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, "exit direct://127.0.0.11 {\nrate 2/1h\n}\nexit direct://127.0.0.12 {\nrate 3/1h\n}\n", proxytest.Loopback)
	seen := make(map[string]int)
	for range 5 {
		seen[w.Exit("alice")]++
	}
	require.Equal(t, map[string]int{"127.0.0.11": 2, "127.0.0.12": 3}, seen)
	got := w.Connect("alice", w.Origin)
	require.Equal(t, http.StatusServiceUnavailable, got.Status)
	require.Contains(t, got.Body, "as many requests as they may")
}

func TestStrictSessionMovesOverTheRateAndOthersStay(t *testing.T) {
	for mode, moves := range map[string]bool{"strict": true, "flex": false, "norotate": false} {
		t.Run(mode, func(t *testing.T) {
			w := proxytest.NewWorld(t, proxytest.Alice, "exit direct://127.0.0.11 {\nrate 2/1h\n}\nexit direct://127.0.0.12 {\nrate 2/1h\n}\nexit direct://127.0.0.13\n", "fallback hash\n", proxytest.Loopback, "mode "+mode)
			for i := range 100 { // until one begins at an exit with a rate
				user := fmt.Sprintf("alice-session-%d", i)
				first := w.Exit(user)
				if first == "127.0.0.13" {
					continue
				}
				require.Equal(t, first, w.Exit(user))
				next := w.Exit(user)
				require.Equal(t, moves, next != first)
				return
			}
			t.Fatal("all sessions began elsewhere")
		})
	}
}

func TestTagsChooseTheExit(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, `exit direct://127.0.0.11 {
			tag country de
			tag city Berlin
		}
		exit direct://127.0.0.12 {
			tag country FR
			tag country be
		}
		exit direct://127.0.0.13 {
			tag country *
		}
		exit direct://127.0.0.14
		credentials <account>[-session-<session>][-country-<country>][-city-<city>]
	`, proxytest.Loopback)
	for range 12 {
		require.Contains(t, []string{"127.0.0.11", "127.0.0.13"}, w.Exit("alice-country-DE"))
		require.Contains(t, []string{"127.0.0.12", "127.0.0.13"}, w.Exit("alice-country-be"))
		require.Equal(t, "127.0.0.11", w.Exit("alice-city-berlin"))
	}
	got := w.Connect("alice-city-paris", w.Origin)
	require.Equal(t, http.StatusServiceUnavailable, got.Status)
	require.Contains(t, got.Body, "no exit has the tag city")

	german := w.Exit("alice-session-a-country-de")
	for range 5 {
		require.Equal(t, german, w.Exit("alice-session-a-country-DE"))
	}
	seen := make(map[string]bool)
	for range 20 {
		seen[w.Exit("alice")] = true
	}
	require.Len(t, seen, 4, "who asks for nothing gets any")
}

// tlsProxy is an HTTP proxy behind TLS, and the file with its certificate.
func tlsProxy(t *testing.T) (address, certificate string, asked *atomic.Int64) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS() // for its certificate
	config := server.TLS.Clone()
	certificate = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(certificate, text, 0o600))
	server.Close()

	asked = new(atomic.Int64)
	puppet := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{}, func(*http.Request) { asked.Add(1) }))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go relayTLS(tls.Server(conn, &tls.Config{Certificates: config.Certificates}), puppet.Address)
		}
	}()
	return ln.Addr().String(), certificate, asked
}

func relayTLS(conn *tls.Conn, to string) {
	defer conn.Close()
	behind, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer behind.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = behind.(*net.TCPConn).ReadFrom(conn)
		_ = behind.(*net.TCPConn).CloseWrite()
	}()
	_, _ = behind.(*net.TCPConn).WriteTo(conn)
	_ = conn.CloseWrite()
	<-done
}

func TestExitBehindTLS(t *testing.T) {
	address, certificate, asked := tlsProxy(t)
	for name, c := range map[string]struct {
		options string
		works   bool
	}{
		"trusted":           {"tls_trust " + certificate, true},
		"insecure":          {"tls_insecure", true},
		"under its name":    {"tls_trust " + certificate + "\ntls_server_name example.com", true},
		"under another one": {"tls_trust " + certificate + "\ntls_server_name elsewhere.example", false},
		"not trusted":       {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := proxytest.NewWorld(t, proxytest.Alice, "exit https://user:secret@"+address+" {\n"+c.options+"\n}\n", proxytest.Loopback)
			before := asked.Load()
			tunnel, plain := w.Connect("alice", w.Origin), w.Forwarded("alice")
			if !c.works {
				require.Equal(t, http.StatusBadGateway, tunnel.Status)
				require.Equal(t, http.StatusBadGateway, plain.Status)
				require.Contains(t, tunnel.Reason(), "tls_certificate_error")
				require.Equal(t, before, asked.Load())
				return
			}
			require.Equal(t, http.StatusOK, tunnel.Status)
			require.Equal(t, http.StatusOK, plain.Status)
			require.GreaterOrEqual(t, asked.Load(), before+2)
		})
	}
}

func TestFailureOfTLSIsTheExits(t *testing.T) {
	address, _, _ := tlsProxy(t)
	w := proxytest.NewWorld(t, proxytest.Alice, "exit https://user:secret@"+address+"\nexit direct://127.0.0.12\n", proxytest.Loopback)
	for i := range 20 {
		user := fmt.Sprintf("alice-session-%d", i)
		require.Equal(t, http.StatusOK, w.Forwarded(user).Status, "the other exit serves it")
		require.Equal(t, http.StatusOK, w.Connect(user, w.Origin).Status)
	}
	require.NotEmpty(t, w.Logs.Lines("exit failed"))
}

func TestCheckThroughTLSTrustsAsTheSystemDoes(t *testing.T) {
	address, certificate, asked := tlsProxy(t)
	checked := httptest.NewTLSServer(http.NotFoundHandler()) // nobody trusts it
	t.Cleanup(checked.Close)
	w := proxytest.NewWorld(t, proxytest.Alice, "exit https://user:secret@"+address+" {\ntls_trust "+certificate+"\ntls_server_name example.com\ncheck "+checked.URL+" 100ms\n}\n", proxytest.Loopback)
	proxytest.Eventually(t, "it is checked", func() bool { return asked.Load() > 0 })
	proxytest.Eventually(t, "the exit is down", func() bool { return len(w.Logs.Lines("exit is down")) > 0 })
	require.Contains(t, w.Logs.Lines("exit is down")[0].Text("error"), "tls_certificate_error", "the certificate is the exit's, and trusted only there")
}

func TestExitThatFailsItsChecksIsDownUntilItSucceeds(t *testing.T) {
	checked := proxytest.OriginOf(t, func(http.ResponseWriter, *http.Request) {})
	exit := proxytest.NewPuppet(t, proxytest.HTTPProxy(proxytest.Away{}, nil))
	w := proxytest.NewWorld(t, proxytest.Alice, "exit http://"+exit.Address+" {\ncheck http://"+checked+"/ 100ms\n}\n", proxytest.Loopback, "mode norotate")
	require.Equal(t, http.StatusOK, w.Connect("alice-session-a", w.Origin).Status)
	exit.Refuse()
	proxytest.Eventually(t, "the exit is down", func() bool {
		return w.Connect("alice-session-a", w.Origin).Status == http.StatusServiceUnavailable
	})
	require.NotEmpty(t, w.Logs.Lines("exit is down"))
	exit.Listen()
	proxytest.Eventually(t, "the exit is up", func() bool {
		return w.Connect("alice-session-a", w.Origin).Status == http.StatusOK
	})
	require.NotEmpty(t, w.Logs.Lines("exit is up again"))
}

func TestExitsFileIsReadAgainWhenItChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exits")
	write := func(lines ...string) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	}
	write("# ours", "direct://127.0.0.11 weight 2 tag country de", "", "ftp://x", "socks5://user:hunter2@", "direct://127.0.0.12 weight", "direct://127.0.0.13")
	w := proxytest.NewWorld(t, proxytest.Alice, "exit direct://127.0.0.14\nexits_file "+file+"\n", proxytest.Loopback, "credentials <account>[-session-<session>][-country-<country>]")
	for _, number := range []int{4, 5, 6} {
		require.NotEmpty(t, w.Logs.Lines("line of the exits file left out", proxytest.Fields{"line": number}), number)
	}
	require.NotContains(t, w.Logs.String(), "hunter2")
	seen := make(map[string]bool)
	for range 20 {
		seen[w.Exit("alice")] = true
	}
	require.Len(t, seen, 3)
	require.Equal(t, "127.0.0.11", w.Exit("alice-country-de"))

	sessions := make(map[string]string)
	for i := range 12 {
		user := fmt.Sprintf("alice-session-%d", i)
		sessions[user] = w.Exit(user)
	}
	write("direct://127.0.0.11 weight 2 tag country de", "direct://127.0.0.12")
	proxytest.Eventually(t, "the file is read again", func() bool { return len(w.Logs.Lines("exits file read again")) > 0 })
	for user, exit := range sessions {
		if exit == "127.0.0.13" {
			require.NotEqual(t, exit, w.Exit(user), "it is gone")
			continue
		}
		require.Equal(t, exit, w.Exit(user))
	}
	require.NoError(t, os.Remove(file))
	proxytest.Eventually(t, "the file is missed", func() bool { return len(w.Logs.Lines("exits file cannot be read: its exits stay as they were")) > 0 })
	require.Equal(t, "127.0.0.11", w.Exit("alice-country-de"))

	require.ErrorContains(t, w.Reload(proxytest.Alice+"exits_file "+file+"\n"), "exits_file: ")
}
