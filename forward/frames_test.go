// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// frames is a connection of HTTP/2 of which a test sees each frame.
type frames struct {
	*http2.Framer
	t    testing.TB
	conn *tls.Conn
	next uint32 // the client's next stream
}

// newFrames opens a connection of HTTP/2.
func newFrames(w *proxytest.World, config *tls.Config) *frames {
	w.T.Helper()
	config = config.Clone()
	config.NextProtos = []string{http2.NextProtoTLS}
	conn, err := tls.Dial("tcp", w.Proxy, config)
	require.NoError(w.T, err)
	w.T.Cleanup(func() { _ = conn.Close() })
	require.NoError(w.T, conn.SetDeadline(time.Now().Add(proxytest.Guard)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(w.T, err)
	f := &frames{Framer: http2.NewFramer(conn, conn), t: w.T, conn: conn, next: 1}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(w.T, f.WriteSettings())
	return f
}

// headers sends the header of a request, whatever is in it, and returns its
// stream. Fields are name and value, one after the other.
func (f *frames) headers(fields ...string) uint32 {
	f.t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		require.NoError(f.t, encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	id := f.next
	f.next += 2
	require.NoError(f.t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}))
	return id
}

// connect asks for a tunnel as it should be done.
func (f *frames) connect(destination string) uint32 {
	f.t.Helper()
	return f.headers(":method", "CONNECT", ":authority", destination, "proxy-authorization", proxytest.Basic("alice", proxytest.AlicePassword))
}

// expect returns the next frame of a stream, or of the whole connection (GOAWAY).
// What keeps a connection going is answered.
func (f *frames) expect(stream uint32) http2.Frame {
	f.t.Helper()
	for {
		frame, err := f.ReadFrame()
		require.NoError(f.t, err)
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				require.NoError(f.t, f.WriteSettingsAck())
			}
			continue
		case *http2.PingFrame, *http2.WindowUpdateFrame:
			continue
		case *http2.GoAwayFrame:
			return frame
		}
		if frame.Header().StreamID == stream {
			return frame
		}
	}
}

// status returns the status of an answer.
func (f *frames) status(stream uint32) string {
	f.t.Helper()
	frame := f.expect(stream)
	header, ok := frame.(*http2.MetaHeadersFrame)
	require.True(f.t, ok, "%v", frame)
	return header.PseudoValue("status")
}

// reset waits until a stream is reset, and must not have ended before.
func (f *frames) reset(stream uint32) http2.ErrCode {
	f.t.Helper()
	for {
		switch frame := f.expect(stream).(type) {
		case *http2.RSTStreamFrame:
			return frame.ErrCode
		case *http2.DataFrame:
			require.False(f.t, frame.StreamEnded(), "an end and no reset")
		case *http2.GoAwayFrame:
			f.t.Fatalf("the whole connection ends: %v", frame)
		}
	}
}

// streamSite is a proxy over HTTP/2 and HTTP/3.
func streamSite(t *testing.T, lines string) (*proxytest.World, *tls.Config) {
	t.Helper()
	option, config := proxytest.Certificate(t)
	origin := proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, proxytest.HostOf(r.RemoteAddr)) })
	return proxytest.NewWorldWith(t, origin, proxytest.Site{Block: proxytest.Alice + proxytest.OneExit + proxytest.Loopback + lines, Server: option}), config
}

