// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package source finds out which session a request belongs to.
//
// A source reads one place of a request: a cookie, a header, the client's
// address, any placeholder. A selection policy asks its sources in order, and
// the first that names a session wins. Each source is a Caddy module of its own
// in the namespace sticky.sources, so that others can be added.
//
// What a source returns routes requests; it authenticates nobody.
package source

import (
	"iter"
	"net/http"
	"time"
)

// Namespace is where sources are registered as Caddy modules.
const Namespace = "sticky.sources"

// MaxID is the longest id that is taken, in bytes. A request with a longer one
// counts as one without.
const MaxID = 4096

// Source names the session of a request.
type Source interface {
	// SessionID returns the id of the session that the request names, or the
	// empty string if it names none. Ids of different sources are never the
	// same session. The request must not be changed.
	SessionID(r *http.Request) string

	// Label tells this source from others of its kind in one policy, like
	// "header X-Session".
	Label() string
}

// Issuer is a Source whose values the load balancer makes itself, and sets as
// cookies: sealed sessions (token.Token). It finds and carries them, and
// does not read them; its SessionID is always empty.
type Issuer interface {
	Source

	// Values yields all values of the request that look like ours, in the order
	// in which they stand.
	Values(r *http.Request) iter.Seq[string]

	// Cookie returns the cookie that carries a value, in answer to r.
	Cookie(r *http.Request, value string) *http.Cookie

	// Strip returns the header lines of a request to be sent without what looks
	// like ours. It returns h itself if there is nothing of it; h must not be
	// changed.
	Strip(h http.Header) http.Header
}

// Learner is a Source whose ids the application gives out, in its responses.
type Learner interface {
	Source

	// Learn returns what a response says of the session, and whether it says
	// anything.
	Learn(res *http.Response, now time.Time) (Lesson, bool)
}

// Lesson is what a response says of a session.
type Lesson struct {
	// ID is the id that the client has from now on. Empty: its session is over.
	ID string

	// Lifetime is how long the application remembers the session; zero where it
	// does not say.
	Lifetime time.Duration
}

// Sweeper is an Issuer whose cookies may have been set with other attributes
// before the configuration was changed: browsers keep such a twin beside the
// cookie as it is now, and send both.
type Sweeper interface {
	Issuer

	// Twins returns cookies that delete the twins that r may have brought, and
	// nothing else. They are to be set before the one of Cookie.
	Twins(r *http.Request) []*http.Cookie
}

// Proposer is an Issuer that may know where a client was before it had a cookie
// of ours.
type Proposer interface {
	Issuer

	// Proposal returns the identity of the target where a session that begins is
	// best placed, one of those given; empty if r does not tell.
	Proposal(r *http.Request, identities iter.Seq[string]) string
}
