// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"errors"
	"fmt"
	"net"
	"net/url"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
)

// Settings are what exits take from the proxy that they belong to.
type Settings struct {
	Rules    *destination.Rules
	Resolver *net.Resolver // nil: the system's
	Via      string        // the proxy's name in Via headers; empty: it adds none
}

// Settle gives an exit the settings of its proxy.
func Settle(e Exit, s Settings) {
	switch kind := e.(type) {
	case *Direct:
		kind.rules, kind.resolver = s.Rules, s.Resolver
	case interface{ setVia(pseudonym string) }:
		kind.setVia(s.Via)
	}
}

// proxyURL is an Exit that Caddy's transport can use by itself.
type proxyURL interface {
	Exit
	proxyURL(s Session) *url.URL
}

// URLOf returns the URL of an exit that SettleForTransport accepted.
func URLOf(e Exit, s Session) *url.URL { return e.(proxyURL).proxyURL(s) }

// SettleForTransport refuses exits that are more than a URL.
func SettleForTransport(exit Exit) error {
	if _, ok := exit.(proxyURL); !ok {
		return fmt.Errorf("%s cannot be an exit here, where Caddy itself connects to the proxy of a URL: use http, https or socks5", exit.Identity())
	}
	if secure, ok := exit.(*HTTPS); ok && secure.hasTLSOptions() {
		return errors.New("its TLS options have no effect here, where Caddy itself connects: use those of the reverse proxy's transport (tls_trust_pool, tls_insecure_skip_verify)")
	}
	return nil
}
