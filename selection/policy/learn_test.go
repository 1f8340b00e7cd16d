// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// container lets applications keep sessions of their own, as an application
// server does: a client without one that this server knows gets a new one.
func container(apps []*app, attributes string) {
	for _, a := range apps {
		known, n := make(map[string]bool), 0
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			a.mu.Lock()
			defer a.mu.Unlock()
			cookie, err := r.Cookie("JSESSIONID")
			switch {
			case r.URL.Path == "/logout":
				http.SetCookie(w, &http.Cookie{Name: "JSESSIONID", MaxAge: -1})
				if err == nil {
					delete(known, cookie.Value)
				}
			case err != nil || !known[cookie.Value] || r.URL.Path == "/login":
				n++
				id := fmt.Sprintf("%s-%d", a.name, n)
				known[id] = true
				w.Header().Add("Set-Cookie", "JSESSIONID="+id+"; Path=/; HttpOnly"+attributes)
			}
			_, _ = io.WriteString(w, a.name)
		})
	}
}

func TestApplicationsCookieBindsItsClient(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	container(apps, "")
	s := balance(t, apps, "lb_policy sticky java {\napp_cookie JSESSIONID\n}")
	seen := make(map[string]bool)
	for range 30 {
		v := s.visitor()
		first := v.get()
		require.Len(t, first.cookies(), 1, "the application's, and none of ours")
		require.Equal(t, "none ", first.outcome())
		require.True(t, strings.HasPrefix(v.cookie("JSESSIONID"), first.body+"-"))
		seen[first.body] = true
		v.stays(first.body)
		require.Contains(t, s.apps[first.body].last().Get("Cookie"), "JSESSIONID=", "the application sees its cookie")

		got, err := v.send(http.MethodGet, "/login", nil) // a new id, of the same server
		require.NoError(t, err)
		require.Equal(t, first.body, got.body)
		v.stays(first.body)
	}
	require.Len(t, seen, 3)
}

func TestApplicationsSessionMovesWithItsNewID(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	container(apps, "")
	s := balance(t, apps, "lb_policy sticky java {\napp_cookie JSESSIONID\n}\nlb_retries 2")
	v := s.visitor()
	first := v.reach()
	v.stays(first)
	s.apps[first].stop()
	moved := v.get()
	require.Equal(t, "moved errors", moved.outcome())
	require.NotEqual(t, first, moved.body)
	require.True(t, strings.HasPrefix(v.cookie("JSESSIONID"), moved.body+"-"))
	s.apps[first].start()
	v.stays(moved.body)
}

func TestApplicationsSessionEndsWhenTheApplicationSaysSo(t *testing.T) {
	apps := newApps(t, "a", "b")
	container(apps, "")
	s := balance(t, apps, "lb_policy sticky java {\napp_cookie JSESSIONID\n}")
	v := s.visitor()
	first := v.reach()
	v.stays(first)
	cookie := "Cookie: JSESSIONID=" + v.cookie("JSESSIONID")
	before := stored(t)
	_, err := v.send(http.MethodGet, "/logout", nil)
	require.NoError(t, err)
	require.Empty(t, v.cookie("JSESSIONID"))
	until(t, func() bool { return stored(t) == before-1 })
	got := s.visitor().get(cookie)
	require.Equal(t, "new", got.header.Get("X-Outcome"))
}

func TestApplicationsSessionLivesAsLongAsItSays(t *testing.T) {
	for name, attributes := range map[string]func() string{
		"max_age": func() string { return "; Max-Age=1" },
		"expires": func() string { return "; Expires=" + time.Now().Add(3*time.Second).UTC().Format(http.TimeFormat) },
		"both":    func() string { return "; Max-Age=1; Expires=Thu, 01 Jan 2037 00:00:00 GMT" },
	} {
		t.Run(name, func(t *testing.T) {
			apps := newApps(t, "a", "b")
			container(apps, attributes())
			s := balance(t, apps, "lb_policy sticky java {\napp_cookie JSESSIONID\nttl 1h\n}")
			got := s.visitor().get()
			id, _, _ := strings.Cut(got.cookies()[0], ";")
			line := "Cookie: " + id
			require.Equal(t, "kept ", s.visitor().get(line).outcome())
			until(t, func() bool { return s.visitor().get(line).outcome() == "new expired" })
		})
	}
}

