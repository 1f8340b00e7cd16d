// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts_test

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

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

const (
	aliceHash = "$2a$04$K3kKau3IwHX47oTO8W6OeelqRLY4teCn.uodCrc9tubUx1xZD2O6O"
	bobHash   = "$2a$04$jWeqkGxPXUph8a3Y9GJoJezGxclVcM5pYA6zJW5SLdIWUcuZkCbW6"
	// carolHash is argon2id, of AlicePassword.
	carolHash = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$+v0rf6ETYAIpqJIjJyARZ3W3zqJlkf+0TRXzsLHmR6o"
)

// get sends a request in absolute form with these header lines.
func get(w *proxytest.World, lines ...string) proxytest.Reply {
	w.T.Helper()
	c := w.Dial()
	defer c.Close()
	c.Send("GET http://" + w.Origin + "/ HTTP/1.1\r\nHost: x\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n")
	return c.Answer(http.MethodGet)
}

// as returns the header line of credentials.
func as(user, password string) string {
	return "Proxy-Authorization: " + proxytest.Basic(user, password)
}

// E6: over the wire.
func TestTooManyWrongPasswordsAre429(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, proxytest.FourExits, proxytest.Loopback)
	require.Equal(t, http.StatusOK, w.Forwarded("bob").Status)
	for range 10 {
		require.Equal(t, http.StatusProxyAuthRequired, get(w, as("alice", "wrong")).Status)
	}
	for _, user := range []string{"alice", "bob"} {
		res := w.Forwarded(user)
		require.Equal(t, http.StatusTooManyRequests, res.Status)
		require.Regexp(t, `^([1-9]|[1-5][0-9]|60)$`, res.Header.Get("Retry-After"))
		require.Empty(t, res.Header.Get("Proxy-Authenticate"))
		require.Equal(t, "http_request_denied", res.Reason())
	}
	// Credentials that are missing are how clients begin.
	require.Equal(t, http.StatusProxyAuthRequired, get(w).Status)
	require.NotContains(t, w.Logs.String(), "wrong\"")
}

// E6: a reload forgives nothing.
func TestReloadDoesNotForgive(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	for range 10 {
		get(w, as("alice", "wrong"))
	}
	require.NoError(t, w.Reload(proxytest.Alice+proxytest.Bob+proxytest.FourExits+proxytest.Loopback))
	require.Equal(t, http.StatusTooManyRequests, w.Forwarded("alice").Status)
}

func TestAccountsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.htpasswd")
	write := func(lines ...string) {
		t.Helper()
		next := path + ".new"
		require.NoError(t, os.WriteFile(next, []byte(strings.Join(lines, "\n")), 0o600))
		require.NoError(t, os.Rename(next, path))
	}
	write("# people", "", "bob:"+bobHash, "carol:"+carolHash+"\r", "dave", "erin:"+proxytest.BobPassword, "alice:"+bobHash, "bob:"+aliceHash,
		bobHash+":frank", "gina-session-x:"+bobHash)
	w := proxytest.NewWorld(t, proxytest.Alice, "accounts_file "+path, proxytest.FourExits, proxytest.Loopback)

	status := func(user, password string) int { return get(w, as(user, password)).Status }
	require.Equal(t, http.StatusOK, status("alice", proxytest.AlicePassword), "the configuration's account is not the file's")
	require.Equal(t, http.StatusOK, status("bob", proxytest.BobPassword))
	require.Equal(t, http.StatusOK, status("carol-session-x", proxytest.AlicePassword))
	require.Equal(t, http.StatusProxyAuthRequired, status("dave", ""))
	require.Equal(t, http.StatusProxyAuthRequired, status("erin", proxytest.BobPassword))
	for line, reason := range map[int]string{
		5: "it is not name:hash", 6: `account "erin": the password is not a bcrypt or argon2id hash`,
		7: `account "alice" is given twice`, 8: `account "bob" is given twice`,
		9: "its name looks like a password hash", 10: "would be cut at",
	} {
		found := w.Logs.Lines("", proxytest.Fields{"line": line})
		require.Len(t, found, 1, line)
		require.Contains(t, found[0].Text("error"), reason)
	}
	require.Len(t, w.Logs.Lines("line of the accounts file left out"), 6)
	for _, secret := range []string{proxytest.BobPassword, bobHash, aliceHash} {
		require.NotContains(t, w.Logs.String(), secret)
	}

	// It is read again without a reload.
	write("dave:" + bobHash)
	proxytest.Eventually(t, "the new file", func() bool { return len(w.Logs.Lines("accounts file read again")) == 1 })
	require.Equal(t, http.StatusOK, status("dave", proxytest.BobPassword))
	require.Equal(t, http.StatusOK, status("alice", proxytest.AlicePassword))
	require.Equal(t, http.StatusProxyAuthRequired, status("bob", proxytest.BobPassword), "remembered or not")

	// What was known stays when it is gone.
	require.NoError(t, os.Remove(path))
	proxytest.Eventually(t, "a warning", func() bool {
		return len(w.Logs.Lines("accounts file cannot be read: its accounts stay as they were")) == 1
	})
	require.Equal(t, http.StatusOK, status("dave", proxytest.BobPassword))
}

