// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package e2e_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

func init() {
	roles["websocket server"] = func(address string) { _ = http.ListenAndServe(address, wsEcho) }
	roles["websocket client"] = webSocketClient
}

// webSocketClient echoes what it hears, and says how that ends.
func webSocketClient(address string) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		fmt.Println("dialling:", err)
		return
	}
	config, _ := websocket.NewConfig("ws://localhost"+address[strings.LastIndexByte(address, ':'):], "http://localhost")
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		fmt.Println("opening:", err)
		return
	}
	_, err = io.Copy(ws, ws)
	fmt.Println("ended:", err)
}

// pingInterval is that of the tests below. A peer is lost when it has said
// nothing for one, and not answered for another.
const pingInterval = time.Second

// answersAndStops lets a WebSocket be quiet while the process at its other end
// answers Pings, then stops that process, whose kernel goes on to acknowledge
// what it gets, and waits for this end to hear of it.
func answersAndStops(t *testing.T, living *socket, stop func()) {
	t.Helper()
	hears := func(first byte, text string) {
		got, payload, err := living.next()
		require.NoError(t, err)
		require.Equal(t, first, got)
		require.Equal(t, text, string(payload))
	}
	require.NoError(t, living.send(wsText, []byte("hello")))
	hears(wsText, "hello")
	// Several intervals of silence, which this end answers Pings in as well.
	quiet := time.AfterFunc(4*pingInterval, func() { _ = living.send(wsText, []byte("still here")) })
	defer quiet.Stop()
	hears(wsText, "still here")
	require.Positive(t, living.pings.Load())

	stop()
	begin := time.Now()
	hears(wsClose, going1001)
	took := time.Since(begin)
	t.Logf("found after %s", took)
	// The last sign of life was the echo above.
	require.GreaterOrEqual(t, took, 3*pingInterval/2)
	require.Less(t, took, 10*pingInterval)
	require.NoError(t, living.send(wsClose, []byte(going1001)))
	_, _, err := living.next()
	require.Error(t, err, "the connection, or its stream, which is reset")
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestStoppedWebSocketClientIsFoundByPing(t *testing.T) {
	t.Parallel()
	site := newSite(t, "ping "+pingInterval.String(), false)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"=websocket client@"+site.plain)
	said := new(program.LockedBuffer)
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	var server *socket
	select {
	case server = <-site.sockets:
	case <-ended:
		t.Fatal(said.String())
	}
	t.Cleanup(func() { _ = server.Close() })
	answersAndStops(t, server, func() { require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP)) })
	// It comes to life again, and finds that it was left.
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	<-ended
	require.Equal(t, "ended: <nil>\n", said.String())
}

func TestStoppedWebSocketServerIsFoundByPing(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	for way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			server := peer.Run(t, func(port int) *exec.Cmd {
				cmd := exec.Command(self)
				cmd.Env = append(os.Environ(), fmt.Sprintf("%s=websocket server@127.0.0.1:%d", roleEnv, port))
				return cmd
			})
			site := new(wsSite)
			site.start(t, "ping "+pingInterval.String(), server.Address)
			client := newSocket(ways[way](t, site), true)
			t.Cleanup(func() { server.Signal(t, syscall.SIGCONT) }) // so that it can end
			answersAndStops(t, client, func() { server.Signal(t, syscall.SIGSTOP) })
		})
	}
}
