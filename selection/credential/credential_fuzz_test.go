// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// FuzzParse holds Parse against Format, and against itself read backwards from
// the rule: nothing that was read as a value still holds a parameter.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"alice", "alice-session", "alice-session-abc-sessionttl-30", "alice?session=abc&sessionttl=30",
		"a-session-x%2Dsession-sessionttl-1", "a-session--city-x", "a-session-b%3Ac%25", "a-session-%",
		"a-sessionmode-flex-sessionerr-15-country-de-city-berlin", "a-session-x?city=y", "a?session=x&", "-session-a",
		"a-session-\u0085", "a-session-%ff", "alice-session?session=abc",
	} {
		f.Add(seed)
	}
	g := mustPreset(f)
	f.Fuzz(func(t *testing.T, username string) {
		c, err := g.Parse(username)
		if err != nil {
			var reason *Error
			if !errors.Is(err, ErrMalformed) || !errors.As(err, &reason) || reason.Reason == "" || len(reason.Reason) > 300 || !utf8.ValidString(reason.Reason) {
				t.Fatalf("%q: not an error for a client: %v", username, err)
			}
			if c != (Credentials{}) {
				t.Fatalf("%q: credentials beside an error: %+v", username, c)
			}
			return
		}
		switch {
		case c.Account == "" || !strings.HasPrefix(username, c.Account):
			t.Fatalf("%q: account %q is not how it begins", username, c.Account)
		case utf8.RuneCountInString(c.Session) > 255 || !utf8.ValidString(c.Session) || strings.ContainsFunc(c.Session, unicode.IsControl):
			t.Fatalf("%q: session %q", username, c.Session)
		case c.TTL < 0 || c.TTL%time.Minute != 0 || c.MaxErrors < 0 || c.MaxErrors > 100:
			t.Fatalf("%q: ttl %v, errors %d", username, c.TTL, c.MaxErrors)
		}
		if c.Account == username && c != (Credentials{Account: username}) {
			t.Fatalf("%q: parameters from nothing: %+v", username, c)
		}
		// Another decoder agrees on the first session of the query form.
		if _, rest, ok := strings.Cut(username[len(c.Account):], "session="); ok && strings.HasPrefix(username[len(c.Account):], "?session=") {
			value, _, _ := strings.Cut(rest, "&")
			if want, err := url.PathUnescape(value); err != nil || want != c.Session {
				t.Fatalf("%q: session %q, net/url says %q, %v", username, c.Session, want, err)
			}
		}

		// An account that a configuration may have comes through Format.
		if g.CheckAccount(c.Account) != nil {
			return
		}
		canonical := g.Format(c)
		if len(canonical) > maxText {
			return
		}
		again, err := g.Parse(canonical)
		if err != nil || again != c {
			t.Fatalf("%q: Parse(%q) = %+v, %v, want %+v", username, canonical, again, err, c)
		}
		if got := g.Format(again); got != canonical {
			t.Fatalf("%q: canonical %q became %q", username, canonical, got)
		}
	})
}

// FuzzFormat builds credentials instead of a username.
func FuzzFormat(f *testing.F) {
	f.Add("alice", "abc", uint32(30), uint8(2), uint8(15), "de", "berlin")
	f.Add("a-", "-session", uint32(0), uint8(0), uint8(0), "-city", "?country=")
	f.Add("a?", "?city", uint32(1), uint8(3), uint8(100), "=", "%-country-")
	g := mustPreset(f)
	f.Fuzz(func(t *testing.T, account, session string, minutes uint32, mode, errs uint8, country, city string) {
		c := Credentials{
			Account: account, Session: session, TTL: time.Duration(minutes%241) * time.Minute,
			Mode: append([]string{""}, modes...)[mode%4], MaxErrors: int(errs % 101),
		}
		if city != "" {
			c.Tags.insert("city", city)
		}
		if country != "" {
			c.Tags.insert("country", country)
		}
		for _, value := range []string{session, country, city} {
			if value != "" && checkText("value", value) != nil {
				return
			}
		}
		if g.CheckAccount(account) != nil {
			return
		}
		username := g.Format(c)
		if len(username) > maxText {
			return
		}
		if strings.Contains(username, ":") {
			t.Fatalf("%+v: %q does not fit into Basic", c, username)
		}
		got, err := g.Parse(username)
		if err != nil || got != c {
			t.Fatalf("%+v: Parse(%q) = %+v, %v", c, username, got, err)
		}
	})
}
