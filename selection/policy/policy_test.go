// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

func TestFirstAnswerSetsOneCookieAndTheNextOnesNone(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop")
	v := s.visitor()
	first := v.get()
	require.Equal(t, http.StatusOK, first.status)
	require.Len(t, first.cookies(), 1)
	require.Regexp(t, `^sticky_shop=s1\.[A-Za-z0-9_-]{91}; Path=/; HttpOnly; SameSite=Lax$`, first.cookies()[0])
	v.stays(first.body)

	apps := make(map[string]bool)
	for range 30 {
		newcomer := s.visitor()
		got := newcomer.get()
		require.Len(t, got.cookies(), 1)
		require.NotEqual(t, v.cookie("sticky_shop"), newcomer.cookie("sticky_shop"))
		apps[got.body] = true
	}
	require.Len(t, apps, 3)
	v.stays(first.body)
}

func TestUnnamedPolicyIsNamedDefault(t *testing.T) {
	v := balance(t, newApps(t, "a", "b"), "lb_policy sticky").visitor()
	name := v.reach()
	require.NotEmpty(t, v.cookie("sticky_default"))
	v.stays(name)
}

func TestCookieOfTheApplicationStaysBesideOurs(t *testing.T) {
	apps := newApps(t, "a", "b")
	for _, a := range apps {
		a.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Add("Set-Cookie", "sticky_shop=app; Path=/app")
			w.Header().Add("Set-Cookie", "theme=dark")
		})
	}
	v := balance(t, apps, "lb_policy sticky shop").visitor()
	got := v.get().cookies()
	require.Len(t, got, 3)
	require.Contains(t, got, "sticky_shop=app; Path=/app")
	require.Contains(t, got, "theme=dark")
	require.Equal(t, []string{"sticky_shop=app; Path=/app", "theme=dark"}, v.get().cookies())
}

func TestApplicationNeverSeesOurCookie(t *testing.T) {
	const foreign = `sticky_shop=app; theme="dark"; sticky_shop=x1.other; other=s1.AAAAAAAAAAAAAAAAAAAAAA`
	for _, test := range []struct {
		name       string
		sent, want []string // OURS stands for our value
	}{
		{"ours alone", []string{"OURS"}, nil},
		{"ours first", []string{"OURS; a=1; b=2"}, []string{"a=1; b=2"}},
		{"ours last", []string{"a=1; b=2; OURS"}, []string{"a=1; b=2"}},
		{"ours twice", []string{"OURS; a=1; OURS"}, []string{"a=1"}},
		{"ours between the application's of the same name", []string{"sticky_shop=app; OURS; sticky_shop=s1.damaged"}, []string{"sticky_shop=app"}},
		{"ours beside foreign ones", []string{"OURS; " + foreign}, []string{foreign}},
	} {
		t.Run(test.name, func(t *testing.T) {
			apps := newApps(t, "a", "b", "c")
			s := balance(t, apps, "lb_policy sticky shop")
			v := s.visitor()
			name := v.reach()
			ours := "sticky_shop=" + v.cookie("sticky_shop")
			plain := s.visitor()
			var lines []string
			for _, line := range test.sent {
				lines = append(lines, "Cookie: "+strings.ReplaceAll(line, "OURS", ours))
			}
			for range 4 {
				require.Equal(t, name, plain.reach(lines...))
				require.Equal(t, test.want, s.apps[name].last()["Cookie"])
				plain.client.Jar = nil
			}
		})
	}
}

func TestForeignCookieReachesTheApplicationByteForByte(t *testing.T) {
	s := balance(t, newApps(t, "a", "b"), "lb_policy sticky shop")
	for _, line := range []string{
		`sticky_shop=app`,
		`a=1;sticky_shop=app;;  b="x y" ;c`,
		`sticky_shop=x1.other; sticky_shop="s1.AAAAAAAAAAAAAAAAAAAAAA"`,
		`STICKY_SHOP=s1.AAAAAAAAAAAAAAAAAAAAAA; xsticky_shop=s1.AAAAAAAAAAAAAAAAAAAAAA`,
	} {
		v := s.visitor()
		got := v.get("Cookie: " + line)
		require.Len(t, got.cookies(), 1, "it names no session of ours")
		require.Equal(t, []string{line}, s.apps[got.body].last()["Cookie"])
	}
}

func TestHeaderNamesTheSession(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky api {\nheader x-session\n}")
	apps := make(map[string]bool)
	for i := range 30 {
		line := fmt.Sprintf("X-Session: client-%d", i)
		first := s.visitor().get(line)
		require.Equal(t, http.StatusOK, first.status)
		require.Empty(t, first.cookies())
		require.Equal(t, "new ", first.outcome())
		s.visitor().stays(first.body, line)
		apps[first.body] = true
	}
	require.Len(t, apps, 3)

	for _, line := range []string{"X-Other: none", "X-Session: ", "X-Session: " + strings.Repeat("x", source.MaxID+1)} {
		got := s.visitor().get(line)
		require.Equal(t, "none ", got.outcome())
		require.Empty(t, got.header.Get("X-Session"))
		require.Empty(t, got.cookies())
	}
	longest := "X-Session: " + strings.Repeat("x", source.MaxID)
	s.visitor().stays(s.visitor().reach(longest), longest)
}

