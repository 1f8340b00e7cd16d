// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

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
)

var customer = regexp.MustCompile(`^customer-me-sessid-([0-9a-z]{8})-sesstime-30$`)

// A session has one session at the gateway for its whole life, whatever its
// connections and requests are.
func TestGatewayKeepsTheSession(t *testing.T) {
	for scheme, start := range providers {
		t.Run(scheme, func(t *testing.T) {
			p := start(t)
			block := strings.Join([]string{alice, bob, loopback, fmt.Sprintf(`exit %s://customer-me-sessid-{session}-sesstime-{ttl_minutes}:s3cret@%s {
	slots 2
}`, scheme, p.address)}, "\n")
			w := newWorld(t, block)
			owners := make(map[string]string) // of sessions at the gateway
			use := func(user string) login {
				p.logins()
				client := w.client(user)
				for range 3 {
					require.Equal(t, "127.0.0.21", w.exit(user))
					require.Equal(t, "127.0.0.21", w.forwarded(user).body)
					res, err := client.Get("http://" + w.origin)
					require.NoError(t, err)
					require.NoError(t, res.Body.Close())
				}
				session, _, _ := strings.Cut(user, "-sessionttl")
				var mine []login
				for _, l := range p.logins() {
					// A dial that was not needed in the end may come late.
					if owner, known := owners[l.user]; !known || owner == session {
						mine = append(mine, l)
					}
				}
				require.NotEmpty(t, mine)
				for _, l := range mine {
					require.Equal(t, mine[0].user, l.user)
					require.Equal(t, mine[0].password, l.password)
				}
				owners[mine[0].user] = session
				return mine[0]
			}
			first := use("alice-session-abc-sessionttl-30")
			require.Regexp(t, customer, first.user)
			require.Equal(t, "s3cret", first.password)
			for _, other := range []string{"alice-session-def-sessionttl-30", "bob-session-abc-sessionttl-30"} {
				require.NotEqual(t, first.user, use(other).user, other)
			}
			require.Equal(t, first.user, use("alice-session-abc").user, "the ttl is that of the session, not of the request")

			require.NoError(t, w.reload(block+"\nvia off"))
			require.Equal(t, first.user, use("alice-session-abc-sessionttl-30").user)
			require.NotContains(t, w.logs.String(), "s3cret")
		})
	}
}

// Requests without a session have one each at the gateway.
func TestGatewayRotatesRequestsWithoutASession(t *testing.T) {
	for scheme, start := range providers {
		t.Run(scheme, func(t *testing.T) {
			p := start(t)
			w := newWorld(t, alice, loopback, fmt.Sprintf("exit %s://u:P_session-{session}_lifetime-{ttl_seconds}s@%s", scheme, p.address))
			ids := make(map[string]bool)
			for range 4 {
				w.exit("alice")
				ids[p.login().password] = true
				require.Equal(t, http.StatusOK, w.forwarded("alice").status)
				ids[p.login().password] = true
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
	for scheme, start := range providers {
		t.Run(scheme, func(t *testing.T) {
			p := start(t)
			w := newWorld(t, alice, loopback, fmt.Sprintf("exit %s://me-{session}:pw@%s {\n slots 3\n}", scheme, p.address))
			var wg sync.WaitGroup
			for i := range 8 {
				client := w.client(fmt.Sprint("alice-session-", i))
				wg.Go(func() {
					for range 10 {
						res, err := client.Get("http://" + w.origin)
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
			for _, l := range p.logins() {
				users[l.user] = true
				if before, known := conns[l.conn]; known {
					require.Equal(t, before, l.user)
				}
				conns[l.conn] = l.user
			}
			require.Len(t, users, 8)
			if scheme == "http" {
				require.Less(t, len(conns), 80, "connections are kept")
			}
			require.LessOrEqual(t, p.dials.Load(), int64(40))
		})
	}
}

// A session that is over has another slot next, and another session there.
func TestGatewaySessionEndsWithTheSession(t *testing.T) {
	p := newHTTPProvider(t)
	w := newWorld(t, alice, loopback, "session_headers\nmin_ttl 1s\nttl 1s",
		fmt.Sprintf("exit http://me-{session}-{ttl_minutes}:pw@%s {\n slots 2\n}", p.address))
	before := w.forwarded("alice-session-abc")
	first := p.login()
	require.Regexp(t, `^me-[0-9a-z]{8}-1$`, first.user, "rounded up")
	require.Regexp(t, `^http://me-\{session\}-\{ttl_minutes\}@127\.0\.0\.1:\d+#[12]$`, before.header.Get("X-Exit"))
	eventually(t, "another slot", func() bool {
		after := w.forwarded("alice-session-abc")
		return p.login().user != first.user && after.header.Get("X-Exit") != before.header.Get("X-Exit")
	})
}

// The slots of a gateway that is away are away together: it is asked once.
func TestGatewayFailsForAllItsSlots(t *testing.T) {
	p := newHTTPProvider(t)
	w := newWorld(t, alice, loopback, "session_headers\nexit direct://127.0.0.11\nfallback hash",
		fmt.Sprintf("exit http://me-{session}:pw@%s {\n slots 50\n}", p.address))
	user := ""
	for i := 0; user == ""; i++ {
		if name := fmt.Sprint("alice-session-", i); w.exit(name) == "127.0.0.21" {
			user = name
		}
	}
	p.refuse()
	require.Equal(t, "127.0.0.11", w.exit(user))
	require.Len(t, w.logs.lines("exit failed"), 1)
}

func TestGatewayInTheExitsFile(t *testing.T) {
	p := newHTTPProvider(t)
	file := filepath.Join(t.TempDir(), "exits.txt")
	line := fmt.Sprintf("http://me-{session}:pw@%s slots 2\n", p.address)
	require.NoError(t, os.WriteFile(file, []byte(line), 0o600))
	w := newWorld(t, alice, loopback, "session_headers\nexits_file "+file)
	exit := w.forwarded("alice-session-abc").header.Get("X-Exit")
	first := p.login()
	require.NoError(t, os.WriteFile(file, []byte("# more\n"+line+"direct://127.0.0.11\n"), 0o600))
	eventually(t, "file read again", func() bool { return len(w.logs.lines("exits file read again")) > 0 })
	require.Equal(t, "2", w.logs.lines("exits file read again")[0].Text("exits"))
	require.Equal(t, exit, w.forwarded("alice-session-abc").header.Get("X-Exit"))
	require.Equal(t, first, p.login(), "with its connection")
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
		err := load(fmt.Sprintf("{\n admin off\n persist_config off\n storage file_system %s\n}\n:%s {\n sticky_proxy {\n %s exit %s\n }\n}\n",
			t.TempDir(), "0", alice, exit))
		require.ErrorContains(t, err, want, exit)
	}
}

// A session that the store has no room for has its own at the gateway as well.
func TestGatewayOfASessionThatIsNotRemembered(t *testing.T) {
	p := newHTTPProvider(t)
	origin := originOf(t, func(http.ResponseWriter, *http.Request) {})
	w := newWorldWith(t, origin, site{
		global: "sticky {\n store memory {\n max_sessions 1\n on_full hash\n }\n}",
		block:  strings.Join([]string{alice, loopback, fmt.Sprintf("exit http://me-{session}:pw@%s {\n slots 5\n}", p.address)}, "\n"),
	})
	users := make(map[string]bool)
	for _, id := range []string{"a", "b", "c"} {
		for range 5 {
			require.Equal(t, http.StatusOK, w.forwarded("alice-session-"+id).status)
		}
		users[p.login().user] = true
	}
	require.Len(t, users, 3)
}
