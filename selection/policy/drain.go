// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// draining reports whether an upstream drains, by configuration or an
// operator's wish.
func (p *Policy) draining(identity string) bool {
	return slices.Contains(p.Drain, identity) || p.scope.Drains.Has(identity)
}

// checkDrain refuses to drain what is not there.
func (p *Policy) checkDrain(pool reverseproxy.UpstreamPool) error {
	if !p.static {
		return nil
	}
	have := make([]string, 0, len(pool))
	for _, upstream := range pool {
		have = append(have, upstream.Dial)
	}
	for _, dial := range p.Drain {
		if !slices.Contains(have, dial) {
			return fmt.Errorf("policy %q: drain: %s is not among the upstreams (have %s)", p.Name, dial, strings.Join(have, ", "))
		}
	}
	return nil
}

// readDrain reads upstreams as the reverse proxy reads them: with or without a
// scheme, a port, a range of ports.
func (p *Policy) readDrain(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	for _, arg := range args {
		var reader reverseproxy.Handler
		tokens := []caddyfile.Token{{Text: "reverse_proxy"}, {Text: arg}}
		if err := reader.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			return d.Errf("drain: %v", err)
		}
		for _, upstream := range reader.Upstreams {
			if !slices.Contains(p.Drain, upstream.Dial) {
				p.Drain = append(p.Drain, upstream.Dial)
			}
		}
	}
	return nil
}
