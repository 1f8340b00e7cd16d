// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/internal/pace"
)

// slow is a hash that takes a second: the password is right if it is the hash.
type slow struct {
	calls, now, most atomic.Int64
}

func (s *slow) Compare(hash, password []byte) (bool, error) {
	s.calls.Add(1)
	n := s.now.Add(1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	time.Sleep(time.Second)
	s.now.Add(-1)
	return string(hash) == string(password), nil
}

// gate is a proxy's passwords, with accounts a0 to a99 whose passwords are
// their names.
type gate struct {
	t    *testing.T
	hash slow
	all  *roster
	*passwords
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{t: t, passwords: newPasswords(newAttempts())}
	var list []*Entry
	for i := range 100 {
		name := fmt.Sprint("a", i)
		list = append(list, &Entry{Name: name, hash: []byte(name), comparer: &g.hash})
	}
	g.all = newRoster(list)
	return g
}

func (g *gate) try(from, name, password string) (ok bool, err error) {
	r := httptest.NewRequestWithContext(g.t.Context(), http.MethodGet, "http://example.com/", nil)
	r.RemoteAddr = from + ":1234"
	acct, err := g.verify(r, g.all, name, password)
	return acct != nil, err
}

// wrong tries n wrong passwords, all of them answered.
func (g *gate) wrong(n int, from, name string) {
	g.t.Helper()
	for i := range n {
		ok, err := g.try(from, name, fmt.Sprint("wrong", i))
		require.NoError(g.t, err, i)
		require.False(g.t, ok)
	}
}

func (g *gate) expectBlocked(from, name, password string) {
	g.t.Helper()
	calls := g.hash.calls.Load()
	_, err := g.try(from, name, password)
	refused, ok := errors.AsType[*proxystatus.Refusal](err)
	require.True(g.t, ok, "not refused: %v", err)
	require.Equal(g.t, http.StatusTooManyRequests, refused.Status)
	require.Positive(g.t, refused.RetryAfter)
	require.Equal(g.t, calls, g.hash.calls.Load(), "a hash was made for it")
}

func (g *gate) expectOpen(from, name string) {
	g.t.Helper()
	ok, err := g.try(from, name, name)
	require.NoError(g.t, err)
	require.True(g.t, ok)
}

// E6
func TestTenWrongPasswordsBlockAnAddressForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		g.expectOpen("192.0.2.1", "a1")
		g.wrong(10, "192.0.2.1", "a1")
		g.expectBlocked("192.0.2.1", "a1", "wrong")
		g.expectBlocked("192.0.2.1", "a2", "a2")
		g.expectBlocked("192.0.2.1", "a1", "a1") // or it could go on guessing what is remembered
		g.expectOpen("192.0.2.2", "a2")          // others do not mind

		time.Sleep(failureWindow)
		g.expectOpen("192.0.2.1", "a1")
		g.wrong(9, "192.0.2.1", "a1")
	})
}

// E6
func TestWrongPasswordsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		for range 3 {
			g.wrong(9, "192.0.2.1", "a1")
			g.expectOpen("192.0.2.1", "a1") // a success in between forgives
		}
		for range 3 {
			g.wrong(9, "192.0.2.1", "a1")
			time.Sleep(failureWindow)
		}
	})
}

// E6: who has an account does not get to guess the passwords of others.
func TestSuccessDoesNotForgiveGuessingAtOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		g.wrong(9, "192.0.2.1", "a1")
		g.expectOpen("192.0.2.1", "a2")
		g.wrong(1, "192.0.2.1", "a1")
		g.expectBlocked("192.0.2.1", "a1", "a1")

		g.wrong(4, "192.0.2.2", "a1")
		g.wrong(5, "192.0.2.2", "nobody")
		g.expectOpen("192.0.2.2", "a1")
		g.wrong(1, "192.0.2.2", "nobody")
		g.expectBlocked("192.0.2.2", "a1", "a1")
	})
}

// E6: an IPv6 client has all of its /64.
func TestIPv6AddressesCountBySite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		for i := range 10 {
			g.wrong(1, fmt.Sprintf("[2001:db8::%x]", i+1), "a1")
		}
		g.expectBlocked("[2001:db8::ffff]", "a1", "a1")
		g.expectOpen("[2001:db8:0:1::1]", "a1")
	})
}

