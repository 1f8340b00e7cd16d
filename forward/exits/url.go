// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
)

// parseURL reads the URL of an exit that is another proxy. Placeholders of
// the process, such as {env.EXIT_PASSWORD}, are replaced after the URL was split,
// so that a password may have any character. No error holds the user information.
func parseURL(raw, scheme string, defaultPort uint16) (*upstreamURL, error) {
	rest, ok := strings.CutPrefix(raw, scheme+"://")
	if !ok {
		return nil, fmt.Errorf("its URL must begin with %s://", scheme)
	}
	u := &upstreamURL{URL: &url.URL{Scheme: scheme}}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		template, err := parseUserTemplate(rest[:at])
		if err != nil {
			return nil, err
		}
		if template.hasSession() {
			u.gateway = template
		} else {
			u.User = template.Of(Session{})
		}
		rest = rest[at+1:]
	}
	hostport, err := expand(strings.TrimSuffix(rest, "/"))
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(hostport, "/?#") {
		return nil, errors.New("its URL has something behind the host")
	}
	if !strings.Contains(hostport[strings.LastIndexByte(hostport, ']')+1:], ":") {
		hostport = fmt.Sprintf("%s:%d", hostport, defaultPort)
	}
	d, err := destination.Parse(hostport)
	if err != nil {
		return nil, fmt.Errorf("its URL has no usable host: %w", err)
	}
	u.Host = d.String()
	return u, nil
}

// expand replaces placeholders of the process. One without a value is an error:
// an exit must not become another one because a variable is not set.
func expand(text string) (string, error) {
	return caddy.NewReplacer().ReplaceOrErr(text, true, true)
}

// upstreamURL is the URL of an exit that is another proxy.
type upstreamURL struct {
	*url.URL              // without user information where there is a gateway
	gateway  *Credentials // nil: all sessions have the URL's user information
}

// userFor is the user information for one connection.
func (u *upstreamURL) userFor(ctx context.Context) *url.Userinfo {
	if u.gateway == nil {
		return u.User
	}
	return u.gateway.Of(SessionOfContext(ctx))
}

// in is the URL for a session.
func (u *upstreamURL) in(s Session) *url.URL {
	if u.gateway == nil {
		return u.URL
	}
	return &url.URL{Scheme: u.Scheme, User: u.gateway.Of(s), Host: u.Host}
}

// identity is the URL without the password.
func (u *upstreamURL) identity() string {
	switch {
	case u.gateway != nil:
		return u.Scheme + "://" + strings.Join(u.gateway.user, "") + "@" + u.Host
	case u.User != nil:
		clean := *u.URL
		clean.User = url.User(u.User.Username())
		return clean.String()
	}
	return u.String()
}
