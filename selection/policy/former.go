// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

// former is where a client was before it had a cookie of ours.
type former struct {
	asked    bool
	identity string
}

// wanted returns the identity of the upstream where a client without a cookie of
// ours was; empty if no source knows one.
func (v *visit) wanted() string {
	if !v.provisional() {
		return ""
	}
	if !v.before.asked {
		// Once, because later attempts see headers that the proxy has changed.
		v.before = former{asked: true, identity: v.policy.proposal(v.request, v.known)}
	}
	return v.before.identity
}

// former returns the upstream where a client without a cookie of ours was, if it
// is one of the candidates for its session.
func (v *visit) former(candidates []*reverseproxy.Upstream) (*reverseproxy.Upstream, bool) {
	identity := v.wanted()
	if identity == "" {
		return nil, false
	}
	for _, upstream := range candidates {
		if upstream.String() == identity {
			return upstream, true
		}
	}
	return nil, false
}

// proposal asks the sources where a session is best placed.
func (p *Policy) proposal(r *http.Request, known *upstreams) string {
	for _, src := range p.sources {
		proposer, ok := src.(source.Proposer)
		if !ok {
			continue
		}
		identity := proposer.Proposal(r, func(yield func(string) bool) {
			for _, upstream := range known.list {
				if !yield(upstream.String()) {
					return
				}
			}
		})
		if identity != "" {
			return identity
		}
	}
	return ""
}

// deletions returns what takes worthless cookies from the client that stand
// beside the one that is set.
func (v *visit) deletions() []*http.Cookie {
	sweeper, ok := v.issuer.(source.Sweeper)
	if !ok || !v.twins {
		return nil
	}
	return sweeper.Twins(v.request)
}
