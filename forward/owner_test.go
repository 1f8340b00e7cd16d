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

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// G6: a reload ends no tunnel but those of accounts and exits that it takes away,
// and these after the grace, with a FIN.
func TestTunnelsOfWhatIsGoneEndAfterTheGrace(t *testing.T) {
	const exits = "exit direct://127.0.0.11\nexit direct://127.0.0.12\nfallback round_robin\n"
	for name, gone := range map[string]struct{ before, after string }{
		"account":       {proxytest.Alice + proxytest.Bob + exits, proxytest.Bob + exits},
		"account, open": {"open\n" + exits, proxytest.Bob + exits},
		"exit":          {proxytest.Alice + proxytest.Bob + exits, proxytest.Alice + proxytest.Bob + "exit direct://127.0.0.12\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := proxytest.NewWorld(t, gone.before, proxytest.Loopback)
			echoes := proxytest.ServerOf(t, proxytest.Echo)
			counted := conntest.Closed(t, idle.ClosedCollector{}, idle.Tunnels, string(idle.Gone))
			first, second := w.Tunnel("alice", echoes), w.Tunnel("bob", echoes)
			require.True(t, first.Alive())
			require.NoError(t, w.Reload(gone.after+proxytest.Loopback))
			require.True(t, first.Alive(), "it has a grace")
			require.Empty(t, first.ExpectEnd())
			require.True(t, second.Alive())
			proxytest.Eventually(t, "the log", func() bool { return len(w.Logs.Lines("", proxytest.Fields{"closed": "gone"})) == 1 })
			require.Equal(t, counted+1, conntest.Closed(t, idle.ClosedCollector{}, idle.Tunnels, string(idle.Gone)))
		})
	}
}

// What comes back within the grace was not gone.
func TestTunnelsOfWhatComesBackStay(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, proxytest.OneExit, proxytest.Loopback)
	echoes := proxytest.ServerOf(t, proxytest.Echo)
	back, gone := w.Tunnel("alice", echoes), w.Tunnel("bob", echoes)
	require.NoError(t, w.Reload(proxytest.OneExit+proxytest.Loopback+"open"))
	require.NoError(t, w.Reload(proxytest.Bob+proxytest.OneExit+proxytest.Loopback))
	require.NoError(t, w.Reload(proxytest.Alice+proxytest.OneExit+proxytest.Loopback))
	require.Empty(t, gone.ExpectEnd())
	require.True(t, back.Alive())
}

// A load that fails takes nothing away.
func TestTunnelsStayWhereALoadFails(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, proxytest.OneExit, proxytest.Loopback)
	echoes := proxytest.ServerOf(t, proxytest.Echo)
	stays, gone := w.Tunnel("alice", echoes), w.Tunnel("bob", echoes)
	require.Error(t, w.Reload(proxytest.Bob+proxytest.OneExit+proxytest.Loopback+"ttl 0s"))
	require.NoError(t, w.Reload(proxytest.Alice+proxytest.OneExit+proxytest.Loopback))
	require.Empty(t, gone.ExpectEnd())
	require.True(t, stays.Alive())
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
	w := proxytest.NewWorld(t, "exits_file "+exits, "accounts_file "+accounts, "fallback round_robin", proxytest.Loopback)
	echoes := proxytest.ServerOf(t, proxytest.Echo)
	byExit, byAccount := w.Tunnel("alice", echoes), w.Tunnel("bob", echoes)
	write(exits, "direct://127.0.0.12\n")
	require.Empty(t, byExit.ExpectEnd())
	require.True(t, byAccount.Alive())
	write(accounts, aliceLine)
	require.Empty(t, byAccount.ExpectEnd())
}

// A tunnel whose exit is connected only after its account was taken away.
func TestTunnelThatBeginsTooLate(t *testing.T) {
	connected := make(chan struct{})
	slow := proxytest.NewPuppet(t, func(conn *net.TCPConn) {
		connected <- struct{}{}
		<-connected
		proxytest.HTTPProxy(proxytest.Away{From: "127.0.0.21"}, nil)(conn)
	})
	exit := "exit http://" + slow.Address + "\n"
	w := proxytest.NewWorld(t, proxytest.Alice, exit, proxytest.Loopback)
	c := w.Dial()
	c.Send(proxytest.Connect("alice", proxytest.ServerOf(t, proxytest.Echo)))
	<-connected
	loaded := make(chan error, 1)
	go func() { loaded <- w.Reload(proxytest.Bob + exit + proxytest.Loopback) }()
	require.NoError(t, <-loaded) // the old server has waited for its grace period
	connected <- struct{}{}
	require.Equal(t, http.StatusOK, c.Answer(http.MethodConnect).Status)
	require.True(t, c.Alive())
	require.Empty(t, c.ExpectEnd())
}
