// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	aliceHash = "$2a$04$K3kKau3IwHX47oTO8W6OeelqRLY4teCn.uodCrc9tubUx1xZD2O6O"
	bobHash   = "$2a$04$jWeqkGxPXUph8a3Y9GJoJezGxclVcM5pYA6zJW5SLdIWUcuZkCbW6"
	// carolHash is argon2id, of alicePassword.
	carolHash = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$+v0rf6ETYAIpqJIjJyARZ3W3zqJlkf+0TRXzsLHmR6o"
)

// get sends a request in absolute form with these header lines.
func get(w *world, lines ...string) reply {
	w.t.Helper()
	c := w.dial()
	defer c.close()
	c.send("GET http://" + w.origin + "/ HTTP/1.1\r\nHost: x\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n")
	return c.answer(http.MethodGet)
}

// as returns the header line of credentials.
func as(user, password string) string { return "Proxy-Authorization: " + basic(user, password) }

// E6: over the wire.
func TestTooManyWrongPasswordsAre429(t *testing.T) {
	w := newWorld(t, alice, bob, fourExits, loopback)
	require.Equal(t, http.StatusOK, w.forwarded("bob").status)
	for range 10 {
		require.Equal(t, http.StatusProxyAuthRequired, get(w, as("alice", "wrong")).status)
	}
	for _, user := range []string{"alice", "bob"} {
		res := w.forwarded(user)
		require.Equal(t, http.StatusTooManyRequests, res.status)
		require.Regexp(t, `^([1-9]|[1-5][0-9]|60)$`, res.header.Get("Retry-After"))
		require.Empty(t, res.header.Get("Proxy-Authenticate"))
		require.Equal(t, "http_request_denied", res.reason())
	}
	// Credentials that are missing are how clients begin.
	require.Equal(t, http.StatusProxyAuthRequired, get(w).status)
	require.NotContains(t, w.logs.String(), "wrong\"")
}

// E6: a reload forgives nothing.
func TestReloadDoesNotForgive(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback)
	for range 10 {
		get(w, as("alice", "wrong"))
	}
	require.NoError(t, w.reload(alice+bob+fourExits+loopback))
	require.Equal(t, http.StatusTooManyRequests, w.forwarded("alice").status)
}

func TestAccountsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.htpasswd")
	write := func(lines ...string) {
		t.Helper()
		next := path + ".new"
		require.NoError(t, os.WriteFile(next, []byte(strings.Join(lines, "\n")), 0o600))
		require.NoError(t, os.Rename(next, path))
	}
	write("# people", "", "bob:"+bobHash, "carol:"+carolHash+"\r", "dave", "erin:"+bobPassword, "alice:"+bobHash, "bob:"+aliceHash,
		bobHash+":frank", "gina-session-x:"+bobHash)
	w := newWorld(t, alice, "accounts_file "+path, fourExits, loopback)

	status := func(user, password string) int { return get(w, as(user, password)).status }
	require.Equal(t, http.StatusOK, status("alice", alicePassword), "the configuration's account is not the file's")
	require.Equal(t, http.StatusOK, status("bob", bobPassword))
	require.Equal(t, http.StatusOK, status("carol-session-x", alicePassword))
	require.Equal(t, http.StatusProxyAuthRequired, status("dave", ""))
	require.Equal(t, http.StatusProxyAuthRequired, status("erin", bobPassword))
	for line, reason := range map[int]string{
		5: "it is not name:hash", 6: `account "erin": the password is not a bcrypt or argon2id hash`,
		7: `account "alice" is given twice`, 8: `account "bob" is given twice`,
		9: "its name looks like a password hash", 10: "would be cut at",
	} {
		found := w.logs.lines("", fields{"line": line})
		require.Len(t, found, 1, line)
		require.Contains(t, found[0].Text("error"), reason)
	}
	require.Len(t, w.logs.lines("line of the accounts file left out"), 6)
	for _, secret := range []string{bobPassword, bobHash, aliceHash} {
		require.NotContains(t, w.logs.String(), secret)
	}

	// It is read again without a reload.
	write("dave:" + bobHash)
	eventually(t, "the new file", func() bool { return len(w.logs.lines("accounts file read again")) == 1 })
	require.Equal(t, http.StatusOK, status("dave", bobPassword))
	require.Equal(t, http.StatusOK, status("alice", alicePassword))
	require.Equal(t, http.StatusProxyAuthRequired, status("bob", bobPassword), "remembered or not")

	// What was known stays when it is gone.
	require.NoError(t, os.Remove(path))
	eventually(t, "a warning", func() bool {
		return len(w.logs.lines("accounts file cannot be read: its accounts stay as they were")) == 1
	})
	require.Equal(t, http.StatusOK, status("dave", bobPassword))
}