// B1: a plain CONNECT has :method and :authority, and no other pseudo-header.
func TestConnectWithASchemeOrAPathIsMalformed(t *testing.T) {
	w, config := streamSite(t, "")
	target := proxytest.NewPuppet(t, proxytest.Echo)
	user := []string{"proxy-authorization", proxytest.Basic("alice", proxytest.AlicePassword)}
	cases := map[string][]string{
		":scheme":                  {":method", "CONNECT", ":authority", target.Address, ":scheme", "https"},
		":path":                    {":method", "CONNECT", ":authority", target.Address, ":path", "/"},
		":scheme and :path":        {":method", "CONNECT", ":authority", target.Address, ":scheme", "https", ":path", "/"},
		"no :authority":            {":method", "CONNECT", "host", target.Address},
		"two :authority":           {":method", "CONNECT", ":authority", target.Address, ":authority", target.Address},
		"an unknown one":           {":method", "CONNECT", ":authority", target.Address, ":target", target.Address},
		"one of a response":        {":method", "CONNECT", ":authority", target.Address, ":status", "200"},
		"one behind the others":    {":method", "CONNECT", "x-a", "b", ":authority", target.Address},
		"what is of a connection":  {":method", "CONNECT", ":authority", target.Address, "connection", "close"},
		"what frames HTTP/1":       {":method", "CONNECT", ":authority", target.Address, "transfer-encoding", "chunked"},
		"a name in upper case":     {":method", "CONNECT", ":authority", target.Address, "X-A", "b"},
		"a line break in a value":  {":method", "CONNECT", ":authority", target.Address, "x-a", "b\r\nc: d"},
		"an extended one, unasked": {":method", "CONNECT", ":authority", target.Address, ":protocol", "websocket"},
	}
	t.Run("HTTP/2", func(t *testing.T) {
		for name, fields := range cases {
			f := newFrames(w, config)
			stream := f.headers(append(fields, user...)...)
			switch frame := f.expect(stream).(type) {
			case *http2.RSTStreamFrame:
				require.Equal(t, http2.ErrCodeProtocol, frame.ErrCode, name)
			case *http2.GoAwayFrame:
				require.Equal(t, http2.ErrCodeProtocol, frame.ErrCode, name)
			case *http2.MetaHeadersFrame:
				require.Equal(t, "400", frame.PseudoValue("status"), name)
			default:
				t.Fatalf("%s: %v", name, frame)
			}
			_ = f.conn.Close()
		}
	})
	t.Run("HTTP/3", func(t *testing.T) {
		for name, fields := range cases {
			status, err := quicRequest(w, config, append(fields, user...)...)
			if err == nil {
				require.Equal(t, "400", status, name)
			}
		}
	})
	require.Zero(t, target.Dials.Load(), "what is malformed goes nowhere")
	f := newFrames(w, config)
	require.Equal(t, "200", f.status(f.connect(target.Address)), "else the test means nothing")
	status, err := quicRequest(w, config, append([]string{":method", "CONNECT", ":authority", target.Address}, user...)...)
	require.NoError(t, err)
	require.Equal(t, "200", status, "else the test means nothing")
}

// quicRequest sends a request of HTTP/3, whatever is in it, and returns the
// status of the answer or how the stream ended. Fields are encoded as literals
// (RFC 9204 §4.5.6).
func quicRequest(w *proxytest.World, config *tls.Config, fields ...string) (status string, err error) {
	w.T.Helper()
	config = config.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	ctx, cancel := context.WithTimeout(w.T.Context(), proxytest.Guard)
	defer cancel()
	conn, err := quic.DialAddr(ctx, w.Proxy, config, nil)
	require.NoError(w.T, err)
	defer func() { _ = conn.CloseWithError(0, "") }()
	control, err := conn.OpenUniStream()
	require.NoError(w.T, err)
	_, err = control.Write([]byte{0, 4, 0}) // a control stream with no settings
	require.NoError(w.T, err)
	block := []byte{0, 0}
	for i := 0; i < len(fields); i += 2 {
		block = appendPrefixed(block, 0x20, 3, fields[i])
		block = appendPrefixed(block, 0, 7, fields[i+1])
	}
	stream, err := conn.OpenStreamSync(ctx)
	require.NoError(w.T, err)
	require.NoError(w.T, stream.SetDeadline(time.Now().Add(proxytest.Guard)))
	head := binary.BigEndian.AppendUint16([]byte{1}, uint16(len(block))|0x4000) // HEADERS
	_, err = stream.Write(append(head, block...))
	require.NoError(w.T, err)
	return quicStatus(stream)
}

// appendPrefixed appends a string without Huffman coding (RFC 9204 §4.1.2).
func appendPrefixed(to []byte, flags byte, bits int, text string) []byte {
	limit := 1<<bits - 1
	if len(text) < limit {
		to = append(to, flags|byte(len(text)))
	} else {
		to = append(to, flags|byte(limit))
		rest := len(text) - limit
		for ; rest >= 0x80; rest >>= 7 {
			to = append(to, byte(rest)|0x80)
		}
		to = append(to, byte(rest))
	}
	return append(to, text...)
}

// quicStatus reads the first frame of an answer, whose first field is the status:
// one of the static table (RFC 9204, appendix A) for those that matter here.
func quicStatus(stream io.Reader) (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(stream, head); err != nil {
		return "", err
	}
	if head[0] != 1 {
		return "", errors.New("not a HEADERS frame")
	}
	if head[1]&0x40 != 0 {
		if _, err := io.ReadFull(stream, head[:1]); err != nil {
			return "", err
		}
	}
	field := make([]byte, 3)
	if _, err := io.ReadFull(stream, field); err != nil {
		return "", err
	}
	switch field[2] {
	case 0xc0 | 25:
		return "200", nil
	case 0xff: // index 63 and above
		next := make([]byte, 1)
		if _, err := io.ReadFull(stream, next); err != nil {
			return "", err
		}
		return map[byte]string{64 - 63: "204", 67 - 63: "400", 68 - 63: "403"}[next[0]], nil
	}
	return "another", nil
}

