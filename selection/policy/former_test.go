// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// migrated is the load balancer of the second step of a migration.
const migrated = "lb_policy sticky shop {\ncookie {\nfrom_cookie_policy lb secret\n}\n}\nlb_retries 2"

// oldClients are clients of Caddy's own policy, with the name of the upstream
// where each of them is. Their cookies are in their jars.
func oldClients(t *testing.T, apps []*app, n int) (clients []*visitor, at []string) {
	t.Helper()
	s := balance(t, apps, "lb_policy cookie lb secret")
	for range n {
		v := s.visitor()
		at = append(at, v.reach())
		require.NotEmpty(t, v.cookie("lb"))
		v.stays(at[len(at)-1])
		clients = append(clients, v)
	}
	return clients, at
}

func TestClientsOfCaddysCookiePolicyStayWhereTheyWere(t *testing.T) {
	apps := newApps(t, "a", "b", "c", "d", "e")
	clients, at := oldClients(t, apps, 30)
	s := balance(t, apps, migrated)
	for i, v := range clients {
		v.url = s.url
		got := v.get()
		require.Equal(t, at[i], got.body)
		require.Equal(t, "new ", got.outcome())
		require.Len(t, got.cookies(), 1, "it gets our cookie")
		require.Contains(t, got.cookies()[0], "sticky_shop=s1.")
		require.Equal(t, []string{"lb=" + v.cookie("lb")}, s.apps[at[i]].last()["Cookie"], "the old one passes as it did")
		v.stays(at[i])
		require.NotContains(t, s.apps[at[i]].last().Get("Cookie"), "sticky_shop")
	}
	seen := make(map[string]bool)
	for range 60 {
		seen[s.visitor().reach()] = true
	}
	require.Len(t, seen, len(apps), "newcomers go anywhere")
}

func TestClientOfCaddysCookiePolicyMayKeepItsCookiesName(t *testing.T) {
	apps := newApps(t, "a", "b", "c", "d", "e")
	clients, at := oldClients(t, apps, 10)
	s := balance(t, apps, "lb_policy sticky shop {\ncookie lb {\nfrom_cookie_policy lb secret\n}\n}")
	for i, v := range clients {
		v.url = s.url
		require.Equal(t, at[i], v.reach())
		require.Regexp(t, `^s1\.`, v.cookie("lb"), "the new one takes its place")
		v.stays(at[i])
		require.Empty(t, s.apps[at[i]].last()["Cookie"])
	}
}

func TestClientOfCaddysCookiePolicyGoesElsewhereWhereItMust(t *testing.T) {
	apps := newApps(t, "a", "b")
	clients, at := oldClients(t, apps, 12)
	s := balance(t, apps, migrated)
	for i, v := range clients[:6] {
		v.url = s.url
		s.apps[at[i]].stop()
		got := v.get()
		require.Equal(t, http.StatusOK, got.status)
		require.NotEqual(t, at[i], got.body)
		require.Len(t, got.cookies(), 1)
		s.apps[at[i]].start()
		v.stays(got.body)
	}

	s = balance(t, apps, strings.ReplaceAll(migrated, "lb secret\n}", "lb guess\n}\nfallback first"))
	for _, v := range clients[6:] {
		v.url = s.url
		require.Equal(t, "a", v.reach(), "what another secret has made proposes nothing")
	}
}

func TestFullUpstreamTakesNoClientOfCaddysCookiePolicy(t *testing.T) {
	apps := newApps(t, "a", "b")
	clients, at := oldClients(t, apps, 2)
	s := balance(t, apps, migrated+"\nunhealthy_request_count 1")
	busy, done := make(chan struct{}), make(chan struct{})
	s.apps[at[0]].answers(func(w http.ResponseWriter, _ *http.Request) {
		close(busy)
		<-done
	})
	clients[0].url, clients[1].url = s.url, s.url
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = clients[0].send(http.MethodGet, "/", nil)
	}()
	<-busy
	other := s.visitor()
	got := other.get("Cookie: lb=" + clients[0].cookie("lb"))
	close(done)
	<-ended
	require.Equal(t, http.StatusOK, got.status)
	require.NotEqual(t, at[0], got.body)
}

func TestCookieOfCaddysPolicyRulesNoSessionThatThereIs(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	clients, at := oldClients(t, apps, 1)
	old := "Cookie: lb=" + clients[0].cookie("lb")
	s := balance(t, apps, "lb_policy sticky shop {\nttl 1s\ncookie {\nfrom_cookie_policy lb secret\n}\nfallback round_robin\n}\nlb_retries 2")

	v := s.visitor()
	first := v.reach()
	for at[0] == first {
		v = s.visitor()
		first = v.reach()
	}
	got := v.get(old)
	require.Equal(t, first, got.body)
	require.Equal(t, "kept ", got.outcome())

	// A session that follows one of ours is placed as any other.
	v = s.visitor()
	require.Equal(t, at[0], v.reach(old))
	until(t, func() bool {
		got = v.get(old)
		return got.outcome() == "new expired"
	})
	require.NotEqual(t, at[0], got.body)
}

