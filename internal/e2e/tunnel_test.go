// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

// tunnelSite is a Caddy with sticky_proxy on two ports, and what tunnels of the
// test lead to.
type tunnelSite struct {
	*program.Server
	plain, secure string
	target        *net.TCPListener
}

// newTunnelSite starts it with global options and lines of sticky_proxy. Without
// a server to use it starts one.
func newTunnelSite(t *testing.T, s *program.Server, global, lines string) *tunnelSite {
	t.Helper()
	needLoopback(t)
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	if s == nil {
		s = program.Start(t)
	}
	ports := program.FreePorts(t, 2)
	site := &tunnelSite{
		Server: s, target: ln,
		plain: fmt.Sprintf("127.0.0.1:%d", ports[0]), secure: fmt.Sprintf("127.0.0.1:%d", ports[1]),
	}
	require.NoError(t, s.Load(program.AsCaddyfile, fmt.Sprintf(`{
	admin %s
	auto_https disable_redirects
	skip_install_trust
	storage_clean_interval off
	local_certs
	%s
}
(proxy) {
	bind 127.0.0.1
	sticky_proxy {
		account alice $2a$04$K3kKau3IwHX47oTO8W6OeelqRLY4teCn.uodCrc9tubUx1xZD2O6O # secret
		exit direct://127.0.0.11
		exit direct://127.0.0.12
		exit direct://127.0.0.13
		exit direct://127.0.0.14
		allow 127.0.0.1
		ports 1-65535
		%s
	}
}
http://:%d {
	import proxy
}
https://:%d {
	import proxy
}
https://localhost:%d { # has the certificate; a CONNECT names its destination
	bind 127.0.0.1
}
`, s.Admin, global, lines, ports[0], ports[1], ports[1])))
	require.Eventually(t, func() bool { // until Caddy has its certificate
		conn, err := tls.Dial("tcp", site.secure, wsTLS)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, guard, 20*time.Millisecond)
	return site
}

// heldTunnel is both ends of a tunnel.
type heldTunnel struct {
	name           string
	client, target io.ReadWriteCloser
	exit           string
}

// fronts are how a client comes by a tunnel: which connection it asks over.
var fronts = map[string]func(t *testing.T, site *tunnelSite, user string) io.ReadWriteCloser{
	"plain": func(t *testing.T, site *tunnelSite, user string) io.ReadWriteCloser {
		t.Helper()
		conn, err := net.Dial("tcp", site.plain)
		require.NoError(t, err)
		return connected(t, conn, site, user)
	},
	"TLS": func(t *testing.T, site *tunnelSite, user string) io.ReadWriteCloser {
		t.Helper()
		conn, err := tls.Dial("tcp", site.secure, wsTLS)
		require.NoError(t, err)
		return connected(t, conn, site, user)
	},
	"HTTP/2": func(t *testing.T, site *tunnelSite, user string) io.ReadWriteCloser {
		t.Helper()
		r, w := io.Pipe()
		transport := &http.Transport{TLSClientConfig: wsTLS.Clone(), ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		res, err := transport.RoundTrip((&http.Request{
			Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: site.secure}, Host: site.target.Addr().String(),
			Header: http.Header{"Proxy-Authorization": {authorization(user)}}, Body: r, ContentLength: -1,
		}).WithContext(t.Context()))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, 2, res.ProtoMajor)
		t.Cleanup(func() { _ = w.Close(); _ = res.Body.Close() })
		return struct {
			io.Reader
			io.WriteCloser
		}{res.Body, w}
	},
}

func authorization(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":secret"))
}

// connected asks for a tunnel to the site's target.
func connected(t *testing.T, conn net.Conn, site *tunnelSite, user string) net.Conn {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(guard)))
	_, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\nProxy-Authorization: %s\r\n\r\n", site.target.Addr(), authorization(user))
	require.NoError(t, err)
	r := bufio.NewReaderSize(conn, 512) // nobody speaks before it is asked to
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Zero(t, r.Buffered())
	return conn
}

// open opens a tunnel of a user, and says that it stands.
func (site *tunnelSite) open(t *testing.T, front, user string) *heldTunnel {
	t.Helper()
	client := fronts[front](t, site, user)
	require.NoError(t, site.target.SetDeadline(time.Now().Add(guard)))
	target, err := site.target.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = target.Close() })
	require.NoError(t, target.SetDeadline(time.Now().Add(guard)))
	tunnel := &heldTunnel{name: front, client: client, target: target, exit: target.RemoteAddr().(*net.TCPAddr).IP.String()}
	tunnel.carries(t)
	return tunnel
}

// carries sends something both ways.
func (h *heldTunnel) carries(t *testing.T) {
	t.Helper()
	require.NoError(t, say(h.client, h.target), "%s, from the client", h.name)
	require.NoError(t, say(h.target, h.client), "%s, from the target", h.name)
}