func TestBothKindsOfStickinessInOnePolicy(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	container(apps, "")
	s := balance(t, apps, "lb_policy sticky both {\napp_cookie JSESSIONID\ncookie\n}")
	v := s.visitor()
	first := v.get()
	require.Len(t, first.cookies(), 2)
	v.stays(first.body)
	got, err := v.send(http.MethodGet, "/logout", nil)
	require.NoError(t, err)
	require.Equal(t, first.body, got.body)
	again := v.get()
	require.Equal(t, first.body, again.body, "our cookie keeps the client where it was")
	require.Len(t, again.cookies(), 1)
}

func TestFailedAttemptTeachesNothing(t *testing.T) {
	apps := newApps(t, "a", "b")
	container(apps[1:], "")
	apps[0].answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Set-Cookie", "JSESSIONID=b-1; Path=/") // which b will give out
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	s := balance(t, apps, "lb_policy sticky java {\napp_cookie JSESSIONID\nfallback first\n}\n"+retry503)
	v := s.visitor()
	require.Equal(t, "b", v.reach())
	require.Equal(t, "b-1", v.cookie("JSESSIONID"))
	v.stays("b")
}

func TestStreamIsBoundByItsHead(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	release := make(chan struct{})
	for _, a := range apps {
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/stream" {
				w.Header().Set("Set-Cookie", "JSESSIONID="+a.name)
				w.Header().Set("Content-Type", "text/event-stream")
				w.(http.Flusher).Flush()
				<-release
			}
			_, _ = io.WriteString(w, a.name)
		})
	}
	s := balance(t, apps, "lb_policy sticky java {\napp_cookie JSESSIONID\n}")
	res, err := http.Get(s.url + "/stream") //nolint:noctx // released below
	require.NoError(t, err)
	defer res.Body.Close()
	defer close(release)
	id, _, _ := strings.Cut(res.Header.Get("Set-Cookie"), ";")
	got := s.visitor().get("Cookie: " + id)
	require.Equal(t, "JSESSIONID="+got.body, id)
	require.Equal(t, "kept ", got.outcome())
}

// A container puts its applications' sessions below their paths, quotes ids, and
// sets other cookies beside them; a browser brings the most specific one first
// (RFC 6265 §5.4).
func TestContainerWithSeveralApplications(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	for _, a := range apps {
		n := 0
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			a.mu.Lock()
			defer a.mu.Unlock()
			application := strings.SplitN(r.URL.Path, "/", 3)[1]
			id := ""
			for _, cookie := range r.CookiesNamed("JSESSIONID") {
				if owner, _, _ := strings.Cut(cookie.Value, ":"); owner == application && id == "" {
					id = cookie.Value
				}
			}
			if id == "" || strings.HasSuffix(r.URL.Path, "/login") {
				n++
				w.Header().Add("Set-Cookie", "theme=dark; Path=/")
				w.Header().Add("Set-Cookie", fmt.Sprintf("JSESSIONID=\"%s:%s.%d\"; Path=/%s; HttpOnly; SameSite=Lax", application, a.name, n, application))
				w.Header().Add("Set-Cookie", "JSESSIONIDSSO=other; Path=/")
			}
			_, _ = io.WriteString(w, a.name)
		})
	}
	s := balance(t, apps, "lb_policy sticky java {\napp_cookie JSESSIONID\nfallback round_robin\n}")
	v := s.visitor()
	server := make(map[string]string)
	for _, path := range []string{"/shop/", "/news/", "/mail/"} {
		server[path] = v.at(path).body
	}
	require.NotEqual(t, server["/shop/"], server["/news/"], "each application has a session of its own")
	for round := range 3 {
		for path, name := range server {
			got := v.at(path)
			require.Equal(t, "kept ", got.outcome())
			require.Equal(t, name, got.body)
			require.Empty(t, got.cookies())
			if round == 1 {
				got = v.at(path + "login")
				require.Equal(t, name, got.body)
				require.Len(t, got.cookies(), 3, "the id changes")
			}
		}
	}
}