func TestAccountsFileThatCannotBeReadIsAnErrorAtLoad(t *testing.T) {
	w := newWorld(t, alice, oneExit, loopback)
	err := w.reload("accounts_file /nowhere/users\n" + oneExit + loopback)
	require.ErrorContains(t, err, `sticky_proxy "default": accounts_file: open /nowhere/users`)
	require.Equal(t, http.StatusOK, w.forwarded("alice").status, "the old configuration goes on")
}

func TestSessionsOfAnAccountAreLimited(t *testing.T) {
	w := newWorld(t, strings.TrimSpace(alice)+" {\nmax_sessions 2\n}\n", bob, "max_sessions_per_account 3", fourExits, loopback, "ttl 3s")
	begin := time.Now()
	first := w.exit("alice-session-1")
	require.Equal(t, http.StatusOK, w.forwarded("alice-session-2").status)
	refused := w.forwarded("alice-session-3")
	if time.Since(begin) < 3*time.Second {
		require.Equal(t, http.StatusServiceUnavailable, refused.status)
		require.Equal(t, "connection_limit_reached", refused.reason())
		require.Contains(t, refused.body, "account alice has as many sessions as it may, 2")
		require.Equal(t, first, w.exit("alice-session-1"), "what it has goes on")
		require.Equal(t, http.StatusOK, w.forwarded("alice").status, "without a session there is nothing to count")
	}
	for i := range 3 {
		require.Equal(t, http.StatusOK, w.forwarded(fmt.Sprint("bob-session-", i)).status)
	}
	require.Equal(t, http.StatusServiceUnavailable, w.forwarded("bob-session-3-sessionttl-5").status)
	eventually(t, "room after the ttl", func() bool { return w.forwarded("alice-session-3").status == http.StatusOK })
}

func TestLimitOfAnAccountSurvivesAReload(t *testing.T) {
	block := strings.TrimSpace(alice) + " {\nmax_sessions 1\n}\n" + fourExits + loopback
	w := newWorld(t, block)
	require.Equal(t, http.StatusOK, w.forwarded("alice-session-1").status)
	require.NoError(t, w.reload(block+"idle_timeout 20s"))
	require.Equal(t, http.StatusServiceUnavailable, w.forwarded("alice-session-2").status)
	require.Equal(t, http.StatusOK, w.forwarded("alice-session-1").status)
}

func TestConcurrentSessionsOfAnAccountAreLimited(t *testing.T) {
	w := newWorld(t, alice, "max_sessions_per_account 5", fourExits, loopback)
	results := make(chan error, 40)
	for i := range cap(results) {
		go func() {
			_, err := w.tryExit(fmt.Sprint("alice-session-", i))
			results <- err
		}()
	}
	worked := 0
	for range cap(results) {
		if err := <-results; err == nil {
			worked++
		} else {
			require.ErrorContains(t, err, "503")
		}
	}
	require.Equal(t, 5, worked)
}

func TestNewSessionsOfAnAddressAreLimited(t *testing.T) {
	w := newWorld(t, alice, bob, "new_sessions 3/1h", fourExits, loopback)
	for i := range 3 {
		require.Equal(t, http.StatusOK, w.forwarded(fmt.Sprint("alice-session-", i)).status)
	}
	for _, user := range []string{"alice-session-3", "bob-session-1"} {
		res := w.forwarded(user)
		require.Equal(t, http.StatusTooManyRequests, res.status)
		require.NotEmpty(t, res.header.Get("Retry-After"))
		require.Contains(t, res.body, "at most 3 in 1h0m0s")
	}
	for i := range 3 {
		require.Equal(t, http.StatusOK, w.forwarded(fmt.Sprint("alice-session-", i)).status, "what began goes on")
	}
	require.Equal(t, http.StatusOK, w.forwarded("alice").status)
}

