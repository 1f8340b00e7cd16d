// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/earlydata"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// connectRequest is a CONNECT for a client of HTTP/3.
func connectRequest(w *proxytest.World, user, password, destination string) *http.Request {
	return &http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: w.Proxy}, Host: destination,
		Header: http.Header{"Proxy-Authorization": {proxytest.Basic(user, password)}},
	}
}

// handled returns how many requests the proxy has refused, or sent to the target.
func handled(w *proxytest.World, target *proxytest.Puppet) int64 {
	return int64(len(w.Logs.Lines("request refused"))) + target.Dials.Load()
}

// tunnels checks that a tunnel to an echo server carries bytes.
func tunnels(t *testing.T, stream *http3.RequestStream) {
	t.Helper()
	res, err := stream.ReadResponse()
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	_, err = io.WriteString(stream, "ping")
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(stream, got)
	require.NoError(t, err)
	require.Equal(t, "ping", string(got))
}

// B11: the datagrams of a CONNECT in early data can be sent again by a third party.
func TestReplayedConnectReachesNoDestination(t *testing.T) {
	w, config := streamSite(t, "")
	target := proxytest.NewPuppet(t, proxytest.Hang)
	conn := earlydata.NewClient(t, w.Proxy, config).Dial("127.0.0.1")
	conn.Send(connectRequest(w, "alice-session-abc", proxytest.AlicePassword, target.Address), "early bytes")
	proxytest.Eventually(t, "the request", func() bool { return handled(w, target) == 1 })
	conn.Finish()
	conn.Close()
	// The server counts the datagrams as repeated ones of the closed connection until
	// it forgets that connection's ids, about three round trips later.
	proxytest.Eventually(t, "the replay", func() bool {
		conn.Replay()
		return handled(w, target) > 1
	})
	require.Zero(t, target.Dials.Load())
	require.Empty(t, w.Logs.Lines("decided"), "no session begins")
}

// B11 and RFC 8470 §5.2: a client that gets 425 sends its request again.
func TestConnectIsServedAfterTheHandshake(t *testing.T) {
	w, config := streamSite(t, "")
	target := proxytest.NewPuppet(t, proxytest.Echo)
	conn := earlydata.NewClient(t, w.Proxy, config).Dial("127.0.0.1")
	early := conn.Send(connectRequest(w, "alice", proxytest.AlicePassword, target.Address), "")
	proxytest.Eventually(t, "the request", func() bool { return handled(w, target) == 1 })
	conn.Finish()
	res, body := conn.Answer(early)
	require.Equal(t, http.StatusTooEarly, res.StatusCode)
	require.Equal(t, `caddy; error=http_request_denied; details="the request was sent in early data, which can be replayed: `+
		`send it again after the TLS handshake"`, res.Header.Get("Proxy-Status"))
	require.Contains(t, body, "send it again")
	require.Empty(t, res.Header.Values("Proxy-Authenticate"))
	require.Zero(t, target.Dials.Load())
	tunnels(t, conn.Send(connectRequest(w, "alice", proxytest.AlicePassword, target.Address), ""))
	require.EqualValues(t, 1, target.Dials.Load())
}

// B11: the address of a request in early data may be forged, so its owner must not
// be locked out by it.
func TestWrongPasswordsInEarlyDataLockNoAddressOut(t *testing.T) {
	w, config := streamSite(t, "")
	target := proxytest.NewPuppet(t, proxytest.Echo)
	client := earlydata.NewClient(t, w.Proxy, config)
	for i := range 12 {
		client.Dial("127.0.0.1").Send(connectRequest(w, "alice", fmt.Sprint("wrong-", i), target.Address), "")
	}
	proxytest.Eventually(t, "the requests", func() bool { return handled(w, target) == 12 })
	conn := client.Dial("127.0.0.1")
	conn.Finish()
	tunnels(t, conn.Send(connectRequest(w, "alice", proxytest.AlicePassword, target.Address), ""))
}

// B11: a proxy before this one marks what came to it in early data (RFC 8470 §5.1).
func TestRequestMarkedAsEarlyDataIsRefused(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback, "new_sessions 1/1h")
	target := proxytest.NewPuppet(t, proxytest.Echo)
	for name, head := range map[string]string{
		"CONNECT":       "CONNECT " + target.Address + " HTTP/1.1\r\nHost: " + target.Address + "\r\n",
		"absolute form": "GET http://" + target.Address + "/ HTTP/1.1\r\nHost: " + target.Address + "\r\n",
	} {
		for _, user := range []string{proxytest.Credentials("alice-session-abc"), "Proxy-Authorization: " + proxytest.Basic("alice", "wrong") + "\r\n", ""} {
			for _, mark := range []string{"Early-Data: 1\r\n", "Early-Data: 1\r\nEarly-Data: 1\r\n", "early-data: ?1\r\n"} {
				c := w.Dial()
				c.Send(head + user + mark + "\r\n")
				res := c.Answer(http.MethodGet)
				require.Equal(t, http.StatusTooEarly, res.Status, "%s %q", name, mark)
				require.Equal(t, "http_request_denied", res.Reason())
				require.Contains(t, res.Header.Get("Proxy-Status"), "send it again")
				c.Close()
			}
		}
	}
	require.Zero(t, target.Dials.Load())
	require.Equal(t, http.StatusOK, w.Connect("alice-session-abc", target.Address).Status, "no session began, no password was counted")
}

// A network_proxy does as a policy: the address is not trusted, and nothing is refused.
func TestNetworkProxyDoesNotTrustAnAddressInEarlyData(t *testing.T) {
	option, config := proxytest.Certificate(t)
	exits := strings.TrimPrefix(proxytest.FourProxies(t), "header X-Session\n")
	upstream := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			exit := proxytest.HostOf(conn.RemoteAddr().String())
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(exit), exit)
		}
	})
	port := peer.Port(t)
	proxytest.NewWorldWith(t, "", proxytest.Site{Block: "open\nexit direct://", Sites: fmt.Sprintf(`:%d {
	bind 127.0.0.1
	%s
	header {
		defer
		X-Outcome {http.sticky.outcome}
	}
	reverse_proxy %s {
		transport http {
			network_proxy sticky outbound {
				%s
			}
		}
	}
}`, port, option, upstream.Address, exits)})
	address := fmt.Sprintf("127.0.0.1:%d", port)
	client := earlydata.NewClient(t, address, config)
	get := func(conn *earlydata.Conn) *http3.RequestStream {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/", nil)
		require.NoError(t, err)
		stream := conn.Send(r, "")
		require.NoError(t, stream.Close())
		return stream
	}
	early := func(from string) (*earlydata.Conn, *http.Response, string) {
		before := upstream.Dials.Load()
		conn := client.Dial(from)
		stream := get(conn)
		proxytest.Eventually(t, "the request", func() bool { return upstream.Dials.Load() > before })
		conn.Finish()
		res, exit := conn.Answer(stream)
		require.Equal(t, http.StatusOK, res.StatusCode)
		return conn, res, exit
	}
	for i := range 8 {
		from := fmt.Sprintf("127.0.0.%d", 11+i)
		conn, res, exit := early(from)
		require.Equal(t, "none", res.Header.Get("X-Outcome"))
		res, same := conn.Answer(get(conn))
		require.Equal(t, "new", res.Header.Get("X-Outcome"))
		require.Equal(t, exit, same)
		_, res, same = early(from)
		require.Equal(t, "kept", res.Header.Get("X-Outcome"))
		require.Equal(t, exit, same)
	}
}