func say(from io.Writer, to io.Reader) error {
	const text = "still here"
	if _, err := io.WriteString(from, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

// ends waits until both ends have read a FIN (over TLS behind a close_notify,
// over HTTP/2 END_STREAM), and no reset.
func (h *heldTunnel) ends() error {
	for side, end := range map[string]io.Reader{"client": h.client, "target": h.target} {
		if rest, err := io.ReadAll(end); err != nil || len(rest) > 0 {
			return fmt.Errorf("%s: the %s read %q, and then: %w", h.name, side, rest, err)
		}
	}
	return nil
}

// In real time, with what the options are by default: half a minute of silence.
func TestSilentTunnelEndsAfterThirtySecondsAndNoOther(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("skipped: takes 36 seconds")
	}
	const timeout, longer = 30 * time.Second, 36 * time.Second
	site := newTunnelSite(t, nil, "", "")
	// A goroutine for each, so that all wait at the same time.
	var wg sync.WaitGroup
	check := func(what string, do func() error) {
		wg.Go(func() {
			if err := do(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	// trickle sends one byte each time, and nothing the other way.
	trickle := func(from io.Writer, to io.Reader, every time.Duration) error {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for begin := time.Now(); time.Since(begin)+every < longer; {
			<-tick.C
			if _, err := from.Write([]byte{'x'}); err != nil {
				return err
			}
			if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
				return err
			}
		}
		return nil
	}
	var kept []*heldTunnel
	exits := make(map[string]string)
	for front := range fronts {
		user := "alice-session-" + front[:3]
		silent := site.open(t, front, user)
		exits[front] = silent.exit
		begin := time.Now()
		check("silent, "+front, func() error {
			err := silent.ends()
			took := time.Since(begin)
			t.Logf("the silent tunnel ended after %s (%s)", took, front)
			if took < timeout-timeout/100 || took > longer {
				return fmt.Errorf("it ended after %s: %w", took, err)
			}
			return err
		})
		for _, every := range []time.Duration{5 * time.Second, 29 * time.Second} {
			up, down := site.open(t, front, user), site.open(t, front, user)
			check(fmt.Sprintf("a byte each %s from the client, %s", every, front), func() error { return trickle(up.client, up.target, every) })
			check(fmt.Sprintf("a byte each %s from the target, %s", every, front), func() error { return trickle(down.target, down.client, every) })
			kept = append(kept, up, down)
		}
	}
	<-time.After(longer)
	wg.Wait()
	for _, tunnel := range kept {
		tunnel.carries(t)
		require.Equal(t, exits[tunnel.name], tunnel.exit)
	}
	for front, exit := range exits {
		require.Equal(t, exit, site.open(t, front, "alice-session-"+front[:3]).exit, "the session did not notice")
	}
}

// stopping asks Caddy to end and waits until it takes no connections any more.
func (site *tunnelSite) stopping(t *testing.T) (begin time.Time, ended <-chan struct{}) {
	t.Helper()
	begin = time.Now()
	done := make(chan struct{})
	go func() {
		site.StopBy(syscall.SIGTERM)
		close(done)
	}()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", site.plain)
		if err == nil {
			_ = conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	}, guard, 10*time.Millisecond)
	return begin, done
}

func TestProcessThatStopsWaitsForTunnels(t *testing.T) {
	t.Parallel()
	const grace = 2 * guard
	for front := range fronts {
		t.Run(front, func(t *testing.T) {
			t.Parallel()
			site := newTunnelSite(t, nil, "grace_period "+grace.String(), "")
			one, other := site.open(t, front, "alice"), site.open(t, front, "alice")
			_, ended := site.stopping(t)
			one.carries(t)
			require.NoError(t, one.target.Close())
			_, err := io.ReadAll(one.client)
			require.NoError(t, err)
			require.NoError(t, one.client.Close())
			other.carries(t)
			select {
			case <-ended:
				t.Fatal("it did not wait for the second tunnel")
			default:
			}
			require.NoError(t, other.client.Close())
			_, err = io.ReadAll(other.target)
			require.NoError(t, err)
			require.NoError(t, other.target.Close())
			<-ended // or stop complains, long before the grace period
		})
	}
}

func TestTunnelsEndByFINAtTheGracePeriod(t *testing.T) {
	t.Parallel()
	const grace = 3 * time.Second
	for front := range fronts {
		t.Run(front, func(t *testing.T) {
			t.Parallel()
			site := newTunnelSite(t, nil, "grace_period "+grace.String(), "")
			tunnel := site.open(t, front, "alice")
			begin, ended := site.stopping(t)
			tunnel.carries(t)
			err := tunnel.ends()
			if front != "HTTP/2" || err == nil || !strings.Contains(err.Error(), "GOAWAY") {
				require.NoError(t, err)
			} // else the process was gone before its server had written the stream's end
			require.GreaterOrEqual(t, time.Since(begin), grace)
			<-ended
			require.Zero(t, site.ExitCode())
		})
	}
}
