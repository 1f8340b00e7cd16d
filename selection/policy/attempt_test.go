// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSessionLeavesADeadUpstreamInTheSameRequest(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop\nlb_retries 2")
	v := s.visitor()
	begun := v.get()
	first := begun.body
	s.apps[first].stop()

	moved := v.get()
	require.Equal(t, http.StatusOK, moved.status)
	require.NotEqual(t, first, moved.body)
	require.Len(t, moved.cookies(), 1, "the client carries where it is now")
	require.Equal(t, "moved errors", moved.outcome())
	require.Equal(t, begun.header.Get("X-Session"), moved.header.Get("X-Session"), "the session keeps its id")
	v.stays(moved.body)

	for range 30 {
		newcomer := s.visitor()
		got := newcomer.get()
		require.Equal(t, http.StatusOK, got.status)
		require.NotEqual(t, first, got.body)
		require.Len(t, got.cookies(), 1)
		newcomer.stays(got.body)
	}

	s.apps[first].start()
	v.stays(moved.body)
}

func TestDeadUpstreamsSetNoCookie(t *testing.T) {
	for _, retries := range []string{"", "lb_retries 2", "lb_retries 10"} {
		t.Run(retries, func(t *testing.T) {
			s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop\n"+retries)
			v := s.visitor()
			session := v.get().header.Get("X-Session")
			for _, a := range s.apps {
				a.stop()
			}
			for range 3 {
				for _, client := range []*visitor{v, s.visitor()} {
					got := client.get()
					require.Equal(t, http.StatusBadGateway, got.status)
					require.Empty(t, got.cookies())
				}
			}
			for _, a := range s.apps {
				a.start()
			}
			again := v.get()
			require.Equal(t, session, again.header.Get("X-Session"))
			v.stays(again.body)
		})
	}
}

func TestStrictSessionMovesWithItsNextRequest(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop")
	v := s.visitor()
	first := v.reach()
	s.apps[first].stop()
	failed := v.get()
	require.Equal(t, http.StatusBadGateway, failed.status)
	require.Empty(t, failed.cookies())

	moved := v.get()
	require.Equal(t, http.StatusOK, moved.status)
	require.NotEqual(t, first, moved.body)
	require.Equal(t, "moved errors", moved.outcome())
	v.stays(moved.body)
}

func TestFlexSessionSpillsAndComesBack(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop {\nmode flex\nmax_errors 3\n}\nlb_retries 2")
	v := s.visitor()
	first := v.reach()
	for range 3 { // a success sets the count back
		s.apps[first].stop()
		for range 2 {
			got := v.get()
			require.Equal(t, http.StatusOK, got.status)
			require.NotEqual(t, first, got.body)
			require.Equal(t, "spilled errors", got.outcome())
			require.Empty(t, got.cookies())
		}
		s.apps[first].start()
		v.stays(first)
	}
	s.apps[first].stop()
	v.reach()
	v.reach()
	moved := v.get()
	require.Equal(t, "moved errors", moved.outcome())
	s.apps[first].start()
	v.stays(moved.body)
}

func TestNorotateSessionFailsWithItsUpstream(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop {\nmode norotate\n}\nlb_retries 2")
	v := s.visitor()
	first := v.reach()
	s.apps[first].stop()
	for range 3 {
		got := v.get()
		require.Equal(t, http.StatusBadGateway, got.status)
		require.Empty(t, got.cookies())
	}
	s.apps[first].start()
	v.stays(first)
}

func TestHealthProbesAreLeftAlone(t *testing.T) {
	const cookie = "sticky_shop=s1.AAAAAAAAAAAAAAAAAAAAAA"
	apps := newApps(t, "a", "b", "c")
	s := balance(t, apps, `lb_policy sticky shop
		health_uri /health
		health_interval 20ms
		health_headers {
			Cookie `+cookie+`
		}`)
	v := s.visitor()
	first := v.reach()
	probes := func(a *app) (n int) {
		for _, r := range a.requests() {
			if r.URL.Path == "/health" {
				require.Equal(t, []string{cookie}, r.Header["Cookie"])
				n++
			}
		}
		return n
	}
	// Caddy probes all Unix sockets over one pool of connections, so any of
	// them may take a probe.
	until(t, func() bool { return probes(apps[0])+probes(apps[1])+probes(apps[2]) >= 9 })
	v.stays(first)
}