// B3: a connection that breaks is a reset, and the other streams go on.
func TestResetByTheTargetIsAResetOfTheStreamAlone(t *testing.T) {
	w, config := streamSite(t, "")
	other := proxytest.ServerOf(t, proxytest.Echo)
	for name, breaks := range map[string]func(conn *net.TCPConn){
		"after a word": func(conn *net.TCPConn) {
			// A target that resets at once may do so before the tunnel is open.
			_, _ = io.ReadFull(conn, make([]byte, 4))
			_, _ = io.WriteString(conn, "half of it")
			_ = conn.SetLinger(0)
		},
		"while it hears": func(conn *net.TCPConn) { _, _ = io.ReadFull(conn, make([]byte, 4)); _ = conn.SetLinger(0) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFrames(w, config)
			f.t = t
			kept := f.connect(other)
			require.Equal(t, "200", f.status(kept))
			broken := f.connect(proxytest.ServerOf(t, breaks))
			require.Equal(t, "200", f.status(broken))
			require.NoError(t, f.WriteData(broken, false, []byte("ping")))
			require.NotEqual(t, http2.ErrCodeNo, f.reset(broken))
			require.NoError(t, f.WriteData(kept, false, []byte("ping")))
			frame := f.expect(kept)
			data, ok := frame.(*http2.DataFrame)
			require.True(t, ok, "%v", frame)
			require.Equal(t, "ping", string(data.Data()))
		})
	}
}

// B4: a stream that breaks closes its target at once, and no other one.
func TestStreamThatBreaksClosesItsTargetAlone(t *testing.T) {
	for name, breaks := range map[string]func(f *frames, stream uint32){
		"RST_STREAM CANCEL":        func(f *frames, id uint32) { require.NoError(f.t, f.WriteRSTStream(id, http2.ErrCodeCancel)) },
		"RST_STREAM CONNECT_ERROR": func(f *frames, id uint32) { require.NoError(f.t, f.WriteRSTStream(id, http2.ErrCodeConnect)) },
		"a frame of another kind": func(f *frames, id uint32) {
			require.NoError(f.t, f.WritePriority(id, http2.PriorityParam{StreamDep: id}))
		},
		"the connection": func(f *frames, _ uint32) {
			tcp := f.conn.NetConn().(*net.TCPConn)
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, config := streamSite(t, "")
			ended := make(chan struct{})
			target := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
				_, _ = io.WriteString(conn, "hello")
				proxytest.Hang(conn)
				close(ended)
			})
			kept := proxytest.NewPuppet(t, proxytest.Echo)
			f := newFrames(w, config)
			f.t = t
			id := f.connect(target.Address)
			require.Equal(t, "200", f.status(id))
			_, ok := f.expect(id).(*http2.DataFrame)
			require.True(t, ok)
			other := f.connect(kept.Address)
			require.Equal(t, "200", f.status(other))
			breaks(f, id)
			<-ended
			if name == "the connection" {
				return
			}
			require.NoError(t, f.WriteData(other, false, []byte("ping")))
			_, ok = f.expect(other).(*http2.DataFrame)
			require.True(t, ok)
			require.Equal(t, 1, kept.Open())
		})
	}
}

// B2, frame by frame: END_STREAM comes after the last byte, and the client's own
// end leaves the target's half open.
func TestEndOfAStreamIsBehindItsLastByte(t *testing.T) {
	w, config := streamSite(t, "")
	got := make(chan string, 1)
	target := proxytest.ServerOf(t, func(conn *net.TCPConn) {
		all, _ := io.ReadAll(conn)
		got <- string(all)
		_, _ = io.WriteString(conn, strings.Repeat("y", 1000))
	})
	f := newFrames(w, config)
	id := f.connect(target)
	require.Equal(t, "200", f.status(id))
	require.NoError(t, f.WriteData(id, false, []byte("first")))
	require.NoError(t, f.WriteData(id, true, []byte("last")))
	require.Equal(t, "firstlast", <-got)
	var text strings.Builder
	for {
		frame := f.expect(id)
		data, ok := frame.(*http2.DataFrame)
		require.True(t, ok, "%v", frame)
		text.Write(data.Data())
		if data.StreamEnded() {
			break
		}
	}
	require.Equal(t, strings.Repeat("y", 1000), text.String())
}
