// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"hash/maphash"
	"net/http"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/internal/pace"
)

const (
	// maxFailures is how many wrong passwords an address may try in
	// failureWindow; the next one is answered with 429 for as long.
	maxFailures   = 10
	failureWindow = time.Minute

	// maxWaiting is how many passwords of one address may wait to be verified:
	// many accounts behind one address begin at once after a start.
	maxWaiting = 32
	// maxWaitingInAll is how many may wait per processor.
	maxWaitingInAll = 64
)

// attempts limits the passwords that are tried, and what trying them costs. A
// hash is made to be slow, so that an address may occupy half of the processors
// with them at most; how many wait is bounded, and who tried too many wrong ones
// is answered without any. The limits are about what is not remembered: a client
// whose password was verified before waits for nobody.
type attempts struct {
	seed       maphash.Seed
	perAddress *pace.Table[attemptsOf, *attemptsOf]
	waiting    atomic.Int64
	slots      chan struct{} // as many at once as there are processors
}

// attemptsOf is what is known of an address.
type attemptsOf struct {
	failures int
	since    time.Time // the first of them
	until    time.Time // blocked
	account  uint64    // a hash of the one that all of them were about; 0 if there are several

	waiting int           // and being verified
	places  chan struct{} // for those that are
}

// Over reports whether nothing needs to be known of the address.
func (a *attemptsOf) Over(now time.Time) bool {
	return a.waiting == 0 && !now.Before(a.until) && now.Sub(a.since) >= failureWindow
}

func newAttempts() *attempts {
	return &attempts{
		seed:       maphash.MakeSeed(),
		perAddress: pace.New[attemptsOf](),
		slots:      make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
}

// blocked refuses an address that tried too many wrong passwords. Its right ones
// are refused as well, remembered or not: else it could go on guessing.
func (a *attempts) blocked(addr netip.Addr, now time.Time) error {
	var wait time.Duration
	a.perAddress.See(addr, now, func(of *attemptsOf) { wait = of.until.Sub(now) })
	if wait <= 0 {
		return nil
	}
	return tooManyAttempts("too many wrong passwords came from this address", wait)
}

func tooManyAttempts(reason string, wait time.Duration) error {
	return &proxystatus.Refusal{
		Kind: "http_request_denied", Status: http.StatusTooManyRequests,
		Reason: reason + ": try again later", RetryAfter: max(wait, time.Second),
	}
}

// enter waits for a processor to verify a password on. The caller ends with
// leave, unless there is an error.
func (a *attempts) enter(addr netip.Addr) (leave func(), err error) {
	if a.waiting.Add(1) > int64(maxWaitingInAll*cap(a.slots)) {
		a.waiting.Add(-1)
		return nil, tooManyAttempts("too many passwords are being verified", time.Second)
	}
	letGo, ok := a.enterAddress(addr)
	if !ok {
		a.waiting.Add(-1)
		return nil, tooManyAttempts("too many passwords of this address are being verified", time.Second)
	}
	a.slots <- struct{}{}
	leave = func() {
		<-a.slots
		letGo()
		a.waiting.Add(-1)
	}
	// Those that were before it may have been wrong.
	if err := a.blocked(addr, time.Now()); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// enterAddress waits for a place among those of one address, unless too many
// wait already. What has no address is not held back: it would be everybody.
func (a *attempts) enterAddress(addr netip.Addr) (leave func(), ok bool) {
	if !addr.IsValid() {
		return func() {}, true
	}
	var places chan struct{}
	a.perAddress.At(addr, time.Now(), func(of *attemptsOf) {
		if of.waiting >= maxWaiting {
			return
		}
		of.waiting++
		if of.places == nil {
			of.places = make(chan struct{}, max(cap(a.slots)/2, 1))
		}
		places = of.places
	})
	if places == nil {
		return nil, false
	}
	places <- struct{}{}
	return func() {
		<-places
		a.perAddress.See(addr, time.Now(), func(of *attemptsOf) { of.waiting = max(of.waiting-1, 0) })
	}, true
}

// failed notes a wrong password. An address that is not known is not blocked:
// it would be everybody's.
func (a *attempts) failed(addr netip.Addr, account string, now time.Time) {
	if !addr.IsValid() {
		return
	}
	about := a.hash(account)
	a.perAddress.At(addr, now, func(of *attemptsOf) {
		if now.Sub(of.since) >= failureWindow {
			of.failures, of.since, of.account = 0, now, about
		}
		of.failures++
		if of.account != about {
			of.account = 0
		}
		if of.failures >= maxFailures {
			of.until = now.Add(failureWindow)
			of.failures = 0
		}
	})
}

// succeeded forgives an address that mistyped the password that is now right.
// Other accounts' passwords it may not guess all the same: who has one account
// could forgive itself.
func (a *attempts) succeeded(addr netip.Addr, account string) {
	about := a.hash(account)
	a.perAddress.See(addr, time.Now(), func(of *attemptsOf) {
		if of.account == about {
			of.failures, of.since = 0, time.Time{}
		}
	})
}

func (a *attempts) hash(account string) uint64 { return maphash.String(a.seed, account) | 1 }

// quiet reports whether nothing is known of any address.
func (a *attempts) quiet() bool { return a.perAddress.Len() == 0 }