func TestSessionLeavesAnUpstreamThatIsKnownToBeDown(t *testing.T) {
	for mode, want := range map[string]string{"strict": "moved down", "flex": "moved down", "norotate": ""} {
		t.Run(mode, func(t *testing.T) {
			s := balance(t, newApps(t, "a", "b", "c"), `lb_policy sticky shop {
					mode `+mode+`
				}
				health_uri /health
				health_interval 20ms
				health_headers {
					Connection close
				}`) // see TestHealthProbesAreLeftAlone: each probe asks whom it means
			v := s.visitor()
			first := v.reach()
			s.apps[first].answers(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/health" {
					w.WriteHeader(http.StatusInternalServerError)
					return
				}
				_, _ = io.WriteString(w, first)
			})
			var got answer
			until(t, func() bool {
				got = v.get()
				return got.body != first && (got.status == http.StatusOK) == (want != "")
			})
			if mode == "norotate" {
				require.Equal(t, http.StatusServiceUnavailable, got.status)
				require.Empty(t, got.cookies())
				s.apps[first].answers(nil)
				until(t, func() bool {
					got = v.get()
					return got.status == http.StatusOK
				})
				require.Equal(t, first, got.body)
				return
			}
			require.Equal(t, want, got.outcome())
			require.Len(t, got.cookies(), 1)
			v.stays(got.body)
		})
	}
}

func TestBodyArrivesWhole(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	for _, a := range apps {
		a.answers(func(w http.ResponseWriter, r *http.Request) {
			digest := sha256.New()
			_, err := io.Copy(digest, r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
			}
			_, _ = fmt.Fprintf(w, "%s %x", a.name, digest.Sum(nil))
		})
	}
	s := balance(t, apps, "lb_policy sticky shop\nlb_retries 2")
	v := s.visitor()
	post := func() string {
		t.Helper()
		body := make([]byte, 1<<20)
		_, _ = rand.Read(body)
		got, err := v.send(http.MethodPost, "/", bytes.NewReader(body))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, got.status)
		name, digest, _ := strings.Cut(got.body, " ")
		require.Equal(t, fmt.Sprintf("%x", sha256.Sum256(body)), digest)
		return name
	}
	first := post()
	for range 5 {
		require.Equal(t, first, post())
	}
	s.apps[first].stop()
	second := post()
	require.NotEqual(t, first, second, "nothing was sent yet, so it may go elsewhere")
	require.Equal(t, second, post())
}

// An upstream may close a connection just as a request with a body is sent on
// it. That says nothing about the upstream.
func TestResetOnAReusedConnectionMovesNothing(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop")
	v := s.visitor()
	first := v.reach()
	s.apps[first].answers(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, first)
	})
	v.stays(first) // and leaves an open connection
	got, err := v.send(http.MethodPost, "/", strings.NewReader("order"))
	require.NoError(t, err)
	require.Equal(t, http.StatusBadGateway, got.status)
	v.stays(first)

	// On a connection of its own, which is left by nobody here, it does.
	s.apps[first].answers(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for range 2 {
		got = v.get()
		if got.status == http.StatusOK {
			break
		}
	}
	require.Equal(t, http.StatusOK, got.status)
	require.NotEqual(t, first, got.body)
}

func TestClientThatGoesAwayMovesNothing(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop\nlb_retries 2")
	v := s.visitor()
	first := v.reach()
	arrived := make(chan struct{})
	gone := make(chan struct{})
	s.apps[first].answers(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(gone)
	})
	ended := make(chan struct{})
	impatient := s.visitor()
	impatient.client.Jar = v.client.Jar
	go func() {
		defer close(ended)
		impatient.client.Timeout = 200 * time.Millisecond
		_, _ = impatient.send(http.MethodGet, "/", nil)
	}()
	<-arrived
	<-ended
	<-gone
	s.apps[first].answers(nil)
	v.stays(first)
}

// busy keeps the application at work on one request of the visitor until it is
// released, which waits for the answer.
func (a *app) busy(v *visitor) (release func()) {
	a.t.Helper()
	arrived, leave := make(chan struct{}), make(chan struct{})
	released := sync.OnceFunc(func() { close(leave) })
	a.t.Cleanup(released) // before the application stops, which waits
	a.answers(func(w http.ResponseWriter, _ *http.Request) {
		a.answers(nil)
		close(arrived)
		<-leave
		_, _ = io.WriteString(w, a.name)
	})
	answered := make(chan error, 1)
	go func() {
		_, err := v.send(http.MethodGet, "/", nil)
		answered <- err
	}()
	<-arrived
	return func() {
		a.t.Helper()
		released()
		require.NoError(a.t, <-answered)
	}
}

