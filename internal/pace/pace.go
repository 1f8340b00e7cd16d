// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package pace limits what clients may do in a time: how often, by where they
// come from. It bounds the memory that is known of them.
package pace

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Rate is so many of something in a time.
type Rate struct {
	N   int
	Per time.Duration
}

// ParseRate reads a rate such as 10/1m.
func ParseRate(text string) (Rate, error) {
	count, per, ok := strings.Cut(text, "/")
	n, errCount := strconv.Atoi(count)
	d, errPer := caddy.ParseDuration(per)
	if !ok || errCount != nil || errPer != nil || n <= 0 || d <= 0 || d/time.Duration(n) <= 0 {
		return Rate{}, fmt.Errorf("%q is not a rate: write a number and a time, such as 10/1m", text)
	}
	return Rate{n, d}, nil
}

// Pace is when an address may begin its next sessions: the theoretical arrival
// time of the generic cell rate algorithm, which is a bucket of n tokens that
// fills evenly.
type Pace struct{ next time.Time }

// Over reports whether the address may begin as many as anybody.
func (p *Pace) Over(now time.Time) bool { return !now.Before(p.next) }

// Allow takes one of r's N, or says how long it takes until there is one.
func (p *Pace) Allow(r Rate, now time.Time) (wait time.Duration) {
	each := r.Per / time.Duration(r.N)
	next := p.next
	if next.Before(now) {
		next = now
	}
	if wait = next.Add(each).Sub(now) - r.Per; wait > 0 {
		return wait
	}
	p.next = next.Add(each)
	return 0
}
