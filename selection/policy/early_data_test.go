// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/earlydata"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// marked is what a proxy in front adds to a request in early data (RFC 8470 §5.1).
const marked = "Early-Data: 1"

// onlySession returns the only session of the store.
func onlySession(t *testing.T) sessionstore.Session {
	t.Helper()
	var found []sessionstore.Session
	for s, err := range sessions(t).All(t.Context()) {
		require.NoError(t, err)
		found = append(found, s)
	}
	require.Len(t, found, 1)
	return found[0]
}

func TestAddressIsNotTrustedInEarlyData(t *testing.T) {
	for name, source := range map[string]string{"client_ip": "client_ip", "key": "key {client_ip}"} {
		t.Run(name, func(t *testing.T) {
			s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky addressed {\n"+source+"\nnew_sessions 1/1h\n}\nlb_retries 2")
			first := s.visitor().get(marked)
			require.Equal(t, "none ", first.outcome())
			for range 8 {
				require.Equal(t, first.body, s.visitor().reach(marked), "a hash of the address")
			}
			require.Zero(t, stored(t), "no session begins")

			home := s.visitor().get()
			require.Equal(t, "new ", home.outcome(), "early data takes nothing of new_sessions")
			kept := s.visitor().get(marked)
			require.Equal(t, "kept ", kept.outcome())
			require.Equal(t, home.body, kept.body)

			before := onlySession(t)
			s.apps[home.body].stop()
			elsewhere := s.visitor().get(marked)
			require.Equal(t, "spilled errors", elsewhere.outcome())
			require.NotEqual(t, home.body, elsewhere.body)
			require.Equal(t, before, onlySession(t), "it does not move, and no error is counted")
			s.apps[home.body].start()
			s.visitor().stays(home.body)
		})
	}
}

func TestEarlyDataTakesNoNewSessionOfAnAddress(t *testing.T) {
	for name, source := range map[string]struct {
		source string
		line   func(i int) string // what names a new session
	}{
		"cookie": {"cookie", func(int) string { return "X-Other: 1" }},
		"header": {"header X-Session", func(i int) string { return fmt.Sprint("X-Session: ", i) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky limited {\n"+source.source+"\nnew_sessions 2/1h\n}")
			for i := range 8 {
				got := s.visitor().get(source.line(i), marked)
				require.Equal(t, "none ", got.outcome())
				require.Empty(t, got.cookies())
				require.Equal(t, got.body, s.visitor().reach(source.line(i), marked), "a hash")
			}
			require.Zero(t, stored(t))

			known := make(map[*visitor]string)
			for i := range 2 {
				v := s.visitor()
				got := v.get(source.line(i))
				require.Equal(t, "new ", got.outcome(), "the limit is as it was")
				known[v] = got.body
				v.stays(got.body, source.line(i))
				again := v.get(source.line(i), marked)
				require.Equal(t, "kept ", again.outcome(), "an id that the client carries counts as always")
				require.Equal(t, got.body, again.body)
			}
			require.Equal(t, "none rate", s.visitor().get(source.line(2)).outcome())
			require.Equal(t, "none ", s.visitor().get(source.line(2), marked).outcome())
			require.Equal(t, 2, stored(t))

			// A session that an operator ended is known, and another one does not begin.
			endAll(t)
			for v := range known {
				got := v.get(source.line(0), marked)
				require.Equal(t, "none ", got.outcome())
				require.Empty(t, got.cookies())
			}
			require.Zero(t, stored(t))
		})
	}
}

func TestEarlyDataWithoutALimitBeginsSessionsThatTheClientCarries(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky carried")
	v := s.visitor()
	got := v.get(marked)
	require.Equal(t, "new ", got.outcome())
	require.Len(t, got.cookies(), 1)
	v.stays(got.body, marked)
}

// runSecure runs a Caddy with one site over TLS and HTTP/3, and returns its address.
func runSecure(t *testing.T, directives string) (string, *tls.Config) {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	cert := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: key},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	port := peer.Port(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	secure := fmt.Sprintf("tls %[1]s/cert.pem %[1]s/key.pem\n%[2]s", dir, directives)
	text := strings.Replace(configuredText("", secure, t.TempDir()), "http://:0 {", fmt.Sprintf(":%d {", port), 1)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(adapted, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	return address, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

func TestFirstSessionIsWhereEarlyDataWas(t *testing.T) {
	var addresses []string
	for i := range 12 {
		addresses = append(addresses, fmt.Sprintf("127.1.0.%d", i+1))
	}
	needAddresses(t, addresses...)
	apps := newApps(t, "a", "b", "c")
	address, config := runSecure(t, "reverse_proxy "+upstreams(apps...)+" {\nlb_policy sticky zerortt {\nclient_ip\nnew_sessions 1/1h\n}\n}")
	client := earlydata.NewClient(t, address, config)
	request := func() *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/", nil)
		require.NoError(t, err)
		return r
	}
	asked := func() (n int) {
		for _, a := range apps {
			n += len(a.requests())
		}
		return n
	}
	seen := make(map[string]bool)
	for i, from := range addresses {
		before := asked()
		conn := client.Dial(from)
		early := conn.Send(request(), "")
		require.NoError(t, early.Close())
		until(t, func() bool { return asked() > before })
		require.Equal(t, i, stored(t), "no session begins before the handshake")
		conn.Finish()
		first, name := conn.Answer(early)
		require.Equal(t, "none", first.Header.Get("X-Outcome"))

		again := conn.Send(request(), "")
		require.NoError(t, again.Close())
		second, same := conn.Answer(again)
		require.Equal(t, "new", second.Header.Get("X-Outcome"))
		require.Equal(t, name, same)
		seen[name] = true

		before = asked()
		next := client.Dial(from)
		early = next.Send(request(), "")
		require.NoError(t, early.Close())
		until(t, func() bool { return asked() > before })
		next.Finish()
		third, same := next.Answer(early)
		require.Equal(t, "kept", third.Header.Get("X-Outcome"))
		require.Equal(t, name, same)
	}
	require.Greater(t, len(seen), 1)
}
