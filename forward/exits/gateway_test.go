// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

var customer = regexp.MustCompile(`^customer-me-sessid-([0-9a-z]{8})-sesstime-30$`)

// A session has one session at the gateway for its whole life, whatever its
// connections and requests are.
func TestGatewayKeepsTheSession(t *testing.T) {
	for scheme, start := range proxytest.Providers {
		t.Run(scheme, func(t *testing.T) {
			p := start(t)
			block := strings.Join([]string{proxytest.Alice, proxytest.Bob, proxytest.Loopback, fmt.Sprintf(`exit %s://customer-me-sessid-{session}-sesstime-{ttl_minutes}:s3cret@%s {
	slots 2
}`, scheme, p.Address)}, "\n")
			w := proxytest.NewWorld(t, block)
			owners := make(map[string]string) // of sessions at the gateway
			use := func(user string) proxytest.Login {
				p.Logins()
				client := w.Client(user)
				for range 3 {
					require.Equal(t, "127.0.0.21", w.Exit(user))
					require.Equal(t, "127.0.0.21", w.Forwarded(user).Body)
					res, err := client.Get("http://" + w.Origin)
					require.NoError(t, err)
					require.NoError(t, res.Body.Close())
				}
				session, _, _ := strings.Cut(user, "-sessionttl")
				var mine []proxytest.Login
				for _, l := range p.Logins() {
					// A dial that was not needed in the end may come late.
					if owner, known := owners[l.User]; !known || owner == session {
						mine = append(mine, l)
					}
				}
				require.NotEmpty(t, mine)
				for _, l := range mine {
					require.Equal(t, mine[0].User, l.User)
					require.Equal(t, mine[0].Password, l.Password)
				}
				owners[mine[0].User] = session
				return mine[0]
			}
			first := use("alice-session-abc-sessionttl-30")
			require.Regexp(t, customer, first.User)
			require.Equal(t, "s3cret", first.Password)
			for _, other := range []string{"alice-session-def-sessionttl-30", "bob-session-abc-sessionttl-30"} {
				require.NotEqual(t, first.User, use(other).User, other)
			}
			require.Equal(t, first.User, use("alice-session-abc").User, "the ttl is that of the session, not of the request")

			require.NoError(t, w.Reload(block+"\nvia off"))
			require.Equal(t, first.User, use("alice-session-abc-sessionttl-30").User)
			require.NotContains(t, w.Logs.String(), "s3cret")
		})
	}
}

// Requests without a session have one each at the gateway.
func TestGatewayRotatesRequestsWithoutASession(t *testing.T) {
	for scheme, start := range proxytest.Providers {
		t.Run(scheme, func(t *testing.T) {
			p := start(t)
			w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, fmt.Sprintf("exit %s://u:P_session-{session}_lifetime-{ttl_seconds}s@%s", scheme, p.Address))
			ids := make(map[string]bool)
			for range 4 {
				w.Exit("alice")
				ids[p.Login().Password] = true
				require.Equal(t, http.StatusOK, w.Forwarded("alice").Status)
				ids[p.Login().Password] = true
			}
			require.Len(t, ids, 8)
			for password := range ids {
				require.Regexp(t, `^P_session-[0-9a-z]{8}_lifetime-900s$`, password)
			}
		})
	}
}

// G8: no connection to a gateway serves two sessions, however many there are at
// once.
func TestGatewayConnectionsAreOneSessionsOwn(t *testing.T) {
	for scheme, start := range proxytest.Providers {
		t.Run(scheme, func(t *testing.T) {
			p := start(t)
			w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, fmt.Sprintf("exit %s://me-{session}:pw@%s {\n slots 3\n}", scheme, p.Address))
			var wg sync.WaitGroup
			for i := range 8 {
				client := w.Client(fmt.Sprint("alice-session-", i))
				wg.Go(func() {
					for range 10 {
						res, err := client.Get("http://" + w.Origin)
						if err != nil {
							t.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
					}
				})
			}
			wg.Wait()
			users, conns := make(map[string]bool), make(map[string]string)
			for _, l := range p.Logins() {
				users[l.User] = true
				if before, known := conns[l.Conn]; known {
					require.Equal(t, before, l.User)
				}
				conns[l.Conn] = l.User
			}
			require.Len(t, users, 8)
			if scheme == "http" {
				require.Less(t, len(conns), 80, "connections are kept")
			}
			require.LessOrEqual(t, p.Dials.Load(), int64(40))
		})
	}
}

// A session that is over has another slot next, and another session there.
func TestGatewaySessionEndsWithTheSession(t *testing.T) {
	p := proxytest.NewHTTPProvider(t)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "session_headers\nmin_ttl 1s\nttl 1s",
		fmt.Sprintf("exit http://me-{session}-{ttl_minutes}:pw@%s {\n slots 2\n}", p.Address))
	before := w.Forwarded("alice-session-abc")
	first := p.Login()
	require.Regexp(t, `^me-[0-9a-z]{8}-1$`, first.User, "rounded up")
	require.Regexp(t, `^http://me-\{session\}-\{ttl_minutes\}@127\.0\.0\.1:\d+#[12]$`, before.Header.Get("X-Exit"))
	proxytest.Eventually(t, "another slot", func() bool {
		after := w.Forwarded("alice-session-abc")
		return p.Login().User != first.User && after.Header.Get("X-Exit") != before.Header.Get("X-Exit")
	})
}