// E6: one client occupies half of the processors at most, and its queue ends.
func TestOneAddressDoesNotOccupyAllProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		g.attempts.slots = make(chan struct{}, 4)
		var refused, answered atomic.Int64
		for i := range 200 {
			go func() {
				_, err := g.try("192.0.2.1", "a1", fmt.Sprint("wrong", i))
				if err != nil {
					refused.Add(1)
				} else {
					answered.Add(1)
				}
			}()
		}
		synctest.Wait()
		require.Equal(t, int64(2), g.hash.now.Load())
		require.Equal(t, int64(200-maxWaiting), refused.Load(), "answered at once")

		begin := time.Now()
		g.expectOpen("192.0.2.2", "a2")
		require.Equal(t, time.Second, time.Since(begin), "another address waits for nobody")

		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, int64(200), refused.Load()+answered.Load())
		require.LessOrEqual(t, answered.Load(), int64(maxFailures+1), "the rest was refused when they had failed")
		require.Zero(t, g.attempts.waiting.Load())
	})
}

// E6: however many addresses there are, the queue ends.
func TestQueueOfPasswordsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		g.attempts.slots = make(chan struct{}, 1)
		var refused atomic.Int64
		for i := range 100 {
			go func() {
				if _, err := g.try(fmt.Sprint("192.0.2.", i), "a1", fmt.Sprint("wrong", i)); err != nil {
					refused.Add(1)
				}
			}()
		}
		synctest.Wait()
		require.Equal(t, int64(100-maxWaitingInAll), refused.Load())
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Zero(t, g.attempts.waiting.Load())
		g.expectOpen("192.0.2.200", "a1")
	})
}

// E5
func TestPasswordIsVerifiedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				ok, err := g.try("192.0.2.1", "a1", "a1")
				if !ok || err != nil {
					t.Errorf("%v, %v", ok, err)
				}
			})
		}
		wg.Wait()
		g.expectOpen("192.0.2.3", "a1")
		require.Equal(t, int64(1), g.hash.calls.Load())

		// A password is of its account.
		ok, err := g.try("192.0.2.1", "a2", "a1")
		require.NoError(t, err)
		require.False(t, ok)
	})
}

// E4
func TestUnknownAccountCostsAsMuchAsAKnownOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		for _, name := range []string{"a1", "nobody"} {
			begin, calls := time.Now(), g.hash.calls.Load()
			g.wrong(1, "192.0.2.1", name)
			require.Equal(t, time.Second, time.Since(begin), name)
			require.Equal(t, calls+1, g.hash.calls.Load(), name)
		}
		// Whoever finds what a stranger's hash is made of is refused all the same.
		for i := range 9 {
			ok, err := g.try("192.0.2.9", "nobody", fmt.Sprint("a", i))
			require.NoError(t, err)
			require.False(t, ok)
		}
	})
}

// E4: were all strangers of one cost, accounts of other costs would be known by
// the time they take.
func TestStrangersHaveEveryCostThatAccountsHave(t *testing.T) {
	hashes := []string{
		"$2a$04$K3kKau3IwHX47oTO8W6OeelqRLY4teCn.uodCrc9tubUx1xZD2O6O",
		"$2a$10$xjAxB6Y67jcnSvv7mbOsYOb2/5YzUbLfV04moY7NDVmaQ3KcigZ2W",
		"$argon2id$v=19$m=47104,t=1,p=1$P2nzckEdTZ3bxCiBCkRTyA$xQL3Z32eo5jKl7u5tcIsnEKObYiyNZQQf5/4sAau6Pg",
		"$2a$04$jWeqkGxPXUph8a3Y9GJoJezGxclVcM5pYA6zJW5SLdIWUcuZkCbW6",
	}
	var list []*Entry
	for i, hash := range hashes {
		require.NotEmpty(t, hashAlgorithm([]byte(hash)), hash)
		list = append(list, &Entry{Name: fmt.Sprint("a", i), hash: []byte(hash)})
	}
	r := newRoster(list)
	require.Len(t, r.strangers, 3)
	require.Same(t, r.stranger(5), r.stranger(5))
	require.NotSame(t, r.stranger(5), r.stranger(6))
	require.Nil(t, newRoster().stranger(1))
}

func TestPerAddressForgetsWhatIsOverAndStaysBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAttempts()
		for i := range 100_000 {
			addr := pace.ClientAddr(&http.Request{RemoteAddr: fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>16, i&0xffff)})
			a.failed(addr, "a", time.Now())
		}
		require.LessOrEqual(t, a.perAddress.Len(), pace.Limit)
		require.Greater(t, a.perAddress.Len(), pace.Limit*9/10)
		time.Sleep(2 * failureWindow)
		for i := range 2000 {
			a.failed(pace.ClientAddr(&http.Request{RemoteAddr: fmt.Sprintf("192.0.%d.%d:1", i>>8, i&255)}), "a", time.Now())
		}
		require.LessOrEqual(t, a.perAddress.Len(), 2000)
	})
}

func TestClientWithoutAnAddressIsNotBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		g.wrong(20, "@", "a1")
		g.expectOpen("@", "a1")
	})
}
