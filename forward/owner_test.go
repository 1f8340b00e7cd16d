// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// G6: a reload ends no tunnel but those of accounts and exits that it takes away,
// and these after the grace, with a FIN.
func TestTunnelsOfWhatIsGoneEndAfterTheGrace(t *testing.T) {
	const exits = "exit direct://127.0.0.11\nexit direct://127.0.0.12\nfallback round_robin\n"
	for name, gone := range map[string]struct{ before, after string }{
		"account":       {alice + bob + exits, bob + exits},
		"account, open": {"open\n" + exits, bob + exits},
		"exit":          {alice + bob + exits, alice + bob + "exit direct://127.0.0.12\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, gone.before, loopback)
			echoes := serverOf(t, echo)
			first, second := w.tunnel("alice", echoes), w.tunnel("bob", echoes)
			require.True(t, first.alive())
			require.NoError(t, w.reload(gone.after+loopback))
			require.True(t, first.alive(), "it has a grace")
			require.Empty(t, first.expectEnd())
			require.True(t, second.alive())
			eventually(t, "the log", func() bool { return len(w.logs.lines("", fields{"closed": "gone"})) == 1 })
		})
	}
}

// What comes back within the grace was not gone.
func TestTunnelsOfWhatComesBackStay(t *testing.T) {
	w := newWorld(t, alice, bob, oneExit, loopback)
	echoes := serverOf(t, echo)
	back, gone := w.tunnel("alice", echoes), w.tunnel("bob", echoes)
	require.NoError(t, w.reload(oneExit+loopback+"open"))
	require.NoError(t, w.reload(bob+oneExit+loopback))
	require.NoError(t, w.reload(alice+oneExit+loopback))
	require.Empty(t, gone.expectEnd())
	require.True(t, back.alive())
}

// A load that fails takes nothing away.
func TestTunnelsStayWhereALoadFails(t *testing.T) {
	w := newWorld(t, alice, bob, oneExit, loopback)
	echoes := serverOf(t, echo)
	stays, gone := w.tunnel("alice", echoes), w.tunnel("bob", echoes)
	require.Error(t, w.reload(bob+oneExit+loopback+"ttl 0s"))
	require.NoError(t, w.reload(alice+oneExit+loopback))
	require.Empty(t, gone.expectEnd())
	require.True(t, stays.alive())
}

// Files that change are like reloads.
func TestTunnelsOfWhatItsFileNoLongerHas(t *testing.T) {
	dir := t.TempDir()
	exits, accounts := filepath.Join(dir, "exits"), filepath.Join(dir, "accounts")
	write := func(file, text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(exits, "direct://127.0.0.11\ndirect://127.0.0.12\n")
	const aliceLine = "alice:$2a$04$K3kKau3IwHX47oTO8W6OeelqRLY4teCn.uodCrc9tubUx1xZD2O6O\n"
	const bobLine = "bob:$2a$04$jWeqkGxPXUph8a3Y9GJoJezGxclVcM5pYA6zJW5SLdIWUcuZkCbW6\n"
	write(accounts, aliceLine+bobLine)
	w := newWorld(t, "exits_file "+exits, "accounts_file "+accounts, "fallback round_robin", loopback)
	echoes := serverOf(t, echo)
	byExit, byAccount := w.tunnel("alice", echoes), w.tunnel("bob", echoes)
	write(exits, "direct://127.0.0.12\n")
	require.Empty(t, byExit.expectEnd())
	require.True(t, byAccount.alive())
	write(accounts, aliceLine)
	require.Empty(t, byAccount.expectEnd())
}

// A tunnel whose exit is connected only after its account was taken away.
func TestTunnelThatBeginsTooLate(t *testing.T) {
	connected := make(chan struct{})
	slow := newPuppet(t, func(conn *net.TCPConn) {
		connected <- struct{}{}
		<-connected
		httpProxy(away{from: "127.0.0.21"}, nil)(conn)
	})
	exit := "exit http://" + slow.address + "\n"
	w := newWorld(t, alice, exit, loopback)
	c := w.dial()
	c.send(connect("alice", serverOf(t, echo)))
	<-connected
	loaded := make(chan error, 1)
	go func() { loaded <- w.reload(bob + exit + loopback) }()
	require.NoError(t, <-loaded) // the old server has waited for its grace period
	connected <- struct{}{}
	require.Equal(t, http.StatusOK, c.answer(http.MethodConnect).status)
	require.True(t, c.alive())
	require.Empty(t, c.expectEnd())
}
