// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// idleSite starts a Caddy with these listener wrappers and returns its port.
func idleSite(t *testing.T, wrappers, site string) (s *program.Server, port int) {
	t.Helper()
	s, port = program.Start(t), program.FreePorts(t, 1)[0]
	require.NoError(t, s.Load(program.AsCaddyfile, fmt.Sprintf(`{
	admin %s
	skip_install_trust
	storage_clean_interval off
	http_port %d
	metrics
	servers {
		protocols h1 h2 h2c
		listener_wrappers {
			%s
		}
	}
}

%s {
	%s
}
`, s.Admin, program.FreePorts(t, 1)[0], wrappers, fmt.Sprintf("https://localhost:%d", port), site)))
	// Its certificate comes a little later.
	require.Eventually(t, func() bool {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, guard, 20*time.Millisecond, "no certificate")
	return s, port
}

const secureSite = "tls internal\n\trespond \"{http.request.proto}\""

// above and below TLS, which costs, and is right all the same.
var idleOrders = map[string]string{"below": "idle_timeout 1m\n tls", "above": "idle_timeout 1m"}

func TestTLSResumesAndChangesKeysBesideTheIdleTimeout(t *testing.T) {
	openssl := peer.Need(t, "openssl")
	for order, wrappers := range idleOrders {
		t.Run(order, func(t *testing.T) {
			_, port := idleSite(t, wrappers, secureSite)
			for _, version := range []string{"-tls1_2", "-tls1_3"} {
				session := filepath.Join(t.TempDir(), "session")
				first := talkTLS(t, openssl, port, version, "-sess_out", session)
				require.Contains(t, first, "New, TLSv1.")
				again := talkTLS(t, openssl, port, version, "-sess_in", session)
				require.Contains(t, again, "Reused, TLSv1.", version)
			}
		})
	}
}

// talkTLS sends a request over TLS, on 1.3 one after a change of keys, and
// returns what the client says of it.
func talkTLS(t *testing.T, openssl string, port int, version string, args ...string) string {
	t.Helper()
	cmd := exec.Command(openssl, append([]string{"s_client", "-connect", fmt.Sprintf("127.0.0.1:%d", port), "-servername", "localhost", version}, args...)...)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	out := new(program.LockedBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	await := func(text string) {
		require.Eventually(t, func() bool { return strings.Contains(out.String(), text) }, guard, 5*time.Millisecond, text)
	}
	await("Verify return code")
	request := "GET / HTTP/1.1\r\nHost: localhost\r\n"
	if version == "-tls1_3" {
		// Whatever begins with a K is a command: ours and the server's keys.
		_, err = io.WriteString(stdin, "K\n")
		require.NoError(t, err)
		await("KEYUPDATE")
	}
	_, err = io.WriteString(stdin, request+"Connection: close\r\n\r\n")
	require.NoError(t, err)
	await("HTTP/1.1 200 OK")
	require.NoError(t, cmd.Wait())
	_ = stdin.Close()
	return out.String()
}

func TestLastRequestEndsTheConnection(t *testing.T) {
	curl := peer.Need(t, "curl")
	for _, order := range []string{"idle_timeout 1m {\n max_requests 2\n}\n tls", "idle_timeout 1m {\n max_requests 2\n}"} {
		_, port := idleSite(t, order, secureSite)
		for _, version := range []string{"--http1.1", "--http2"} {
			url := fmt.Sprintf("https://localhost:%d/", port)
			out, err := exec.Command(curl, "-sk", version, "-w", " %{num_connects}\n", url, url, url, url).CombinedOutput()
			require.NoError(t, err, string(out))
			var connects []string
			for line := range strings.Lines(string(out)) {
				connects = append(connects, strings.Fields(line)[1])
			}
			require.Equal(t, []string{"1", "0", "1", "0"}, connects, "%s: two requests a connection\n%s", version, out)
		}
	}
}

func TestIdleTimeoutBesideOtherWrappersAndProtocols(t *testing.T) {
	curl := peer.Need(t, "curl")
	options := " {\n requests exempt\n max_lifetime 1h\n max_requests 1\n}\n"
	for name, c := range map[string]struct {
		wrappers string
		args     []string
		scheme   string
		want     string
	}{
		"PROXY protocol above": {"idle_timeout 1m" + options + "proxy_protocol\n tls", []string{"--haproxy-protocol", "--http1.1"}, "https", "HTTP/1.1 1"},
		"PROXY protocol below": {"proxy_protocol\n idle_timeout 1m" + options + "tls", []string{"--haproxy-protocol", "--http2"}, "https", "HTTP/2.0 1"},
		"redirect above":       {"idle_timeout 1m" + options + "http_redirect\n tls", []string{"--http2"}, "https", "HTTP/2.0 1"},
		"redirect below":       {"http_redirect\n idle_timeout 1m" + options + "tls", []string{"--http1.1"}, "https", "HTTP/1.1 1"},
		"redirected":           {"idle_timeout 1m" + options + "http_redirect\n tls", []string{"-L"}, "http", "HTTP/2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			s, port := idleSite(t, c.wrappers, secureSite)
			url := fmt.Sprintf("%s://localhost:%d/", c.scheme, port)
			args := append([]string{"-sk", "-w", " %{num_connects}\n"}, c.args...)
			out, err := exec.Command(curl, append(args, url, url)...).CombinedOutput()
			require.NoError(t, err, string(out))
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			require.Len(t, lines, 2)
			for _, line := range lines {
				require.Contains(t, line, c.want)
			}
			require.Empty(t, s.Lines(testlog.Fields{
				"msg": "another listener wrapper hides the connection: idle_timeout learns of no requests",
			}))
		})
	}
	t.Run("h2c", func(t *testing.T) {
		s, port := program.Start(t), program.FreePorts(t, 1)[0]
		require.NoError(t, s.Load(program.AsCaddyfile, fmt.Sprintf(
			"{\n admin %s\n servers {\n protocols h1 h2c\n listener_wrappers {\n idle_timeout 1m {\n max_requests 1\n}\n}\n}\n}\nhttp://localhost:%d {\n respond \"{http.request.proto}\"\n}\n", s.Admin, port)))
		url := fmt.Sprintf("http://localhost:%d/", port)
		out, err := exec.Command(curl, "-s", "--http2-prior-knowledge", "-w", " %{num_connects}\n", url, url).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Equal(t, "HTTP/2.0 1\nHTTP/2.0 1\n", string(out))
	})
}

var closedConnections = regexp.MustCompile(`(?m)^caddy_sticky_closed_total\{reason="idle",what="connection"\} (\d+)$`)

func TestClosesAreCountedAcrossReloads(t *testing.T) {
	curl := peer.Need(t, "curl")
	s, port := program.Start(t), program.FreePorts(t, 1)[0]
	config := func(body string) string {
		return fmt.Sprintf("{\n admin %s\n servers {\n listener_wrappers {\n idle_timeout 300ms\n}\n}\n}\nhttp://localhost:%d {\n respond %q\n}\n", s.Admin, port, body)
	}
	counted := func() string {
		res, err := http.Get("http://" + s.Admin + "/metrics")
		require.NoError(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		if found := closedConnections.FindSubmatch(text); found != nil {
			return string(found[1])
		}
		return "0"
	}
	for i := range 3 {
		require.NoError(t, s.Load(program.AsCaddyfile, config(fmt.Sprint(i))))
		require.Equal(t, fmt.Sprint(i), counted())
		// It waits for more than is there: until the connection is closed.
		_, _ = exec.Command(curl, "-s", "--max-time", "60", "telnet://localhost:"+fmt.Sprint(port)).CombinedOutput()
		require.Eventually(t, func() bool { return counted() == fmt.Sprint(i+1) }, guard, 10*time.Millisecond)
	}
}