func TestAccountReachesItsDestinationsOnly(t *testing.T) {
	account := func(options string) string { return strings.TrimSpace(alice) + " {\n" + options + "\n}\n" }
	for name, tt := range map[string]struct {
		options string
		open    bool
	}{
		"allowed":               {"allow 127.0.0.1", true},
		"allowed, range":        {"allow 127.0.0.0/8", true},
		"something else":        {"allow example.com", false},
		"denied":                {"deny 127.0.0.0/8", false},
		"something else denied": {"deny example.com", true},
		"denied beats allowed":  {"allow 127.0.0.0/8\ndeny 127.0.0.1", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, account(tt.options), bob, fourExits, loopback)
			want := http.StatusForbidden
			if tt.open {
				want = http.StatusOK
			}
			for _, user := range []string{"alice", "alice-session-x"} {
				require.Equal(t, want, w.connect(user, w.origin).status)
				res := w.forwarded(user)
				require.Equal(t, want, res.status)
				if !tt.open {
					require.Equal(t, "destination_ip_prohibited", res.reason())
				}
			}
			require.Equal(t, http.StatusOK, w.forwarded("bob").status, "another account is not meant")
		})
	}
	t.Run("never opens what the proxy denies", func(t *testing.T) {
		w := newWorld(t, account("allow 127.0.0.1"), oneExit, "ports 1-65535")
		require.Equal(t, http.StatusForbidden, w.connect("alice", w.origin).status)
		require.Equal(t, http.StatusForbidden, w.forwarded("alice").status)
	})
}

// F2: what a name resolves to is judged by the account's rules as well, and a
// connection that is open for others does not go around them.
func TestAccountsRulesHoldForTheAddressThatIsDialled(t *testing.T) {
	w := newWorld(t, strings.TrimSpace(alice)+" {\ndeny 127.0.0.0/8 ::1\n}\n", bob, "exit direct://", "allow localhost 127.0.0.1", "ports 1-65535")
	named := "localhost" + w.origin[strings.LastIndexByte(w.origin, ':'):]
	ask := func(user string) reply {
		c := w.dial()
		defer c.close()
		c.send("GET http://" + named + "/ HTTP/1.1\r\nHost: x\r\n" + credentials(user) + "\r\n")
		return c.answer(http.MethodGet)
	}
	for range 3 {
		require.Equal(t, http.StatusOK, ask("bob").status)
		res := ask("alice")
		require.Equal(t, http.StatusForbidden, res.status, res.body)
		require.Equal(t, http.StatusForbidden, w.connect("alice", named).status)
		require.Equal(t, http.StatusOK, w.connect("bob", named).status)
	}
}

func TestAccountsTags(t *testing.T) {
	w := newWorld(t, strings.TrimSpace(alice)+" {\ntags country DE fr\n}\n", bob, fourExits, loopback)
	res := w.forwarded("alice-country-us-session-a")
	require.Equal(t, http.StatusForbidden, res.status)
	require.Contains(t, res.body, `this account may not use exits with country "us" (have de, fr)`)
	// No exit has tags, and the account may use no others.
	for _, user := range []string{"alice", "alice-country-De", "alice-country-fr-session-a", "bob-country-us"} {
		require.Equal(t, http.StatusServiceUnavailable, w.forwarded(user).status, user)
	}
	require.Equal(t, http.StatusOK, w.forwarded("bob").status)
}

func TestParametersInThePassword(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback, "credentials iproyal")
	exit := func(password string) string {
		res := get(w, as("alice", password))
		require.Equal(t, http.StatusOK, res.status, res.body)
		return res.body
	}
	first := exit(alicePassword + "_session-abcd1234_lifetime-10m")
	for range 5 {
		require.Equal(t, first, exit(alicePassword+"_lifetime-10m_session-abcd1234"))
	}
	require.NotEqual(t, exit(alicePassword), exit(alicePassword))
	require.Equal(t, http.StatusBadRequest, get(w, as("alice", alicePassword+"_session-short")).status)
	require.Equal(t, http.StatusProxyAuthRequired, get(w, as("alice", "wrong_session-abcd1234")).status)
	for range 15 { // one password, however it is written, is verified once
		exit(alicePassword + "_session-abcd1234")
	}
}

// E2: what the session comes from goes no further.
func TestParametersInAHeader(t *testing.T) {
	origin := originOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, hostOf(r.RemoteAddr)+r.Header.Get("X-Session"))
	})
	for name, who := range map[string]string{"accounts": alice, "open": "open\n"} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, origin, site{block: who + fourExits + loopback + "credentials <session> {\nfield header X-Session\n}\n"})
			ask := func(lines ...string) reply {
				if name == "accounts" {
					lines = append(lines, as("alice", alicePassword))
				}
				return get(w, lines...)
			}
			first := ask("X-Session: abc").body
			require.Regexp(t, `^127\.0\.0\.1[1-4]$`, first)
			for range 5 {
				require.Equal(t, first, ask("x-session: abc").body)
			}
			require.NotEqual(t, first, ask("X-Session: other").body)
			require.NotEqual(t, ask().body, ask().body)
			require.Equal(t, http.StatusBadRequest, ask("X-Session: a", "X-Session: b").status)
		})
	}
}