func TestAccountsFileThatCannotBeReadIsAnErrorAtLoad(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	err := w.Reload("accounts_file /nowhere/users\n" + proxytest.OneExit + proxytest.Loopback)
	require.ErrorContains(t, err, `sticky_proxy "default": accounts_file: open /nowhere/users`)
	require.Equal(t, http.StatusOK, w.Forwarded("alice").Status, "the old configuration goes on")
}

func TestSessionsOfAnAccountAreLimited(t *testing.T) {
	w := proxytest.NewWorld(t, strings.TrimSpace(proxytest.Alice)+" {\nmax_sessions 2\n}\n", proxytest.Bob, "max_sessions_per_account 3", proxytest.FourExits, proxytest.Loopback, "ttl 3s")
	begin := time.Now()
	first := w.Exit("alice-session-1")
	require.Equal(t, http.StatusOK, w.Forwarded("alice-session-2").Status)
	refused := w.Forwarded("alice-session-3")
	if time.Since(begin) < 3*time.Second {
		require.Equal(t, http.StatusServiceUnavailable, refused.Status)
		require.Equal(t, "connection_limit_reached", refused.Reason())
		require.Contains(t, refused.Body, "account alice has as many sessions as it may, 2")
		require.Equal(t, first, w.Exit("alice-session-1"), "what it has goes on")
		require.Equal(t, http.StatusOK, w.Forwarded("alice").Status, "without a session there is nothing to count")
	}
	for i := range 3 {
		require.Equal(t, http.StatusOK, w.Forwarded(fmt.Sprint("bob-session-", i)).Status)
	}
	require.Equal(t, http.StatusServiceUnavailable, w.Forwarded("bob-session-3-sessionttl-5").Status)
	proxytest.Eventually(t, "room after the ttl", func() bool { return w.Forwarded("alice-session-3").Status == http.StatusOK })
}

func TestLimitOfAnAccountSurvivesAReload(t *testing.T) {
	block := strings.TrimSpace(proxytest.Alice) + " {\nmax_sessions 1\n}\n" + proxytest.FourExits + proxytest.Loopback
	w := proxytest.NewWorld(t, block)
	require.Equal(t, http.StatusOK, w.Forwarded("alice-session-1").Status)
	require.NoError(t, w.Reload(block+"idle_timeout 20s"))
	require.Equal(t, http.StatusServiceUnavailable, w.Forwarded("alice-session-2").Status)
	require.Equal(t, http.StatusOK, w.Forwarded("alice-session-1").Status)
}

func TestConcurrentSessionsOfAnAccountAreLimited(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, "max_sessions_per_account 5", proxytest.FourExits, proxytest.Loopback)
	results := make(chan error, 40)
	for i := range cap(results) {
		go func() {
			_, err := w.TryExit(fmt.Sprint("alice-session-", i))
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
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Bob, "new_sessions 3/1h", proxytest.FourExits, proxytest.Loopback)
	for i := range 3 {
		require.Equal(t, http.StatusOK, w.Forwarded(fmt.Sprint("alice-session-", i)).Status)
	}
	for _, user := range []string{"alice-session-3", "bob-session-1"} {
		res := w.Forwarded(user)
		require.Equal(t, http.StatusTooManyRequests, res.Status)
		require.NotEmpty(t, res.Header.Get("Retry-After"))
		require.Contains(t, res.Body, "at most 3 in 1h0m0s")
	}
	for i := range 3 {
		require.Equal(t, http.StatusOK, w.Forwarded(fmt.Sprint("alice-session-", i)).Status, "what began goes on")
	}
	require.Equal(t, http.StatusOK, w.Forwarded("alice").Status)
}

func TestAccountReachesItsDestinationsOnly(t *testing.T) {
	account := func(options string) string { return strings.TrimSpace(proxytest.Alice) + " {\n" + options + "\n}\n" }
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
			w := proxytest.NewWorld(t, account(tt.options), proxytest.Bob, proxytest.FourExits, proxytest.Loopback)
			want := http.StatusForbidden
			if tt.open {
				want = http.StatusOK
			}
			for _, user := range []string{"alice", "alice-session-x"} {
				require.Equal(t, want, w.Connect(user, w.Origin).Status)
				res := w.Forwarded(user)
				require.Equal(t, want, res.Status)
				if !tt.open {
					require.Equal(t, "destination_ip_prohibited", res.Reason())
				}
			}
			require.Equal(t, http.StatusOK, w.Forwarded("bob").Status, "another account is not meant")
		})
	}
	t.Run("never opens what the proxy denies", func(t *testing.T) {
		w := proxytest.NewWorld(t, account("allow 127.0.0.1"), proxytest.OneExit, "ports 1-65535")
		require.Equal(t, http.StatusForbidden, w.Connect("alice", w.Origin).Status)
		require.Equal(t, http.StatusForbidden, w.Forwarded("alice").Status)
	})
}

// F2: what a name resolves to is judged by the account's rules as well, and a
// connection that is open for others does not go around them.
func TestAccountsRulesHoldForTheAddressThatIsDialled(t *testing.T) {
	w := proxytest.NewWorld(t, strings.TrimSpace(proxytest.Alice)+" {\ndeny 127.0.0.0/8 ::1\n}\n", proxytest.Bob, "exit direct://", "allow localhost 127.0.0.1", "ports 1-65535")
	named := "localhost" + w.Origin[strings.LastIndexByte(w.Origin, ':'):]
	ask := func(user string) proxytest.Reply {
		c := w.Dial()
		defer c.Close()
		c.Send("GET http://" + named + "/ HTTP/1.1\r\nHost: x\r\n" + proxytest.Credentials(user) + "\r\n")
		return c.Answer(http.MethodGet)
	}
	for range 3 {
		require.Equal(t, http.StatusOK, ask("bob").Status)
		res := ask("alice")
		require.Equal(t, http.StatusForbidden, res.Status, res.Body)
		require.Equal(t, http.StatusForbidden, w.Connect("alice", named).Status)
		require.Equal(t, http.StatusOK, w.Connect("bob", named).Status)
	}
}

func TestAccountsTags(t *testing.T) {
	w := proxytest.NewWorld(t, strings.TrimSpace(proxytest.Alice)+" {\ntags country DE fr\n}\n", proxytest.Bob, proxytest.FourExits, proxytest.Loopback)
	res := w.Forwarded("alice-country-us-session-a")
	require.Equal(t, http.StatusForbidden, res.Status)
	require.Contains(t, res.Body, `this account may not use exits with country "us" (have de, fr)`)
	// No exit has tags, and the account may use no others.
	for _, user := range []string{"alice", "alice-country-De", "alice-country-fr-session-a", "bob-country-us"} {
		require.Equal(t, http.StatusServiceUnavailable, w.Forwarded(user).Status, user)
	}
	require.Equal(t, http.StatusOK, w.Forwarded("bob").Status)
}

func TestParametersInThePassword(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback, "credentials iproyal")
	exit := func(password string) string {
		res := get(w, as("alice", password))
		require.Equal(t, http.StatusOK, res.Status, res.Body)
		return res.Body
	}
	first := exit(proxytest.AlicePassword + "_session-abcd1234_lifetime-10m")
	for range 5 {
		require.Equal(t, first, exit(proxytest.AlicePassword+"_lifetime-10m_session-abcd1234"))
	}
	require.NotEqual(t, exit(proxytest.AlicePassword), exit(proxytest.AlicePassword))
	require.Equal(t, http.StatusBadRequest, get(w, as("alice", proxytest.AlicePassword+"_session-short")).Status)
	require.Equal(t, http.StatusProxyAuthRequired, get(w, as("alice", "wrong_session-abcd1234")).Status)
	for range 15 { // one password, however it is written, is verified once
		exit(proxytest.AlicePassword + "_session-abcd1234")
	}
}