func TestClientAddressNamesTheSession(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky api {\nclient_ip 24\n}")
	needAddresses(t, "127.1.0.1")
	apps := make(map[string]bool)
	for i := range 20 {
		first := s.visitorFrom(fmt.Sprintf("127.1.%d.1", i)).get()
		require.Empty(t, first.cookies())
		require.Equal(t, "new ", first.outcome())
		s.visitorFrom(fmt.Sprintf("127.1.%d.200", i)).stays(first.body)
		apps[first.body] = true
	}
	require.Len(t, apps, 3)
}

func TestTrustedProxyTellsTheClientAddress(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	s := run(t, "servers {\ntrusted_proxies static 127.0.0.1/32\n}",
		"reverse_proxy"+upstreams(apps...)+" {\nlb_policy sticky api {\nclient_ip\n}\n}")
	one, other := "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2"
	first := s.visitor().get(one)
	require.Equal(t, "new ", first.outcome())
	require.Equal(t, "new ", s.visitor().get(other).outcome())
	require.Equal(t, "kept ", s.visitor().get(one).outcome())
	s.visitor().stays(first.body, one)
}

func TestPlaceholderNamesTheSession(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky api {\nkey {query.user}\n}")
	for i := range 20 {
		path := fmt.Sprintf("/?user=%d", i)
		first, err := s.visitor().send(http.MethodGet, path, nil)
		require.NoError(t, err)
		require.Equal(t, "new ", first.outcome())
		require.Empty(t, first.cookies())
		again, err := s.visitor().send(http.MethodGet, path+"&page=2", nil)
		require.NoError(t, err)
		require.Equal(t, "kept ", again.outcome())
		require.Equal(t, first.body, again.body)
		require.Equal(t, first.header.Get("X-Session"), again.header.Get("X-Session"))
	}
	require.Equal(t, "none ", s.visitor().get().outcome())
}

func TestFirstSourceThatNamesASessionWins(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop {\nheader X-Session\ncookie\n}")
	v := s.visitor()
	browser := v.get()
	require.Len(t, browser.cookies(), 1, "no header: the cookie")
	v.stays(browser.body)

	api := v.get("X-Session: " + v.cookie("sticky_shop"))
	require.Equal(t, "new ", api.outcome(), "ids of different sources are different sessions")
	require.NotEqual(t, browser.header.Get("X-Session"), api.header.Get("X-Session"))
	require.Empty(t, api.cookies())
	require.Empty(t, s.apps[api.body].last()["Cookie"], "the cookie stays hidden though the header won")
	v.stays(browser.body)
}

func TestPolicyAsFallbackOfAnotherSetsItsCookieOnce(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	s := balance(t, apps, "lb_policy header X-Shard {\nfallback sticky shop {\nfallback first\n}\n}\nlb_retries 2")
	v := s.visitor()
	first := v.get()
	require.Equal(t, "a", first.body)
	require.Len(t, first.cookies(), 1)
	v.stays("a")
	require.Empty(t, s.apps["a"].last()["Cookie"])

	s.apps["a"].stop()
	moved := v.get()
	require.Equal(t, http.StatusOK, moved.status)
	require.Equal(t, "b", moved.body)
	require.Len(t, moved.cookies(), 1)
	newcomer := s.visitor()
	got := newcomer.get()
	require.Equal(t, "b", got.body)
	require.Len(t, got.cookies(), 1)
	newcomer.stays("b")
}

func TestPolicyAsFallbackOfAnotherStickyOneKeepsBothSessions(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), `lb_policy sticky team {
			header X-Team
			fallback sticky member {
				cookie
				fallback round_robin
			}
		}`)
	v := s.visitor()
	first := v.get("X-Team: red")
	require.Len(t, first.cookies(), 1, "the inner policy gives it a session")
	require.NotEmpty(t, v.cookie("sticky_member"))
	s.visitor().stays(first.body, "X-Team: red")
	for _, team := range []string{"blue", "green", "yellow"} {
		got := v.get("X-Team: " + team)
		require.Equal(t, first.body, got.body, "a new team goes where its first member is")
		require.Empty(t, got.cookies())
		s.visitor().stays(first.body, "X-Team: "+team)
	}
}

func TestFallbackOfCaddyChoosesForNewSessions(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop {\nfallback round_robin\n}")
	apps := make(map[string]int)
	for range 9 {
		v := s.visitor()
		name := v.reach()
		apps[name]++
		v.stays(name)
	}
	require.Equal(t, map[string]int{"a": 3, "b": 3, "c": 3}, apps)
}

