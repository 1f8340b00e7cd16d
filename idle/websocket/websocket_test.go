// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/net/nettest"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

// wsEnd is a peer of a WebSocket, which the test plays.
type wsEnd struct {
	t      *testing.T
	conn   net.Conn
	masks  bool          // what it sends, as clients do
	frames chan wsFrame  // what came, Pings to it aside; closed at the end
	pings  atomic.Int64  // which it got
	mute   atomic.Bool   // it answers nothing
	deaf   chan struct{} // closed: it reads
	once   sync.Once     //
	writes turn          // keeps frames apart
}

func newEnd(t *testing.T, conn net.Conn, masks bool) *wsEnd {
	t.Helper()
	e := &wsEnd{t: t, conn: conn, masks: masks, frames: make(chan wsFrame, 1000), deaf: make(chan struct{}), writes: make(turn, 1)}
	t.Cleanup(func() { _ = conn.Close(); e.hears() })
	return e
}

func (e *wsEnd) hears() { e.once.Do(func() { close(e.deaf) }) }

// listen reads frames, answers Pings and Close frames, and ends with the
// connection.
func (e *wsEnd) listen() {
	<-e.deaf
	defer close(e.frames)
	r := bufio.NewReader(e.conn)
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		switch {
		case f.masked == e.masks:
			e.t.Errorf("a frame is masked: %v", f.masked)
		case f.first == pingFrame:
			e.pings.Add(1)
			if !e.mute.Load() {
				go func() { _ = e.send(wsFrame{first: pongFrame, payload: f.payload}) }()
			}
			continue
		case f.first == closeFrame && !e.mute.Load():
			e.frames <- f
			go e.answerClose(f)
			continue
		}
		e.frames <- f
	}
}

func (e *wsEnd) answerClose(f wsFrame) {
	_ = e.send(f)
	if !e.masks {
		_ = e.conn.Close() // as servers do first
	}
}

func (e *wsEnd) send(f wsFrame) error {
	f.masked = e.masks
	return e.write(f.bytes())
}

func (e *wsEnd) write(p []byte) error {
	e.writes.Lock()
	defer e.writes.Unlock()
	_, err := e.conn.Write(p)
	return err
}

// next is the next frame that came; ok is false at the end.
func (e *wsEnd) next() (f wsFrame, ok bool) {
	f, ok = <-e.frames
	f.masked = false
	return f, ok
}

func (e *wsEnd) wants(want ...wsFrame) {
	e.t.Helper()
	for _, f := range want {
		got, ok := e.next()
		require.True(e.t, ok, "the connection ended")
		require.Equal(e.t, f, got)
	}
}

func (e *wsEnd) wantsEnd() {
	e.t.Helper()
	got, ok := e.next()
	require.False(e.t, ok, "got %v", got)
}

func readFrame(r io.Reader) (f wsFrame, err error) {
	var head [2]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	f.first, f.masked = head[0], head[1]&maskBit != 0
	length := uint64(head[1] & lengthBits)
	var long [8]byte
	switch length {
	case 126:
		_, err = io.ReadFull(r, long[6:])
		length = binary.BigEndian.Uint64(long[:])
	case 127:
		_, err = io.ReadFull(r, long[:])
		length = binary.BigEndian.Uint64(long[:])
	}
	if err != nil {
		return f, err
	}
	var key [4]byte
	if f.masked {
		if _, err = io.ReadFull(r, key[:]); err != nil {
			return f, err
		}
	}
	payload := make([]byte, length)
	if _, err = io.ReadFull(r, payload); err != nil {
		return f, err
	}
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	f.payload = string(payload)
	return f, nil
}

// hijackable is a response of HTTP/1.
type hijackable struct {
	*httptest.ResponseRecorder
	conn  net.Conn
	early string
}

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r := bufio.NewReader(io.MultiReader(strings.NewReader(h.early), h.conn))
	_, _ = r.Peek(len(h.early))
	return h.conn, bufio.NewReadWriter(r, bufio.NewWriter(h.conn)), nil
}

// carrier does what Caddy's reverse_proxy does with an upgraded connection.
type carrier struct {
	upstream net.Conn
	response http.Header
	status   int
	conn     net.Conn // what it hijacked
}

