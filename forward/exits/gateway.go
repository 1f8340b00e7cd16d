// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// A gateway is an exit that is a provider's proxy, where the session is a
// parameter of the credentials. Its URL has placeholders, such as
//
//	http://customer-me-sessid-{session}-sesstime-{ttl_minutes}:secret@gateway.example:7777
//
// and each request is sent with the credentials of its upstream session: one for
// each local session, for as long as that lives. With slots the exit counts as
// several targets, so that a session that must leave its target has where to go.

// Placeholders of a gateway's user and password.
const (
	sessionPlaceholder    = "{session}"
	ttlMinutesPlaceholder = "{ttl_minutes}"
	ttlSecondsPlaceholder = "{ttl_seconds}"
)

// upstreamIDLength is how long the generated ids are: what every provider takes
// whose grammar is known, and 36^8 of them.
const upstreamIDLength = 8

// Session is a session at a gateway.
type Session struct {
	id  string        // upstreamIDLength lower-case letters and digits
	ttl time.Duration // of the whole session, not what is left of it
}

// sessionKey is where a dial through a gateway finds its session.
type sessionKey struct{}

// WithSession gives a dial through a gateway its session there.
func WithSession(ctx context.Context, s Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

// SessionOfContext returns the session to be used at a gateway. A request without one has
// a session of its own.
func SessionOfContext(ctx context.Context) Session {
	if s, ok := ctx.Value(sessionKey{}).(Session); ok {
		return s
	}
	return Session{id: randomUpstreamID(), ttl: selection.DefaultTTL}
}

// SessionOf is the session at a gateway of a session here, at the target of this
// identity.
func SessionOf(key sessionstore.Key, session sessionstore.Session, target string, ttl time.Duration) Session {
	switch {
	case key.IsZero():
		return Session{id: randomUpstreamID(), ttl: ttl}
	case session.Target == target:
		return Session{
			id:  upstreamID(key, session.Created.UnixNano(), target),
			ttl: session.Expires.Sub(session.Created),
		}
	}
	// No store remembers that the session is here now. The hash that placed it is
	// the same for as long.
	return Session{id: upstreamID(key, selection.HashWindow(key, ttl, time.Now()), target), ttl: ttl}
}

func upstreamID(key sessionstore.Key, created int64, target string) string {
	digest := sha256.New()
	digest.Write(key[:])
	_ = binary.Write(digest, binary.BigEndian, created)
	digest.Write([]byte(target))
	return idOf(digest.Sum(nil))
}

func randomUpstreamID() string {
	var random [upstreamIDLength * 2]byte
	_, _ = rand.Read(random[:]) // never fails
	return idOf(random[:])
}

// idOf makes an id of random bytes, two for each character.
func idOf(random []byte) string {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
	var id [upstreamIDLength]byte
	for i := range id {
		id[i] = alphabet[int(binary.BigEndian.Uint16(random[2*i:]))%len(alphabet)]
	}
	return string(id[:])
}

// Credentials is the user information of an exit's URL.
type Credentials struct {
	user, password []string // literals and placeholders
	hasPassword    bool
}

// parseUserTemplate reads user information. Placeholders of the process are
// replaced, those of the session stay. The user or the password that has a brace
// is taken as it is, without one it is percent-decoded. No error holds the text.
func parseUserTemplate(raw string) (*Credentials, error) {
	for _, other := range []string{ttlMinutesPlaceholder, ttlSecondsPlaceholder} {
		if strings.Contains(raw, other) && !strings.Contains(raw, sessionPlaceholder) {
			return nil, fmt.Errorf("%s in its URL has no meaning without {session}", other)
		}
	}
	user, password, hasPassword := strings.Cut(raw, ":")
	t := &Credentials{hasPassword: hasPassword}
	var err error
	if t.user, err = splitTemplate(user); err != nil {
		return nil, err
	}
	t.password, err = splitTemplate(password)
	return t, err
}

func splitTemplate(text string) ([]string, error) {
	if !strings.Contains(text, "{") {
		text, err := url.PathUnescape(text)
		if err != nil {
			return nil, errors.New("the user information in its URL has a bad percent escape")
		}
		return []string{text}, nil
	}
	var parts []string
	for text != "" {
		at, found := len(text), ""
		for _, placeholder := range []string{sessionPlaceholder, ttlMinutesPlaceholder, ttlSecondsPlaceholder} {
			if i := strings.Index(text, placeholder); i >= 0 && i < at {
				at, found = i, placeholder
			}
		}
		literal, err := expand(text[:at])
		if err != nil { // which quotes the text
			return nil, errors.New("the user information in its URL has a placeholder that is unknown or empty (have {session}, {ttl_minutes}, {ttl_seconds}, {env.NAME})")
		}
		if parts = append(parts, literal); found != "" {
			parts = append(parts, found)
		}
		text = text[at+len(found):]
	}
	return parts, nil
}

// hasSession reports whether each session has credentials of its own.
func (t *Credentials) hasSession() bool {
	return slices.Contains(t.user, sessionPlaceholder) || slices.Contains(t.password, sessionPlaceholder)
}

// Of returns the credentials of a session.
func (t *Credentials) Of(s Session) *url.Userinfo {
	fill := func(parts []string) string {
		var b strings.Builder
		for _, part := range parts {
			switch part {
			case sessionPlaceholder:
				b.WriteString(s.id)
			case ttlMinutesPlaceholder:
				b.WriteString(strconv.FormatInt(ceil(s.ttl, time.Minute), 10))
			case ttlSecondsPlaceholder:
				b.WriteString(strconv.FormatInt(ceil(s.ttl, time.Second), 10))
			default:
				b.WriteString(part)
			}
		}
		return b.String()
	}
	if !t.hasPassword {
		return url.User(fill(t.user))
	}
	return url.UserPassword(fill(t.user), fill(t.password))
}

// ceil is how many whole units a duration needs: the session at the gateway must
// not end before the local one.
func ceil(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }
