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
)

// connectRequest is a CONNECT for a client of HTTP/3.
func connectRequest(w *world, user, password, destination string) *http.Request {
	return &http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: w.proxy}, Host: destination,
		Header: http.Header{"Proxy-Authorization": {basic(user, password)}},
	}
}

// handled returns how many requests the proxy has refused, or sent to the target.
func handled(w *world, target *puppet) int64 {
	return int64(len(w.logs.lines("request refused"))) + target.dials.Load()
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
	target := newPuppet(t, hang)
	conn := earlydata.NewClient(t, w.proxy, config).Dial("127.0.0.1")
	conn.Send(connectRequest(w, "alice-session-abc", alicePassword, target.address), "early bytes")
	eventually(t, "the request", func() bool { return handled(w, target) == 1 })
	conn.Finish()
	conn.Close()
	// The server counts the datagrams as repeated ones of the closed connection until
	// it forgets that connection's ids, about three round trips later.
	eventually(t, "the replay", func() bool {
		conn.Replay()
		return handled(w, target) > 1
	})
	require.Zero(t, target.dials.Load())
	require.Empty(t, w.logs.lines("decided"), "no session begins")
}

// B11 and RFC 8470 §5.2: a client that gets 425 sends its request again.
func TestConnectIsServedAfterTheHandshake(t *testing.T) {
	w, config := streamSite(t, "")
	target := newPuppet(t, echo)
	conn := earlydata.NewClient(t, w.proxy, config).Dial("127.0.0.1")
	early := conn.Send(connectRequest(w, "alice", alicePassword, target.address), "")
	eventually(t, "the request", func() bool { return handled(w, target) == 1 })
	conn.Finish()
	res, body := conn.Answer(early)
	require.Equal(t, http.StatusTooEarly, res.StatusCode)
	require.Equal(t, `caddy; error=http_request_denied; details="the request was sent in early data, which can be replayed: `+
		`send it again after the TLS handshake"`, res.Header.Get("Proxy-Status"))
	require.Contains(t, body, "send it again")
	require.Empty(t, res.Header.Values("Proxy-Authenticate"))
	require.Zero(t, target.dials.Load())
	tunnels(t, conn.Send(connectRequest(w, "alice", alicePassword, target.address), ""))
	require.EqualValues(t, 1, target.dials.Load())
}

// B11: the address of a request in early data may be forged, so its owner must not
// be locked out by it.
func TestWrongPasswordsInEarlyDataLockNoAddressOut(t *testing.T) {
	w, config := streamSite(t, "")
	target := newPuppet(t, echo)
	client := earlydata.NewClient(t, w.proxy, config)
	for i := range 12 {
		client.Dial("127.0.0.1").Send(connectRequest(w, "alice", fmt.Sprint("wrong-", i), target.address), "")
	}
	eventually(t, "the requests", func() bool { return handled(w, target) == 12 })
	conn := client.Dial("127.0.0.1")
	conn.Finish()
	tunnels(t, conn.Send(connectRequest(w, "alice", alicePassword, target.address), ""))
}

// B11: a proxy before this one marks what came to it in early data (RFC 8470 §5.1).
func TestRequestMarkedAsEarlyDataIsRefused(t *testing.T) {
	w := newWorld(t, alice, oneExit, loopback, "new_sessions 1/1h")
	target := newPuppet(t, echo)
	for name, head := range map[string]string{
		"CONNECT":       "CONNECT " + target.address + " HTTP/1.1\r\nHost: " + target.address + "\r\n",
		"absolute form": "GET http://" + target.address + "/ HTTP/1.1\r\nHost: " + target.address + "\r\n",
	} {
		for _, user := range []string{credentials("alice-session-abc"), "Proxy-Authorization: " + basic("alice", "wrong") + "\r\n", ""} {
			for _, mark := range []string{"Early-Data: 1\r\n", "Early-Data: 1\r\nEarly-Data: 1\r\n", "early-data: ?1\r\n"} {
				c := w.dial()
				c.send(head + user + mark + "\r\n")
				res := c.answer(http.MethodGet)
				require.Equal(t, http.StatusTooEarly, res.status, "%s %q", name, mark)
				require.Equal(t, "http_request_denied", res.reason())
				require.Contains(t, res.header.Get("Proxy-Status"), "send it again")
				c.close()
			}
		}
	}
	require.Zero(t, target.dials.Load())
	require.Equal(t, http.StatusOK, w.connect("alice-session-abc", target.address).status, "no session began, no password was counted")
}

// A network_proxy does as a policy: the address is not trusted, and nothing is refused.
func TestNetworkProxyDoesNotTrustAnAddressInEarlyData(t *testing.T) {
	option, config := certificate(t)
	exits := strings.TrimPrefix(fourProxies(t), "header X-Session\n")
	upstream := newPuppet(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			exit := hostOf(conn.RemoteAddr().String())
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(exit), exit)
		}
	})
	port := peer.Port(t)
	newWorldWith(t, "", site{block: "open\nexit direct://", sites: fmt.Sprintf(`:%d {
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
}`, port, option, upstream.address, exits)})
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
		before := upstream.dials.Load()
		conn := client.Dial(from)
		stream := get(conn)
		eventually(t, "the request", func() bool { return upstream.dials.Load() > before })
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