func TestCredentialsWithoutAnAccountMeanTheOnlyOne(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback, "credentials apify")
	first := get(w, as("session-x", alicePassword)).body
	for range 5 {
		require.Equal(t, first, get(w, as("session-x", alicePassword)).body)
	}
	require.Equal(t, http.StatusOK, get(w, as("auto", alicePassword)).status)
	require.Equal(t, http.StatusProxyAuthRequired, get(w, as("session-x", "wrong")).status)
	require.Equal(t, http.StatusBadRequest, get(w, as("alice", alicePassword)).status)
}

func TestPresetBringsItsBoundsAndOptionsWin(t *testing.T) {
	for name, tt := range map[string]struct {
		lines, ok, refused string
	}{
		"preset":     {"credentials geonode", "alice-session-a-lifetime-1440", "alice-session-a-lifetime-2"},
		"options":    {"credentials geonode\nmin_ttl 1m\nmax_ttl 168h", "alice-session-a-lifetime-10080", "alice-session-a-lifetime-10081"},
		"the lowest": {"credentials geonode\nmin_ttl 1m\nmax_ttl 168h", "alice-session-a-lifetime-1", "alice-session-a-lifetime-0"},
		"unit":       {"credentials massive {\nunit s\n}\nmin_ttl 1s", "alice-session-a-sessionttl-14400", "alice-session-a-sessionttl-14401"},
		"clamp":      {"credentials massive {\nbounds clamp\n}", "alice-session-a-sessionttl-14401", "alice-session-a-sessionttl-x"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, alice, oneExit, loopback, tt.lines)
			require.Equal(t, http.StatusOK, w.forwarded(tt.ok).status)
			require.Equal(t, http.StatusBadRequest, w.forwarded(tt.refused).status)
		})
	}
}

// A kill switch answers 410 and moves nothing.
func TestKillSwitchIsGone(t *testing.T) {
	bad := newPuppet(t, hangUp)
	w := newWorld(t, alice, loopback, "credentials iproyal", "exit http://"+bad.address, "exit http://"+newPuppet(t, hangUp).address)
	tunnel := func(password string) reply {
		c := w.dial()
		defer c.close()
		c.send("CONNECT " + w.origin + " HTTP/1.1\r\nHost: x\r\n" + as("alice", password) + "\r\n\r\n")
		return c.answer(http.MethodConnect)
	}
	for range 2 {
		res := tunnel(alicePassword + "_session-abcd1234_killswitch-1")
		require.Equal(t, http.StatusGone, res.status)
		require.NotEmpty(t, res.reason())
	}
	require.Equal(t, http.StatusBadGateway, tunnel(alicePassword+"_session-abcd5678").status)
}

// A session with a bind time holds its exit that long, and then lets go.
func TestBindTimeHoldsAFailingExit(t *testing.T) {
	bad := newPuppet(t, hangUp)
	w := newWorld(t, alice, loopback, "fallback round_robin", "credentials soax {\naccount_prefix \"\"\n}",
		"exit http://"+bad.address, "exit direct://127.0.0.12")
	begin := time.Now()
	user := "alice-sessionid-x-bindttl-2"
	res := w.connect(user, w.origin)
	if res.status == http.StatusOK { // it began at the other one
		user = "alice-sessionid-y-bindttl-2"
		begin = time.Now()
		res = w.connect(user, w.origin)
	}
	require.Equal(t, http.StatusBadGateway, res.status)
	eventually(t, "another exit", func() bool {
		if w.connect(user, w.origin).status != http.StatusOK {
			return false
		}
		require.GreaterOrEqual(t, time.Since(begin), 2*time.Second)
		return true
	})
}

func TestIdleSessionEnds(t *testing.T) {
	w := newWorld(t, alice, fourExits, loopback, "max_idle 5ms")
	first := w.exit("alice-session-abc")
	eventually(t, "another exit", func() bool {
		return w.exit("alice-session-abc") != first
	})
}
