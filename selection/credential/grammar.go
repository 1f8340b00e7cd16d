// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Grammar says how a username is written. It is immutable and safe for
// concurrent use.
type Grammar struct {
	// forms are the ways to write parameters; the first one is canonical.
	forms []form
	// keys are the known parameters in canonical order.
	keys []key
	// ttlUnit is what one of the ttl parameter is.
	ttlUnit time.Duration
	// ttlUnitName is ttlUnit in messages.
	ttlUnitName string
}

// form is one way to write parameters after the account.
type form struct {
	start  string // between the account and the first key
	pair   string // between a value and the next key
	assign string // between a key and its value
	// strict: each pair separates, and what follows it must be a known key.
	// Otherwise a pair separates only before a known key and an assign, so that
	// values may hold it.
	strict bool
}

// key is a known parameter.
type key struct {
	name  string
	field field
}

// field is what a parameter sets.
type field uint8

const (
	fieldSession field = iota
	fieldTTL
	fieldMode
	fieldMaxErrors
	fieldTag // of the key's own name
)

// modes are the values of a mode parameter.
var modes = []string{"strict", "flex", "norotate"}

// massive is the default dialect: alice-session-abc-sessionttl-30, also
// alice?session=abc&sessionttl=30.
var massive = Grammar{
	forms: []form{
		{start: "-", pair: "-", assign: "-"},
		{start: "?", pair: "&", assign: "=", strict: true},
	},
	keys: []key{
		{"session", fieldSession},
		{"sessionttl", fieldTTL},
		{"sessionmode", fieldMode},
		{"sessionerr", fieldMaxErrors},
		{"country", fieldTag},
		{"city", fieldTag},
	},
	ttlUnit:     time.Minute,
	ttlUnitName: "minutes",
}

// planned are the presets whose tables are still to be written.
var planned = []string{
	"brightdata", "oxylabs", "decodo", "iproyal", "evomi", "geonode", "soax",
	"dataimpulse", "okeyproxy", "illusory", "scrapeops", "apify", "thordata",
}

// Preset returns the grammar of a known dialect.
func Preset(name string) (*Grammar, error) {
	switch {
	case name == "massive":
		return &massive, nil
	case slices.Contains(planned, name):
		return nil, fmt.Errorf("credentials preset %q is not supported yet (have massive)", name)
	default:
		return nil, fmt.Errorf("credentials preset %q is unknown (have massive)", name)
	}
}

// maxAccount is the longest name that a configured account may have, in bytes:
// a longer one fits into no SOCKS5 greeting, and would leave little of
// maxUsername for parameters.
const maxAccount = 255

// CheckAccount returns an error if a configured account of this name could not
// be told from its parameters, or not be written in a username at all.
func (g *Grammar) CheckAccount(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("account %q: the name is empty: give it one", name)
	case len(name) > maxAccount:
		return fmt.Errorf("account %q: the name is %d bytes long: shorten it to at most %d", clip(name), len(name), maxAccount)
	case !utf8.ValidString(name):
		return fmt.Errorf("account %q: the name is not valid UTF-8: rename the account", name)
	case strings.Contains(name, ":"):
		return fmt.Errorf("account %q: the name holds a colon, which ends a username: rename the account", name)
	case hasControl(name):
		return fmt.Errorf("account %q: the name holds a control character: rename the account", name)
	}
	if at, _, _ := g.split(name); at != len(name) {
		return g.errCut(name, at)
	}
	// A name may also be cut only once parameters follow: alice-session is whole
	// in itself, but not in alice-session-session-abc.
	for _, f := range g.forms {
		for _, k := range g.keys {
			if at, _, _ := g.split(name + f.start + k.name + f.assign); at != len(name) {
				return g.errCut(name, at)
			}
		}
	}
	return nil
}

func (g *Grammar) errCut(name string, at int) error {
	return fmt.Errorf("account %q: a client's username would be cut at %q, which begins a parameter: rename the account",
		name, name[at:])
}

// split finds where the account ends and which form its parameters have:
// the earliest start that is followed by a known key and an assign. Without
// one, the account is everything and f is nil. mixed reports whether another,
// strict form begins further on.
func (g *Grammar) split(username string) (at int, f *form, mixed bool) {
	at = len(username)
	for i := range g.forms {
		if start, _ := g.next(username, 0, g.forms[i].start, g.forms[i].assign); start >= 0 && start < at {
			at, f = start, &g.forms[i]
		}
	}
	for i := range g.forms {
		other := &g.forms[i]
		if f == nil || f == other || !other.strict {
			continue
		}
		if start, _ := g.next(username, at, other.start, other.assign); start >= 0 {
			mixed = true
		}
	}
	return at, f, mixed
}

// next finds the first separator at or after from that is followed by a known
// key and an assign. It returns -1 if there is none, else the separator's place
// and the key's index.
func (g *Grammar) next(s string, from int, separator, assign string) (at, index int) {
	for at = from; ; at++ {
		i := strings.Index(s[at:], separator)
		if i < 0 {
			return -1, -1
		}
		at += i
		rest := s[at+len(separator):]
		for index := range g.keys {
			if after, ok := strings.CutPrefix(rest, g.keys[index].name); ok && strings.HasPrefix(after, assign) {
				return at, index
			}
		}
	}
}

// known returns the index of a key, or -1.
func (g *Grammar) known(name string) int {
	return slices.IndexFunc(g.keys, func(k key) bool { return k.name == name })
}

// names lists the known keys for messages.
func (g *Grammar) names() string {
	var b strings.Builder
	for i, k := range g.keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(k.name)
	}
	return b.String()
}