func (c *carrier) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	maps.Copy(w.Header(), c.response)
	w.WriteHeader(c.status)
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	c.conn = conn
	if n := brw.Reader.Buffered(); n > 0 {
		data, _ := brw.Peek(n)
		_, _ = c.upstream.Write(data)
	}
	over := make(chan struct{})
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		select {
		case <-r.Context().Done():
		case <-over:
		}
		_ = c.upstream.Close()
	}()
	ends := make(chan error, 2)
	go pour(c.upstream, conn, ends)
	go pour(conn, c.upstream, ends)
	if <-ends == nil {
		<-ends
	}
	_ = conn.Close()
	close(over)
	<-closed
	return nil
}

func pour(to, from net.Conn, ends chan<- error) {
	if _, err := io.CopyBuffer(to, from, make([]byte, 4096)); err != nil {
		ends <- err
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		ends <- half.CloseWrite()
		return
	}
	ends <- io.EOF
}

// wsWorld is a WebSocket between two peers.
type wsWorld struct {
	client, server *wsEnd
	carrier        *carrier
	done           chan struct{}
}

// newWorld opens a WebSocket. Both peers listen.
func newWorld(t *testing.T, h *Timeouts, pair func(*testing.T) (peer, proxy net.Conn)) *wsWorld {
	t.Helper()
	w := newDeafWorld(t, h, pair, "")
	w.client.hears()
	w.server.hears()
	return w
}

func newDeafWorld(t *testing.T, h *Timeouts, pair func(*testing.T) (peer, proxy net.Conn), early string) *wsWorld {
	t.Helper()
	h.logger = zap.NewNop()
	client, clientSide := pair(t)
	server, serverSide := pair(t)
	w := &wsWorld{
		client: newEnd(t, client, true), server: newEnd(t, server, false), done: make(chan struct{}),
		carrier: &carrier{
			upstream: serverSide, status: http.StatusSwitchingProtocols,
			response: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}},
		},
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	go w.client.listen()
	go w.server.listen()
	go func() {
		defer close(w.done)
		_ = h.ServeHTTP(&hijackable{httptest.NewRecorder(), clientSide, early}, r, w.carrier)
	}()
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
		<-w.done
	})
	return w
}

func (w *wsWorld) isOpen() bool {
	synctest.Wait()
	select {
	case <-w.done:
		return false
	default:
		return true
	}
}

func duration(d time.Duration) *Timeouts {
	return &Timeouts{Idle: caddy.Duration(d)}
}

func interval(d time.Duration) *Timeouts {
	return &Timeouts{Ping: caddy.Duration(d)}
}

var (
	hello   = wsFrame{first: text, payload: "hello"}
	goodbye = wsFrame{first: closeFrame, payload: closing1001}
)

func TestSilentWebSocketEndsWith1001AtBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := conntest.Closed(t, idle.ClosedCollector{}, idle.WebSockets, string(idle.Idle))
		w := newWorld(t, duration(time.Minute), conntest.Pipes)
		require.NoError(t, w.client.send(hello))
		w.server.wants(hello)
		time.Sleep(time.Minute - time.Millisecond)
		require.True(t, w.isOpen())
		time.Sleep(time.Millisecond)
		synctest.Wait()
		w.client.wants(goodbye)
		w.server.wants(goodbye)
		w.client.wantsEnd()
		w.server.wantsEnd()
		require.False(t, w.isOpen(), "both have answered")
		require.Equal(t, before+1, conntest.Closed(t, idle.ClosedCollector{}, idle.WebSockets, string(idle.Idle)))
	})
}

func TestOneWayTrafficIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, duration(time.Minute), conntest.Pipes)
		for i := range 200 {
			from, to := w.client, w.server
			if i >= 100 {
				from, to = to, from
			}
			time.Sleep(59 * time.Second)
			require.NoError(t, from.send(hello))
			to.wants(hello)
		}
		time.Sleep(time.Minute)
		w.client.wants(goodbye)
	})
}

func TestTrickleWithinAFrameIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, &Timeouts{Idle: caddy.Duration(time.Minute), Ping: caddy.Duration(20 * time.Second)}, conntest.Pipes)
		long := wsFrame{first: text, payload: strings.Repeat("x", 100), masked: true}
		for _, b := range long.bytes() {
			time.Sleep(19 * time.Second)
			require.NoError(t, w.client.write([]byte{b}))
		}
		long.masked = false
		w.server.wants(long)
		require.Zero(t, w.client.pings.Load(), "it was never silent")
		require.EqualValues(t, 1, w.server.pings.Load(), "behind the frame")
		time.Sleep(21 * time.Second)
		require.EqualValues(t, 1, w.client.pings.Load())
		require.EqualValues(t, 2, w.server.pings.Load())
	})
}

func TestPeersThatDoNotAnswerAreNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, duration(time.Minute), conntest.Pipes)
		w.client.mute.Store(true)
		w.server.mute.Store(true)
		time.Sleep(time.Minute)
		w.client.wants(goodbye)
		w.server.wants(goodbye)
		time.Sleep(closeTimeout - time.Millisecond)
		require.True(t, w.isOpen())
		time.Sleep(time.Millisecond)
		w.client.wantsEnd()
		w.server.wantsEnd()
		require.False(t, w.isOpen())
	})
}

func TestQuietWebSocketIsKeptByPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, interval(20*time.Second), conntest.Pipes)
		time.Sleep(time.Hour + time.Second)
		require.True(t, w.isOpen())
		require.EqualValues(t, 180, w.client.pings.Load())
		require.EqualValues(t, 180, w.server.pings.Load())
		require.NoError(t, w.client.send(hello))
		w.server.wants(hello) // and no Pong before it
		require.NoError(t, w.server.send(hello))
		w.client.wants(hello)
	})
}

func TestPongIsASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, &Timeouts{Idle: caddy.Duration(10 * time.Minute), Ping: caddy.Duration(time.Minute)}, conntest.Pipes)
		time.Sleep(time.Hour)
		require.True(t, w.isOpen())
	})
}

func TestDeadPeerIsFound(t *testing.T) {
	for _, dead := range []string{"client", "server"} {
		for _, how := range []string{"does not answer", "does not read"} {
			t.Run(dead+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					before := conntest.Closed(t, idle.ClosedCollector{}, idle.WebSockets, string(idle.NoPong))
					w := newDeafWorld(t, interval(20*time.Second), conntest.Pipes, "")
					lost, living := w.client, w.server
					if dead == "server" {
						lost, living = living, lost
					}
					living.hears()
					lost.mute.Store(true)
					if how == "does not answer" {
						lost.hears()
					}
					time.Sleep(40*time.Second - time.Millisecond)
					require.True(t, w.isOpen())
					time.Sleep(time.Millisecond)
					if dead == "server" || how == "does not answer" {
						living.wants(goodbye)
					}
					time.Sleep(closeTimeout)
					require.False(t, w.isOpen())
					if dead == "client" && how == "does not read" {
						living.wants(goodbye)
					}
					living.wantsEnd()
					require.Equal(t, before+1, conntest.Closed(t, idle.ClosedCollector{}, idle.WebSockets, string(idle.NoPong)))
				})
			})
		}
	}
}

func TestDeadPeerIsFoundWhileTheOtherOneTalks(t *testing.T) {
	for _, dead := range []string{"client", "server"} {
		t.Run(dead, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newDeafWorld(t, interval(20*time.Second), conntest.Pipes, "")
				living := w.server
				if dead == "server" {
					living = w.client
				}
				living.hears()
				go func() {
					for living.send(wsFrame{first: text, payload: strings.Repeat("x", 100_000)}) == nil {
						time.Sleep(time.Second)
					}
				}()
				time.Sleep(40*time.Second + closeTimeout)
				require.False(t, w.isOpen())
			})
		})
	}
}

func TestSlowPeerThatTakesBytesIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDeafWorld(t, interval(20*time.Second), conntest.Pipes, "")
		w.server.hears()
		big := wsFrame{first: text, payload: strings.Repeat("x", 400_000)}
		go func() { _ = w.server.send(big) }()
		for got := 0; got < len(big.bytes()); { // about 100 reads, 1000 s
			n, err := w.client.conn.Read(make([]byte, 4096))
			require.NoError(t, err)
			got += n
			time.Sleep(10 * time.Second)
		}
		require.True(t, w.isOpen())
	})
}

// The Ping stands behind all that the client has not got yet.
func TestSlowClientWorksOffABacklogBeforeItAnswers(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("skipped: this system does not tell of a backlog")
	}
	before := conntest.Closed(t, idle.ClosedCollector{}, idle.WebSockets, string(idle.NoPong))
	buffered := func(t *testing.T) (peer, proxy net.Conn) {
		t.Helper()
		peer, proxy = conntest.Sockets(t)
		require.NoError(t, peer.(*net.TCPConn).SetReadBuffer(16<<10))
		require.NoError(t, proxy.(*net.TCPConn).SetWriteBuffer(400<<10))
		return peer, proxy
	}
	w := newDeafWorld(t, interval(300*time.Millisecond), buffered, "")
	w.server.hears()
	big := wsFrame{first: text, payload: strings.Repeat("x", 300_000)}
	go func() { _ = w.server.send(big) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var got []byte
	for len(got) <= len(big.bytes()) { // 1.5 s, five intervals
		<-tick.C
		buf := make([]byte, 4096)
		n, err := w.client.conn.Read(buf)
		require.NoError(t, err)
		got = append(got, buf[:n]...)
	}
	require.Equal(t, byte(pingFrame), got[len(big.bytes())])
	require.Equal(t, before, conntest.Closed(t, idle.ClosedCollector{}, idle.WebSockets, string(idle.NoPong)))
}

func TestPingsAndPongsOfThePeersPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDeafWorld(t, interval(20*time.Second), conntest.Pipes, "")
		w.client.hears()
		go func() { _ = w.client.send(wsFrame{first: pingFrame, payload: "ours"}) }()
		f, err := readFrame(w.server.conn)
		require.NoError(t, err)
		require.Equal(t, wsFrame{pingFrame, true, "ours"}, f)
		for _, payload := range []string{"ours", "", "0123456789abcdef"} {
			pong := wsFrame{first: pongFrame, payload: payload}
			require.NoError(t, w.server.send(pong))
			w.client.wants(pong)
		}
	})
}

func TestPingStandsBetweenFragmentsAndNeverWithinAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, interval(20*time.Second), conntest.Pipes)
		first := wsFrame{binaryPart, true, strings.Repeat("a", 10_000)}.bytes()
		w.client.mute.Store(true) // a Pong may not stand within its frame either
		require.NoError(t, w.client.write(first[:5000]))
		time.Sleep(30 * time.Second) // both are asked; the server cannot be
		require.EqualValues(t, 1, w.client.pings.Load())
		require.Zero(t, w.server.pings.Load())
		require.NoError(t, w.client.write(first[5000:]))
		synctest.Wait()
		require.EqualValues(t, 1, w.server.pings.Load(), "at the first boundary")
		w.client.mute.Store(false)
		time.Sleep(25 * time.Second)
		require.EqualValues(t, 2, w.server.pings.Load(), "between two fragments")
		require.NoError(t, w.client.send(wsFrame{first: lastPart, payload: "end"}))
		w.server.wants(wsFrame{first: binaryPart, payload: strings.Repeat("a", 10_000)}, wsFrame{first: lastPart, payload: "end"})
	})
}

func TestNothingFollowsAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, interval(20*time.Second), conntest.Pipes)
		w.server.mute.Store(true)
		require.NoError(t, w.client.send(goodbye))
		w.server.wants(goodbye)
		time.Sleep(30 * time.Second)
		require.Zero(t, w.server.pings.Load())
		require.EqualValues(t, 1, w.client.pings.Load())
		time.Sleep(20 * time.Second)
		w.server.wantsEnd() // it never answered
	})
}

func TestStreamThatIsNoWebSocketPassesUnharmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Timeouts{Idle: caddy.Duration(time.Minute), Ping: caddy.Duration(10 * time.Second)}
		w := newDeafWorld(t, h, conntest.Pipes, "")
		for i := range 10 {
			if i > 0 {
				time.Sleep(59 * time.Second)
			}
			go func() { _ = w.client.write([]byte("SSH-2.0-OpenSSH\r\n")) }()
			got := make([]byte, 17)
			_, err := io.ReadFull(w.server.conn, got)
			require.NoError(t, err)
			require.Equal(t, "SSH-2.0-OpenSSH\r\n", string(got))
			go func() { _ = w.server.write([]byte("me too, no frames")) }()
			_, err = io.ReadFull(w.client.conn, got)
			require.NoError(t, err)
			require.Equal(t, "me too, no frames", string(got))
		}
		begin := time.Now()
		rest, err := io.ReadAll(w.client.conn)
		require.NoError(t, err)
		require.Empty(t, rest)
		rest, err = io.ReadAll(w.server.conn)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.LessOrEqual(t, time.Since(begin), time.Minute+closeTimeout)
	})
}

func TestWhatIsReadBehindTheRequestIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early := wsFrame{text, true, "early bird"}.bytes()
		w := newDeafWorld(t, interval(20*time.Second), conntest.Pipes, string(early[:7]))
		w.client.mute.Store(true)
		w.client.hears()
		w.server.hears()
		time.Sleep(30 * time.Second)
		require.Zero(t, w.server.pings.Load(), "half a frame is under way")
		require.NoError(t, w.client.write(early[7:]))
		w.server.wants(wsFrame{first: text, payload: "early bird"})
		require.EqualValues(t, 1, w.server.pings.Load())
	})
}