func TestForwardAuthHasASessionOfItsOwn(t *testing.T) {
	auth, apps := newApps(t, "auth1", "auth2"), newApps(t, "a", "b", "c")
	s := run(t, "", fmt.Sprintf(`forward_auth %s {
		uri /auth
		lb_policy sticky auth
		copy_headers X-User
	}
	reverse_proxy %s {
		lb_policy sticky shop
	}`, upstreams(auth...), upstreams(apps...)))
	for _, a := range auth {
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Password") != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Header().Set("X-User", a.name)
		})
	}
	for _, a := range apps {
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.Header.Get("X-User")+" "+a.name)
		})
	}

	const password = "X-Password: secret"
	v := s.visitor()
	first := v.get(password)
	require.Equal(t, http.StatusOK, first.status)
	require.Len(t, first.cookies(), 2)
	require.NotEmpty(t, v.cookie("sticky_auth"))
	require.NotEmpty(t, v.cookie("sticky_shop"))
	v.stays(first.body, password)
	for _, a := range auth {
		for _, r := range a.requests() {
			require.NotContains(t, r.Header.Get("Cookie"), "sticky_auth")
		}
	}
	for _, a := range apps {
		for _, r := range a.requests() {
			require.NotContains(t, r.Header.Get("Cookie"), "sticky_shop")
		}
	}

	before := len(apps[0].requests()) + len(apps[1].requests()) + len(apps[2].requests())
	refused := s.visitor().get()
	require.Equal(t, http.StatusUnauthorized, refused.status)
	require.Len(t, refused.cookies(), 1, "only the authenticator has answered")
	require.Contains(t, refused.cookies()[0], "sticky_auth=")
	require.Equal(t, before, len(apps[0].requests())+len(apps[1].requests())+len(apps[2].requests()))
}

func TestPlaceholdersTellWhatWasDecided(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	apps := newApps(t, "a", "b")
	s := run(t, "", fmt.Sprintf(`log {
		output file %s {
			roll_disabled
		}
		format json
	}
	log_append outcome {http.sticky.outcome}
	log_append reason {http.sticky.reason}
	log_append target {http.sticky.target}
	log_append session {http.sticky.session}
	reverse_proxy %s {
		lb_policy sticky shop {
			fallback first
		}
		lb_retries 2
	}`, log, upstreams(apps...)))
	v := s.visitor()
	type entry struct{ Outcome, Reason, Target, Session string }
	var want []entry
	expect := func(outcome, reason string, a *app) string {
		t.Helper()
		got := v.get()
		told := entry{
			got.header.Get("X-Outcome"), got.header.Get("X-Reason"),
			got.header.Get("X-Target"), got.header.Get("X-Session"),
		}
		require.Equal(t, entry{outcome, reason, "unix/" + a.socket, told.Session}, told)
		want = append(want, told)
		return told.Session
	}
	session := expect("new", "", apps[0])
	require.Regexp(t, "^[0-9a-f]{16}$", session)
	_, id, _ := strings.Cut(v.cookie("sticky_shop"), ".")
	digest := sha256.Sum256([]byte(id))
	require.NotContains(t, session, id)
	require.NotEqual(t, hex.EncodeToString(digest[:8]), session)
	require.Equal(t, session, expect("kept", "", apps[0]))
	apps[0].stop()
	require.Equal(t, session, expect("moved", "errors", apps[1]))
	require.Equal(t, session, expect("kept", "", apps[1]))

	require.NoError(t, caddy.Stop()) // writes the log to its end
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	var got []entry
	for line := range strings.Lines(string(text)) {
		var logged entry
		require.NoError(t, json.Unmarshal([]byte(line), &logged))
		got = append(got, logged)
	}
	require.Equal(t, want, got)
}

func TestNextSessionGetsAnotherUpstream(t *testing.T) {
	const ttl = time.Second
	s := balance(t, newApps(t, "a", "b"), "lb_policy sticky shop {\nttl 1s\n}")
	v := s.visitor()
	begin := time.Now()
	first := v.reach()
	cookie := v.cookie("sticky_shop")
	var got answer
	until(t, func() bool {
		got = v.get()
		require.Equal(t, http.StatusOK, got.status)
		return got.body != first
	})
	require.GreaterOrEqual(t, time.Since(begin), ttl)
	require.Equal(t, "new expired", got.outcome())
	require.Len(t, got.cookies(), 1)
	require.NotEqual(t, cookie, v.cookie("sticky_shop"))
	v.stays(got.body)
}

func needAddresses(t *testing.T, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		ln, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Skipf("skipped: needs the loopback address %s", address)
		}
		_ = ln.Close()
	}
}

func TestOuterPolicyHidesTheCookieToo(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy header X-Shard {\nfallback sticky shop\n}")
	v := s.visitor()
	v.reach()
	got := v.get("X-Shard: 1")
	require.Empty(t, s.apps[got.body].last()["Cookie"])
}

func TestInnerStickyPolicyHidesItsCookie(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky team {\nheader X-Team\nfallback sticky member {\ncookie\n}\n}")
	v := s.visitor()
	name := v.reach("X-Team: red")
	v.stays(name, "X-Team: red") // kept by the outer one, the inner one is not asked
	require.Empty(t, s.apps[name].last()["Cookie"])
}