func TestFullUpstreamSpillsAndTheSessionComesBack(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop\nunhealthy_request_count 1")
	v := s.visitor()
	first := v.reachKept()
	release := s.apps[first].busy(v)
	for range 5 {
		got := v.get()
		require.Equal(t, http.StatusOK, got.status)
		require.NotEqual(t, first, got.body)
		require.Equal(t, "spilled full", got.outcome())
		require.Empty(t, got.cookies())
	}
	release()
	require.Equal(t, first, v.reachKept())
}

// reachKept returns the application of a request that its session kept. The
// proxy counts a request a little longer than its client sees it.
func (v *visitor) reachKept() string {
	v.t.Helper()
	var got answer
	until(v.t, func() bool {
		got = v.get()
		return got.outcome() == "kept "
	})
	return got.body
}

func TestFullUpstreamIsWaitedFor(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), `lb_policy sticky shop {
			on_full wait
		}
		unhealthy_request_count 1
		lb_try_duration 1m
		lb_try_interval 5ms`)
	v := s.visitor()
	first := v.reachKept()
	release := s.apps[first].busy(v)
	waiting := make(chan answer, 1)
	go func() {
		got, err := v.send(http.MethodGet, "/", nil)
		if err != nil {
			got.body = err.Error()
		}
		waiting <- got
	}()
	for range 5 { // others are served meanwhile
		require.NotEqual(t, first, s.visitor().reach())
	}
	release()
	got := <-waiting
	require.Equal(t, first, got.body)
	require.Equal(t, "kept ", got.outcome())
}

func TestFullUpstreamIsLeft(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop {\non_full move\n}\nunhealthy_request_count 1")
	v := s.visitor()
	first := v.reachKept()
	release := s.apps[first].busy(v)
	got := v.get()
	require.NotEqual(t, first, got.body)
	require.Equal(t, "moved full", got.outcome())
	require.Len(t, got.cookies(), 1)
	release()
	v.stays(got.body)
}

const retry503 = "lb_retries 2\nlb_retry_match {\nexpression `{rp.status_code} == 503`\n}"

func TestAnswerThatIsRetriedCountsAsAnError(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop {\nfallback first\n}\n"+retry503)
	v := s.visitor()
	require.Equal(t, "a", v.reach())
	s.apps["a"].answers(status(http.StatusServiceUnavailable))

	newcomer := s.visitor()
	got := newcomer.get()
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "b", got.body)
	require.Len(t, got.cookies(), 1, "one cookie, not one of each attempt")
	newcomer.stays("b")

	got = v.get()
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "b", got.body)
	require.Equal(t, "moved errors", got.outcome())
	require.Len(t, got.cookies(), 1)
	v.stays("b")
	s.apps["a"].answers(nil)
	v.stays("b")
}

func TestRetriedAnswerLeavesOneCookieWhereThePolicyIsAFallback(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy header X-Shard {\nfallback sticky shop {\nfallback first\n}\n}\n"+retry503)
	s.apps["a"].answers(status(http.StatusServiceUnavailable))
	v := s.visitor()
	got := v.get()
	require.Equal(t, "b", got.body)
	require.Len(t, got.cookies(), 1)
	v.stays("b")
}

func TestLastRetriedAnswerSetsNoCookie(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop\n"+retry503)
	for _, a := range s.apps {
		a.answers(status(http.StatusServiceUnavailable))
	}
	got := s.visitor().get()
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.Empty(t, got.cookies())
}

func TestLastRetriedAnswerIsAnError(t *testing.T) {
	s := balance(t, newApps(t, "a", "b", "c"), "lb_policy sticky shop {\nfallback first\n}\nlb_retries 1\nlb_retry_match {\nexpression `{rp.status_code} == 503`\n}")
	v := s.visitor()
	require.Equal(t, "a", v.reach())
	s.apps["a"].answers(status(http.StatusServiceUnavailable))
	s.apps["b"].answers(status(http.StatusServiceUnavailable))
	require.Equal(t, http.StatusServiceUnavailable, v.get().status)
	asked := len(s.apps["b"].requests())
	s.apps["a"].answers(status(http.StatusOK))
	require.Equal(t, "moved errors", v.get().outcome(), "the last answer, of b, was an error as well")
	require.Len(t, s.apps["b"].requests(), asked, "b is not asked again")
}
