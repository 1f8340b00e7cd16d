// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// killable is a proxy with two exits that are programs.
type killable struct {
	*proxytest.World
	exits map[string]*peer.Process // by the address that the origin sees
}

// newKillable starts it. Options are of each exit.
func newKillable(t *testing.T, options string, lines ...string) *killable {
	t.Helper()
	proxytest.NeedLoopback(t)
	k := &killable{exits: make(map[string]*peer.Process)}
	block := proxytest.Alice + proxytest.Loopback + "session_headers\n" + strings.Join(lines, "\n")
	for _, from := range []string{"127.0.0.21", "127.0.0.22"} {
		k.exits[from] = leaving(t, from)
		block += "\nexit socks5://" + k.exits[from].Address + options
	}
	k.World = proxytest.NewWorld(t, block)
	return k
}

// moved returns the decisions that moved a session off its exit.
func (k *killable) moved() []proxytest.Fields {
	return k.Logs.Lines("decided", proxytest.Fields{"outcome": "moved", "reason": "errors", "account": "alice"})
}

// leaving starts a program that is an exit and leaves from an address.
func leaving(t *testing.T, from string, ports ...int) *peer.Process {
	t.Helper()
	path := peer.Need(t, "microsocks")
	return peer.Run(t, func(port int) *exec.Cmd {
		return exec.Command(path, "-i", "127.0.0.1", "-p", strconv.Itoa(port), "-b", from)
	}, ports...)
}

// revive starts the exit again where it was.
func (k *killable) revive(t *testing.T, from string) {
	t.Helper()
	_, port, err := net.SplitHostPort(k.exits[from].Address)
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	k.exits[from] = leaving(t, from, n)
}

// A session whose exit is killed moves at once, if it is strict: the request that
// finds out succeeds elsewhere, and its answer and the log say so.
func TestStrictSessionMovesFromAnExitThatIsKilled(t *testing.T) {
	for name, ask := range map[string]func(k *killable) proxytest.Reply{
		"tunnel":  func(k *killable) proxytest.Reply { return k.Connect("alice-session-abc", k.Origin) },
		"request": func(k *killable) proxytest.Reply { return k.Forwarded("alice-session-abc") },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKillable(t, "")
			first := k.Exit("alice-session-abc")
			open := k.Tunnel("alice-session-abc", proxytest.ServerOf(t, proxytest.Hang))
			before := ask(k)
			require.Equal(t, []string{"socks5://" + k.exits[first].Address}, before.Header["X-Exit"])
			k.exits[first].Kill()
			open.ExpectClosed()
			after := ask(k)
			require.Equal(t, http.StatusOK, after.Status, after.Body)
			second := k.Exit("alice-session-abc")
			require.NotEqual(t, first, second)
			require.Equal(t, []string{"socks5://" + k.exits[second].Address}, after.Header["X-Exit"])
			require.Len(t, k.moved(), 1)
			require.Equal(t, "socks5://"+k.exits[second].Address, k.moved()[0].Text("target"))
			k.revive(t, first)
			for range 5 {
				require.Equal(t, second, k.Exit("alice-session-abc"), "it does not go back")
			}
			require.Len(t, k.moved(), 1)
		})
	}
}

// Flex bears 15 errors in a row, no more and no less, and a success forgives them.
func TestFlexSessionBearsFifteenErrorsOfAnExitThatIsKilled(t *testing.T) {
	const user = "alice-session-abc-sessionmode-flex"
	k := newKillable(t, "")
	first := k.Exit(user)
	fails := func(n int) {
		t.Helper()
		k.exits[first].Kill()
		for i := range n {
			res := k.Connect(user, k.Origin)
			require.Equal(t, http.StatusBadGateway, res.Status, "error %d: %s", i+1, res.Body)
			require.Equal(t, "connection_refused", res.Reason())
		}
	}
	for range 2 { // 28 in all
		fails(14)
		k.revive(t, first)
		require.Equal(t, first, k.Exit(user), "a success forgives")
	}
	fails(15)
	require.Empty(t, k.moved())
	require.NotEqual(t, first, k.Exit(user), "the 16th goes elsewhere")
	require.Len(t, k.moved(), 1)
	k.revive(t, first)
	require.NotEqual(t, first, k.Exit(user), "it does not go back")
}

// Norotate fails while the exit is gone: with 502, and with 503 where a check
// knows it. It comes back with the exit.
func TestNorotateSessionComesBackToAnExitThatWasKilled(t *testing.T) {
	const user = "alice-session-abc-sessionmode-norotate"
	for name, options := range map[string]string{"unchecked": "", "checked": " {\n check http://%s/ 100ms\n}\n"} {
		t.Run(name, func(t *testing.T) {
			if options != "" {
				options = fmt.Sprintf(options, proxytest.OriginOf(t, func(http.ResponseWriter, *http.Request) {}))
			}
			k := newKillable(t, options)
			first := k.Exit(user)
			k.exits[first].Kill()
			if options == "" {
				for range 20 {
					require.Equal(t, http.StatusBadGateway, k.Connect(user, k.Origin).Status)
					require.Equal(t, http.StatusBadGateway, k.Forwarded(user).Status)
				}
			} else {
				proxytest.Eventually(t, "the exit is down", func() bool { return len(k.Logs.Lines("exit is down")) > 0 })
				for range 20 {
					require.Equal(t, http.StatusServiceUnavailable, k.Connect(user, k.Origin).Status)
					require.Equal(t, http.StatusServiceUnavailable, k.Forwarded(user).Status)
				}
			}
			k.revive(t, first)
			proxytest.Eventually(t, "the exit is back", func() bool { return k.Connect(user, k.Origin).Status == http.StatusOK })
			for range 5 {
				require.Equal(t, first, k.Exit(user))
			}
			require.Empty(t, k.Logs.Lines("", proxytest.Fields{"outcome": "moved"}))
		})
	}
}
