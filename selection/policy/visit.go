// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/source"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// visit is one request's way through one policy: it lives through all of the
// request's attempts. Attempts of a request follow one another, so it needs no
// lock.
type visit struct {
	policy   *Policy
	request  *http.Request // the proxy's clone, the same in all attempts
	key      sessionstore.Key
	rejected selection.Reason // why what the client brought does not name its session
	tried    []selection.Attempt[*reverseproxy.Upstream]
	known    *upstreams // of the attempt that is decided
	decision selection.Decision[*reverseproxy.Upstream]

	// While an attempt is under way or was the last one to succeed.
	attempted bool
	writer    http.ResponseWriter // what this attempt's Select got, may be nil
	set       []string            // cookies that were put into the writer's header

	carry
	refused   error // why it may begin no session; nil: it may
	early     bool  // the request was sent in early data
	addressed bool  // the key is made of the client's address
}

// visits is what a request remembers, in its replacer: one replacer serves
// all policies that a request meets (forward_auth, then a proxy, then an error
// route's proxy), so there is a visit for each.
type visits struct {
	latest *visit
	all    []*visit
}

// visitsKey is a placeholder that only this package asks for.
const visitsKey = "http.sticky.visits"

// String keeps a request's state out of what a configuration can print.
func (*visits) String() string { return "" }

// visit returns the state of a request in this policy, nil where there is no
// place to keep it.
func (p *Policy) visit(r *http.Request) *visit {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return nil
	}
	all := visitsOf(repl)
	if all == nil {
		first := &firstVisit{visit: visit{policy: p, request: r}}
		first.all = first.room[:0]
		repl.Map(first.placeholder)
		return first.enter(&first.visit, r)
	}
	for _, v := range all.all {
		// A named route may lead a request through the same proxy twice.
		if v.policy == p && v.request == r {
			all.latest = v
			return v
		}
	}
	return all.enter(&visit{policy: p, request: r}, r)
}

// firstVisit is what nearly all requests need, in one piece of memory.
type firstVisit struct {
	visits
	visit visit
	room  [1]*visit
}

// enter begins a visit.
func (vs *visits) enter(v *visit, r *http.Request) *visit {
	v.early = source.InEarlyData(r)
	v.identify(r)
	vs.all = append(vs.all, v)
	vs.latest = v
	return v
}

func visitsOf(repl *caddy.Replacer) *visits {
	value, _ := repl.Get(visitsKey)
	all, _ := value.(*visits)
	return all
}

// identify settles which session the request names. It happens once, because
// later attempts see headers that the proxy has changed.
func (v *visit) identify(r *http.Request) {
	p := v.policy
	for _, src := range p.sources {
		if issuer, ok := src.(source.Issuer); ok {
			if v.open(r, issuer) {
				return
			}
			continue
		}
		id := src.SessionID(r)
		if id == "" || len(id) > source.MaxID {
			continue
		}
		v.key = p.keyOf(src, id)
		v.addressed = source.FromAddress(src)
		return
	}
	if p.issuer == nil {
		return
	}
	if v.refused = v.admits(); v.refused != nil {
		v.turnAway()
		return
	}
	v.issue(p.issuer)
}

// retry begins an attempt. That there is another one says that the one before
// was not good, even where the observer saw an answer (lb_retry_match).
func (v *visit) retry(w http.ResponseWriter) {
	if v.attempted {
		v.withdraw()
		v.failed(v.decision.Target)
	}
	v.writer = w
}

func (v *visit) decided(d selection.Decision[*reverseproxy.Upstream]) {
	if d.Outcome == selection.New && d.Reason == "" {
		d.Reason = v.rejected
	}
	v.policy.scope.Tally.Decided(d.Outcome, d.Reason)
	v.decision = d
	v.attempted = d.Outcome != selection.Refused
	if c := v.policy.logger.Check(zap.DebugLevel, "decided"); c != nil {
		c.Write(v.report().Fields()...)
	}
}

// placer returns the placement of a session that begins. If nothing is preferred to
// the default placement, it returns that one itself, which needs no list of all
// upstreams.
func (v *visit) placer() selection.Placer[*reverseproxy.Upstream] {
	if v.policy.fallback == nil && v.wanted() == "" {
		return v.policy.choices
	}
	return v
}

// Place implements selection.Placer.
func (v *visit) Place(ctx context.Context, candidates []*reverseproxy.Upstream) (*reverseproxy.Upstream, bool) {
	if former, ok := v.former(candidates); ok {
		return former, true
	}
	return v.policy.assign(ctx, candidates, v.request, v.writer)
}

// failed notes that an upstream failed in this request.
func (v *visit) failed(upstream *reverseproxy.Upstream) {
	v.attempted = false
	v.try(upstream)
	v.touch(upstream.String(), sessionstore.Failed)
}

func (v *visit) try(upstream *reverseproxy.Upstream) {
	if !selection.Tried(v.tried, upstream) {
		v.tried = append(v.tried, selection.Attempt[*reverseproxy.Upstream]{Target: upstream})
	}
}

// touch notes how a use of the session's upstream ended. An upstream that only
// stood in for it says nothing about it.
func (v *visit) touch(target string, use sessionstore.Use) {
	session := v.decision.Session
	if session.Target != target || v.provisional() || v.unproven() {
		return
	}
	if v.store.Unstored {
		v.policy.scope.Unstored.Note(session, use)
		return
	}
	if _, err := v.policy.store.Touch(v.context(), session, time.Now(), use); err != nil {
		v.policy.storeFailed("session's use not noted", err)
	}
}

// succeeded notes that an upstream answered. It returns the cookie to set.
func (v *visit) succeeded(target string) *http.Cookie {
	if v.decision.Session.Errors > 0 {
		v.touch(target, sessionstore.Succeeded)
	}
	return v.cookie(target)
}

// context outlives the client: what an upstream did is true even if nobody is
// there any more to hear it.
func (v *visit) context() context.Context { return context.WithoutCancel(v.request.Context()) }

// withdraw takes back the cookie of an attempt that was not the last one.
func (v *visit) withdraw() {
	if len(v.set) == 0 || v.writer == nil {
		return
	}
	header := v.writer.Header()
	header["Set-Cookie"] = slices.DeleteFunc(header["Set-Cookie"], func(line string) bool { return slices.Contains(v.set, line) })
	if len(header["Set-Cookie"]) == 0 {
		delete(header, "Set-Cookie")
	}
}

// placeholder provides {http.sticky.*}, of the policy that decided last.
func (vs *visits) placeholder(name string) (any, bool) {
	if name == visitsKey {
		return vs, true
	}
	if !strings.HasPrefix(name, selection.PlaceholderPrefix) {
		return nil, false
	}
	return vs.latest.report().Placeholder(name)
}

func (v *visit) report() selection.Report { return selection.ReportOf(v.key, v.decision) }