// E2: what the session comes from goes no further.
func TestParametersInAHeader(t *testing.T) {
	origin := proxytest.OriginOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, proxytest.HostOf(r.RemoteAddr)+r.Header.Get("X-Session"))
	})
	for name, who := range map[string]string{"accounts": proxytest.Alice, "open": "open\n"} {
		t.Run(name, func(t *testing.T) {
			w := proxytest.NewWorldWith(t, origin, proxytest.Site{Block: who + proxytest.FourExits + proxytest.Loopback + "credentials <session> {\nfield header X-Session\n}\n"})
			ask := func(lines ...string) proxytest.Reply {
				if name == "accounts" {
					lines = append(lines, as("alice", proxytest.AlicePassword))
				}
				return get(w, lines...)
			}
			first := ask("X-Session: abc").Body
			require.Regexp(t, `^127\.0\.0\.1[1-4]$`, first)
			for range 5 {
				require.Equal(t, first, ask("x-session: abc").Body)
			}
			require.NotEqual(t, first, ask("X-Session: other").Body)
			require.NotEqual(t, ask().Body, ask().Body)
			require.Equal(t, http.StatusBadRequest, ask("X-Session: a", "X-Session: b").Status)
		})
	}
}

func TestCredentialsWithoutAnAccountMeanTheOnlyOne(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback, "credentials apify")
	first := get(w, as("session-x", proxytest.AlicePassword)).Body
	for range 5 {
		require.Equal(t, first, get(w, as("session-x", proxytest.AlicePassword)).Body)
	}
	require.Equal(t, http.StatusOK, get(w, as("auto", proxytest.AlicePassword)).Status)
	require.Equal(t, http.StatusProxyAuthRequired, get(w, as("session-x", "wrong")).Status)
	require.Equal(t, http.StatusBadRequest, get(w, as("alice", proxytest.AlicePassword)).Status)
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
			w := proxytest.NewWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback, tt.lines)
			require.Equal(t, http.StatusOK, w.Forwarded(tt.ok).Status)
			require.Equal(t, http.StatusBadRequest, w.Forwarded(tt.refused).Status)
		})
	}
}

// A kill switch answers 410 and moves nothing.
func TestKillSwitchIsGone(t *testing.T) {
	bad := proxytest.NewPuppet(t, proxytest.HangUp)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "credentials iproyal", "exit http://"+bad.Address, "exit http://"+proxytest.NewPuppet(t, proxytest.HangUp).Address)
	tunnel := func(password string) proxytest.Reply {
		c := w.Dial()
		defer c.Close()
		c.Send("CONNECT " + w.Origin + " HTTP/1.1\r\nHost: x\r\n" + as("alice", password) + "\r\n\r\n")
		return c.Answer(http.MethodConnect)
	}
	for range 2 {
		res := tunnel(proxytest.AlicePassword + "_session-abcd1234_killswitch-1")
		require.Equal(t, http.StatusGone, res.Status)
		require.NotEmpty(t, res.Reason())
	}
	require.Equal(t, http.StatusBadGateway, tunnel(proxytest.AlicePassword+"_session-abcd5678").Status)
}

// A session with a bind time holds its exit that long, and then lets go.
func TestBindTimeHoldsAFailingExit(t *testing.T) {
	bad := proxytest.NewPuppet(t, proxytest.HangUp)
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.Loopback, "fallback round_robin", "credentials soax {\naccount_prefix \"\"\n}",
		"exit http://"+bad.Address, "exit direct://127.0.0.12")
	begin := time.Now()
	user := "alice-sessionid-x-bindttl-2"
	res := w.Connect(user, w.Origin)
	if res.Status == http.StatusOK { // it began at the other one
		user = "alice-sessionid-y-bindttl-2"
		begin = time.Now()
		res = w.Connect(user, w.Origin)
	}
	require.Equal(t, http.StatusBadGateway, res.Status)
	proxytest.Eventually(t, "another exit", func() bool {
		if w.Connect(user, w.Origin).Status != http.StatusOK {
			return false
		}
		require.GreaterOrEqual(t, time.Since(begin), 2*time.Second)
		return true
	})
}

func TestIdleSessionEnds(t *testing.T) {
	w := proxytest.NewWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback, "max_idle 5ms")
	first := w.Exit("alice-session-abc")
	proxytest.Eventually(t, "another exit", func() bool {
		return w.Exit("alice-session-abc") != first
	})
}