func TestOtherUpgradesAreNotTouched(t *testing.T) {
	h := duration(time.Minute)
	h.logger = zap.NewNop()
	for name, c := range map[string]struct {
		asked, answered string
		status          int
	}{
		"another protocol asked for": {"h2c", "h2c", http.StatusSwitchingProtocols},
		"another protocol answered":  {"websocket", "h2c", http.StatusSwitchingProtocols},
		"not agreed to":              {"websocket", "websocket", http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			_, conn := conntest.Pipes(t)
			_ = conn.Close()
			_, upstream := conntest.Pipes(t)
			_ = upstream.Close()
			next := &carrier{upstream: upstream, status: c.status, response: http.Header{"Connection": {"Upgrade"}, "Upgrade": {c.answered}}}
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", c.asked)
			require.NoError(t, h.ServeHTTP(&hijackable{httptest.NewRecorder(), conn, ""}, r, next))
			require.Same(t, conn, next.conn)
		})
	}
}

func TestWebSocketIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		defer ln.Close()
		peer, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, nil, nil, err
		}
		inner, err := ln.Accept()
		if err != nil {
			return nil, nil, nil, err
		}
		c := &wsConn{conn: hijacked{Conn: inner}}
		h := &Timeouts{Idle: caddy.Duration(time.Hour), Ping: caddy.Duration(time.Hour), logger: zap.NewNop()}
		h.watch(&c.webSocket, &c.conn, httptest.NewRequest(http.MethodGet, "/", nil), func() {})
		c.start()
		return c, peer, func() { _ = c.Close(); _ = peer.Close() }, nil
	})
}

func TestBytesPassWithoutAllocations(t *testing.T) {
	frame := wsFrame{text, true, strings.Repeat("x", 100)}.bytes()
	c := &wsConn{conn: hijacked{Conn: &endless{stream: frame}}}
	h := &Timeouts{Idle: caddy.Duration(time.Hour), Ping: caddy.Duration(time.Hour), logger: zap.NewNop()}
	h.watch(&c.webSocket, &c.conn, httptest.NewRequest(http.MethodGet, "/", nil), func() {})
	c.start()
	defer c.Close()
	answer := wsFrame{text, false, strings.Repeat("x", 100)}.bytes()
	buf := make([]byte, 4096)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_, _ = c.Read(buf)
		_, _ = c.Write(answer)
	}))
}

// BenchmarkWebSocket is what a stream of frames costs, from the client to the
// upstream, beside no wrapper.
func BenchmarkWebSocket(b *testing.B) {
	for _, payload := range []int{64, 1 << 10, 16 << 10} {
		for _, wrapped := range []bool{false, true} {
			for _, way := range []string{"up", "down"} {
				b.Run(fmt.Sprintf("%d bytes/%s/wrapped=%v", payload, way, wrapped), func(b *testing.B) {
					frame := wsFrame{text, way == "up", strings.Repeat("x", payload)}.bytes()
					stream := []byte(strings.Repeat(string(frame), 1+32<<10/len(frame)))
					inner := &endless{stream: stream}
					var conn net.Conn = inner
					if wrapped {
						c := &wsConn{conn: hijacked{Conn: inner}}
						h := &Timeouts{Idle: caddy.Duration(time.Hour), Ping: caddy.Duration(time.Hour), logger: zap.NewNop()}
						h.watch(&c.webSocket, &c.conn, httptest.NewRequest(http.MethodGet, "/", nil), func() {})
						c.start()
						defer c.Close()
						conn = c
					}
					buf := make([]byte, 32<<10)
					b.SetBytes(int64(len(stream)))
					b.ReportAllocs()
					for b.Loop() {
						if way == "down" {
							_, _ = conn.Write(stream)
							continue
						}
						for left := len(stream); left > 0; {
							n, _ := conn.Read(buf[:min(left, len(buf))])
							left -= n
						}
					}
				})
			}
		}
	}
}

// endless repeats a stream, and takes whatever is written.
type endless struct {
	net.Conn
	stream []byte
	at     int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.stream[e.at:])
	e.at = (e.at + n) % len(e.stream)
	return n, nil
}

func (*endless) Write(p []byte) (int, error) { return len(p), nil }
func (*endless) Close() error                { return nil }