func TestClientsOfCaddysCookiePolicyStayWithDynamicUpstreams(t *testing.T) {
	needAddresses(t, "127.0.0.2", "127.0.0.3")
	var upstreams []string
	for _, address := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		ln, err := net.Listen("tcp", address+":0")
		require.NoError(t, err)
		server := &http.Server{ReadHeaderTimeout: guard, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprint(w, ln.Addr())
		})}
		go func() { _ = server.Serve(ln) }()
		t.Cleanup(func() { _ = server.Close() })
		host, port, err := net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		upstreams = append(upstreams, "dynamic a "+host+" "+port)
	}
	config := func(policy string) *site {
		return run(t, "", "reverse_proxy {\ndynamic multi {\n"+strings.ReplaceAll(strings.Join(upstreams, "\n"), "dynamic ", "")+"\n}\n"+policy+"\n}")
	}
	s := config("lb_policy cookie lb secret")
	at := make(map[*visitor]string)
	for range 12 {
		v := s.visitor()
		at[v] = v.reach()
	}
	s = config(migrated)
	for v, upstream := range at {
		v.url = s.url
		require.Equal(t, upstream, v.reach())
		v.stays(upstream)
	}
}

// lines are the cookies of an answer, without their values.
func lines(got answer) []string {
	var all []string
	for _, line := range got.cookies() {
		name, rest, _ := strings.Cut(line, "=")
		value, attributes, _ := strings.Cut(rest, "; ")
		if value != "" {
			value = "OURS"
		}
		all = append(all, name+"="+value+"; "+attributes)
	}
	return all
}

func TestExpiredTwinIsDeletedWithTheAttributesItHad(t *testing.T) {
	apps := newApps(t, "a", "b")
	storage := t.TempDir()
	config := func(ttl, attributes string) *site {
		return run(t, "", "reverse_proxy"+upstreams(apps...)+" {\nlb_policy sticky shop {\nttl "+ttl+"\ncookie {\n"+attributes+"\n}\n}\nlb_retries 2\n}", storage)
	}
	s := config("1s", "")
	v := s.visitor()
	v.reach()
	twin := "sticky_shop=" + v.cookie("sticky_shop")
	<-time.After(1100 * time.Millisecond)

	s = config("1h", "path /shop")
	send := func(cookies ...string) answer {
		t.Helper()
		got, err := s.visitor().send(http.MethodGet, "/shop", nil, "Cookie: "+strings.Join(cookies, "; "))
		require.NoError(t, err)
		return got
	}
	const set = "sticky_shop=OURS; Path=/shop; HttpOnly; SameSite=Lax"
	const deletion = "sticky_shop=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
	alone := send(twin)
	require.Equal(t, "new expired", alone.outcome())
	require.Equal(t, []string{set}, lines(alone), "one cookie is no twin")
	current, _, _ := strings.Cut(alone.cookies()[0], ";")
	require.Empty(t, lines(send(current, twin)), "nothing is to be set")

	endAll(t)
	both := send(current, twin)
	require.Equal(t, []string{deletion, set}, lines(both), "the deletion comes first")
	newer, _, _ := strings.Cut(both.cookies()[1], ";")
	require.Empty(t, lines(send(newer)))

	// A cookie of another policy, of the application, or that is valid is no twin.
	endAll(t)
	require.Equal(t, []string{set}, lines(send(newer, twin, "sticky_shop=application")))
	require.Equal(t, []string{set}, lines(send(newer, "sticky_shop=s1.garbage")))
	require.Equal(t, []string{set}, lines(send(newer, current)))
}

func TestTwinIsNotDeletedByAnAttemptThatFails(t *testing.T) {
	apps := newApps(t, "a", "b")
	storage := t.TempDir()
	config := func(ttl, attributes string) *site {
		return run(t, "", "reverse_proxy"+upstreams(apps...)+" {\nlb_policy sticky shop {\nttl "+ttl+"\ncookie {\n"+attributes+"\n}\nfallback first\n}\nlb_retries 2\nlb_retry_match {\nexpression `{rp.status_code} == 500`\n}\n}", storage)
	}
	s := config("1s", "")
	v := s.visitor()
	v.reach()
	twin := "sticky_shop=" + v.cookie("sticky_shop")
	<-time.After(1100 * time.Millisecond)
	s = config("1h", "path /shop")
	first, err := s.visitor().send(http.MethodGet, "/shop", nil)
	require.NoError(t, err)
	current, _, _ := strings.Cut(first.cookies()[0], ";")
	endAll(t)
	apps[0].answers(status(http.StatusInternalServerError))
	got, err := s.visitor().send(http.MethodGet, "/shop", nil, "Cookie: "+current+"; "+twin)
	require.NoError(t, err)
	require.Equal(t, "b", got.body)
	require.Len(t, got.cookies(), 2)
}

func TestProxyTellsWhetherTheCookieIsSecure(t *testing.T) {
	apps := newApps(t, "a")
	s := run(t, "servers {\ntrusted_proxies static 127.0.0.1/32\n}",
		"reverse_proxy"+upstreams(apps...)+" {\nlb_policy sticky shop\nheader_up X-Forwarded-Proto http\n}")
	require.Contains(t, s.visitor().get("X-Forwarded-Proto: https").cookies()[0], "; Secure")
	require.NotContains(t, s.visitor().get("X-Forwarded-Proto: http").cookies()[0], "; Secure")
	require.NotContains(t, s.visitor().get().cookies()[0], "; Secure")
}