// The slots of a gateway that is away are away together: it is asked once.
func TestGatewayFailsForAllItsSlots(t *testing.T) {
	p := proxytest.NewHTTPProvider(t)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "session_headers\nexit direct://127.0.0.11\nfallback hash",
		fmt.Sprintf("exit http://me-{session}:pw@%s {\n slots 50\n}", p.Address))
	user := ""
	for i := 0; user == ""; i++ {
		if name := fmt.Sprint("alice-session-", i); w.Exit(name) == "127.0.0.21" {
			user = name
		}
	}
	p.Refuse()
	require.Equal(t, "127.0.0.11", w.Exit(user))
	require.Len(t, w.Logs.Lines("exit failed"), 1)
}

func TestGatewayInTheExitsFile(t *testing.T) {
	p := proxytest.NewHTTPProvider(t)
	file := filepath.Join(t.TempDir(), "exits.txt")
	line := fmt.Sprintf("http://me-{session}:pw@%s slots 2\n", p.Address)
	require.NoError(t, os.WriteFile(file, []byte(line), 0o600))
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "session_headers\nexits_file "+file)
	exit := w.Forwarded("alice-session-abc").Header.Get("X-Exit")
	first := p.Login()
	require.NoError(t, os.WriteFile(file, []byte("# more\n"+line+"direct://127.0.0.11\n"), 0o600))
	proxytest.Eventually(t, "file read again", func() bool { return len(w.Logs.Lines("exits file read again")) > 0 })
	require.Equal(t, "2", w.Logs.Lines("exits file read again")[0].Text("exits"))
	require.Equal(t, exit, w.Forwarded("alice-session-abc").Header.Get("X-Exit"))
	require.Equal(t, first, p.Login(), "with its connection")
}

func TestGatewayRefused(t *testing.T) {
	long := strings.Repeat("x", 240)
	for exit, want := range map[string]string{
		"http://me:pw@gw.example:1 {\n slots 2\n}":                                    "exit 1: slots are for a provider's gateway: its URL has {session} in the user or the password",
		"direct:// {\n slots 2\n}":                                                    "exit 1: slots are for a provider's gateway",
		"http://me-{ttl_minutes}:pw@gw.example:1":                                     "{ttl_minutes} in its URL has no meaning without {session}",
		"http://me-{session}:pw@gw.example:1 {\n slots 10001\n}":                      "slots is 10001, it must be from 1 to 10000",
		"http://me-{session}:pw@gw.example:1 {\n slots -1\n}":                         "slots -1 must be positive",
		"http://me-{session}-{nonsense}:pw@gw.example:1":                              "has a placeholder that is unknown or empty",
		"http://me:pw@{session}.gw.example:1":                                         "unrecognized placeholder {session}",
		"http://me-{session}:p%zzw@gw.example:1":                                      "the user information in its URL has a bad percent escape",
		"socks5://" + long + "-{session}-{ttl_seconds}:pw@gw.example:1":               "1 to 255 bytes each",
		"socks5://me-{session}@gw.example:1":                                          "1 to 255 bytes each",
		"http://a-{session}:pw@gw.example:1\nexit http://a-{session}:xx@gw.example:1": "exit http://a-{session}@gw.example:1#1 is given twice",
	} {
		err := proxytest.Load(fmt.Sprintf("{\n admin off\n persist_config off\n storage file_system %s\n}\n:%s {\n sticky_proxy {\n %s exit %s\n }\n}\n",
			t.TempDir(), "0", proxytest.Alice, exit))
		require.ErrorContains(t, err, want, exit)
	}
}

// A session that the store has no room for has its own at the gateway as well.
func TestGatewayOfASessionThatIsNotRemembered(t *testing.T) {
	p := proxytest.NewHTTPProvider(t)
	origin := proxytest.OriginOf(t, func(http.ResponseWriter, *http.Request) {})
	w := proxytest.NewWorldWith(t, origin, proxytest.Site{
		Global: "sticky {\n store memory {\n max_sessions 1\n on_full hash\n }\n}",
		Block:  strings.Join([]string{proxytest.Alice, proxytest.Loopback, fmt.Sprintf("exit http://me-{session}:pw@%s {\n slots 5\n}", p.Address)}, "\n"),
	})
	users := make(map[string]bool)
	for _, id := range []string{"a", "b", "c"} {
		for range 5 {
			require.Equal(t, http.StatusOK, w.Forwarded("alice-session-"+id).Status)
		}
		users[p.Login().User] = true
	}
	require.Len(t, users, 3)
}
