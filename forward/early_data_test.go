// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/earlydata"
)

// connectRequest is a CONNECT for a client of HTTP/3.
func (w *world) connectRequest(user, password, destination string) *http.Request {
	return &http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: w.proxy}, Host: destination,
		Header: http.Header{"Proxy-Authorization": {basic(user, password)}},
	}
}

// handled returns how many requests the proxy has refused, or sent to the target.
func (w *world) handled(target *puppet) int64 {
	return int64(len(w.logs.lines(`"msg":"request refused"`))) + target.dials.Load()
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
	conn.Send(w.connectRequest("alice-session-abc", alicePassword, target.address), "early bytes")
	eventually(t, "the request", func() bool { return w.handled(target) == 1 })
	conn.Finish()
	conn.Close()
	// The server counts the datagrams as repeated ones of the closed connection until
	// it forgets that connection's ids, about three round trips later.
	eventually(t, "the replay", func() bool {
		conn.Replay()
		return w.handled(target) > 1
	})
	require.Zero(t, target.dials.Load())
	require.Empty(t, w.logs.lines(`"msg":"decided"`), "no session begins")
}

// B11 and RFC 8470 §5.2: a client that gets 425 sends its request again.
func TestConnectIsServedAfterTheHandshake(t *testing.T) {
	w, config := streamSite(t, "")
	target := newPuppet(t, echo)
	conn := earlydata.NewClient(t, w.proxy, config).Dial("127.0.0.1")
	early := conn.Send(w.connectRequest("alice", alicePassword, target.address), "")
	eventually(t, "the request", func() bool { return w.handled(target) == 1 })
	conn.Finish()
	res, body := conn.Answer(early)
	require.Equal(t, http.StatusTooEarly, res.StatusCode)
	require.Equal(t, `caddy; error=http_request_denied; details="the request was sent in early data, which can be replayed: `+
		`send it again after the TLS handshake"`, res.Header.Get("Proxy-Status"))
	require.Contains(t, body, "send it again")
	require.Empty(t, res.Header.Values("Proxy-Authenticate"))
	require.Zero(t, target.dials.Load())
	tunnels(t, conn.Send(w.connectRequest("alice", alicePassword, target.address), ""))
	require.EqualValues(t, 1, target.dials.Load())
}

// B11: the address of a request in early data may be forged, so its owner must not
// be locked out by it.
func TestWrongPasswordsInEarlyDataLockNoAddressOut(t *testing.T) {
	w, config := streamSite(t, "")
	target := newPuppet(t, echo)
	client := earlydata.NewClient(t, w.proxy, config)
	for i := range 12 {
		client.Dial("127.0.0.1").Send(w.connectRequest("alice", fmt.Sprint("wrong-", i), target.address), "")
	}
	eventually(t, "the requests", func() bool { return w.handled(target) == 12 })
	conn := client.Dial("127.0.0.1")
	conn.Finish()
	tunnels(t, conn.Send(w.connectRequest("alice", alicePassword, target.address), ""))
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
