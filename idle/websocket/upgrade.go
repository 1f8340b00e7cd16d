// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sticky/caddy-sticky/idle"
)

// wsUpgrade is the response to a request for a WebSocket. It sees whether it
// becomes one: over HTTP/1 a 101 after which the connection is hijacked, over
// HTTP/2 and 3 a 200 after which the request's body is read.
type wsUpgrade struct {
	*caddyhttp.ResponseWriterWrapper
	handler *Timeouts
	request *http.Request
	cancel  context.CancelFunc
	body    io.ReadCloser // of an extended CONNECT

	status  int
	stream  atomic.Pointer[wsStream]
	restore []func() // Caddy's own idle timeouts
}

// wsStream is what an extended CONNECT becomes.
type wsStream struct {
	webSocket
	conn  streamed
	begin sync.Once
}

// WriteHeader implements http.ResponseWriter.
func (u *wsUpgrade) WriteHeader(status int) {
	if u.status == 0 || u.status >= 100 && u.status < 200 {
		u.status = status
		if u.body != nil && status == http.StatusOK {
			u.openStream()
		}
	}
	u.ResponseWriterWrapper.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (u *wsUpgrade) Write(p []byte) (int, error) {
	if u.status == 0 {
		u.WriteHeader(http.StatusOK)
	}
	if s := u.stream.Load(); s != nil {
		return s.Write(p)
	}
	return u.ResponseWriterWrapper.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (u *wsUpgrade) ReadFrom(r io.Reader) (int64, error) {
	if u.body != nil {
		return io.Copy(struct{ io.Writer }{u}, r)
	}
	return u.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError is called by http.ResponseController.
func (u *wsUpgrade) FlushError() error {
	if s := u.stream.Load(); s != nil {
		return s.Flush()
	}
	return http.NewResponseController(u.ResponseWriter).Flush()
}

// Hijack is called by http.ResponseController. What was read behind the request
// is read from the connection again, so that all of it is seen as frames.
func (u *wsUpgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil || u.status != http.StatusSwitchingProtocols || !isUpgrade(u.Header()) {
		return conn, brw, err
	}
	if err := brw.Flush(); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	early, _ := brw.Peek(brw.Reader.Buffered())
	c := &wsConn{conn: hijacked{Conn: conn, early: bytes.Clone(early), tcp: idle.KernelClock(conn)}}
	brw.Reader.Reset(c)
	brw.Writer.Reset(c)
	u.handler.watch(&c.webSocket, &c.conn, u.request, u.cancel)
	c.start()
	return c, brw, nil
}

// never is as long as a timeout can be.
const never = time.Duration(math.MaxInt64 / 2)

// openStream makes a WebSocket of the stream. Its clock begins when somebody
// reads the body: an upstream that knows no WebSockets may have answered 200 as
// well. The idle timeouts of the HTTP server would end quiet ones within a
// minute.
func (u *wsUpgrade) openStream() {
	reader, writer := caddyhttp.IdleTimeoutsFromContext(u.request.Context())
	if reader != nil {
		u.restore = append(u.restore, reader.Override(never, 0))
	}
	if writer != nil {
		u.restore = append(u.restore, writer.Override(never, 0, 0))
	}
	s := new(wsStream)
	s.conn.init(u.body, u.ResponseWriter)
	u.handler.watch(&s.webSocket, &s.conn, u.request, u.cancel)
	u.stream.Store(s)
}

// endStream returns when nobody uses the stream any more, which belongs to the
// HTTP server from then on.
func (u *wsUpgrade) endStream() {
	s := u.stream.Load()
	if s == nil {
		return
	}
	s.stop()
	idle := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(idle)
	}()
	grace := time.NewTimer(closeTimeout)
	defer grace.Stop()
	select {
	case <-idle:
		s.writing.Lock()
		_ = s.sayHeld()
		s.writing.Unlock()
	case <-grace.C: // a frame of ours that the client does not take
		s.abort()
		<-idle
	}
	s.conn.end()
	for _, restore := range u.restore {
		restore()
	}
}

// wsBody is the body of an extended CONNECT.
type wsBody struct {
	io.ReadCloser
	upgrade *wsUpgrade
}

// Read implements io.Reader.
func (b *wsBody) Read(p []byte) (int, error) {
	s := b.upgrade.stream.Load()
	if s == nil {
		return b.ReadCloser.Read(p)
	}
	s.begin.Do(s.start)
	return s.Read(p)
}

// Interface guards
var (
	_ http.ResponseWriter = (*wsUpgrade)(nil)
	_ io.ReaderFrom       = (*wsUpgrade)(nil)
	_ net.Conn            = (*wsConn)(nil)
)
