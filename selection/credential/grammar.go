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

// Grammar says how credentials are written. It is immutable and safe for
// concurrent use.
type Grammar struct {
	// forms are the ways to write parameters; the first one is canonical.
	forms []form
	// keys are the known parameters in canonical order.
	keys []key

	field  Field
	header string
	prefix string // before the account
	head   bool   // something is before the parameters

	unit     unit
	limits   Limits
	clamp    bool
	id       idRule
	identity []string

	first [256]bool // the first bytes of keys
}

// form is one way to write parameters.
type form struct {
	start  string // before the first key
	pair   string // between a value and the next key
	assign string // between a key and its value
	// strict: each pair separates, and what follows it must be a known key.
	// Otherwise a pair separates only before a known key and an assign, so that
	// values may hold it.
	strict bool
}

// maxKeys is the number of parameters that one grammar may have.
const maxKeys = 64

// key is a known parameter.
type key struct {
	name string // empty: a session id that needs none, alone in its grammar
	kind kind
	tag  string // of kindTag: its name, which exits know it by
	mode string // what the key sets besides
}

// kind is what a parameter sets.
type kind uint8

const (
	kindSession kind = iota
	kindTTL
	kindIdle
	kindBind
	kindMode
	kindMaxErrors
	kindGone // 0 or 1
	kindTag
	kindFlag // bare: it has no value
)

// Limits returns what the dialect says where clients do not.
func (g *Grammar) Limits() Limits { return g.limits }

// WithTTL returns the same grammar with other bounds of lifetimes.
func (g *Grammar) WithTTL(shortest, longest time.Duration) *Grammar {
	other := *g
	other.limits.MinTTL, other.limits.MaxTTL = shortest, longest
	return &other
}

// Header returns the name of the header field that has the parameters, or
// nothing if they are elsewhere.
func (g *Grammar) Header() string { return g.header }

// HasAccount reports whether clients write an account at all.
func (g *Grammar) HasAccount() bool { return g.field != Username || g.head }

// InPassword reports whether the parameters are in the password, so that what
// clients write there is more than the password.
func (g *Grammar) InPassword() bool { return g.field == Password }

// IsIdentity reports whether a tag is part of the session's key.
func (g *Grammar) IsIdentity(tag string) bool { return slices.Contains(g.identity, tag) }

// HasTag reports whether clients can ask for a tag.
func (g *Grammar) HasTag(tag string) bool {
	return slices.ContainsFunc(g.keys, func(k key) bool { return k.kind == kindTag && k.tag == tag })
}

// maxAccount is the longest name that a configured account may have, in bytes:
// a longer one fits into no SOCKS5 greeting, and would leave little of
// maxText for parameters.
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
	case g.field != Username || !g.head:
		return nil
	}
	if at, _, _ := g.split(name); at != len(name) {
		return g.errCut(name, at)
	}
	// A name may also be cut only once parameters follow: alice-session is whole
	// in itself, but not in alice-session-session-abc.
	for i := range g.forms {
		f := &g.forms[i]
		for _, k := range g.keys {
			text := name + f.start + k.name
			if k.kind != kindFlag {
				text += f.assign
			}
			if at, _, _ := g.split(text); at != len(name) {
				return g.errCut(name, at)
			}
		}
	}
	return nil
}

func (g *Grammar) errCut(name string, at int) error {
	return fmt.Errorf("account %q: a client's username would be cut at %q, which begins a parameter: rename the account",
		name, name[min(at, len(name)):])
}

// split finds where the account ends and which form its parameters have:
// the earliest start that is followed by a known key and an assign. Without
// one, the account is everything and f is nil. mixed reports whether another,
// strict form begins further on.
func (g *Grammar) split(text string) (at int, f *form, mixed bool) {
	at = len(text)
	for i := range g.forms {
		if start, _, _ := g.next(text, 0, g.forms[i].start, &g.forms[i]); start >= 0 && start < at {
			at, f = start, &g.forms[i]
		}
	}
	for i := range g.forms {
		other := &g.forms[i]
		if f == nil || f == other || !other.strict {
			continue
		}
		if start, _, _ := g.next(text, at, other.start, other); start >= 0 {
			mixed = true
		}
	}
	return at, f, mixed
}

// next finds the first separator at or after from that is followed by a known
// key and an assign. It returns -1 if there is none, else the separator's
// place, the key's index, and where its value begins.
func (g *Grammar) next(s string, from int, separator string, f *form) (at, index, value int) {
	for at = from; ; at++ {
		i := strings.Index(s[at:], separator)
		if i < 0 {
			return -1, -1, -1
		}
		at += i
		begin := at + len(separator)
		if index, n := g.match(s[begin:], f); index >= 0 {
			return at, index, begin + n
		}
		if separator == "" {
			return -1, -1, -1 // parameters alone begin at the beginning
		}
	}
}

// match returns the index of the key that s begins with, and where its value
// does; -1 if it is none.
func (g *Grammar) match(s string, f *form) (index, n int) {
	if !g.keyless() && (s == "" || !g.first[s[0]]) {
		return -1, 0
	}
	for i := range g.keys {
		k := &g.keys[i]
		if !strings.HasPrefix(s, k.name) {
			continue
		}
		tail := s[len(k.name):]
		switch {
		case k.kind != kindFlag && strings.HasPrefix(tail, f.assign):
			return i, len(k.name) + len(f.assign)
		case k.kind == kindFlag && (tail == "" || strings.HasPrefix(tail, f.pair)):
			return i, len(k.name)
		}
	}
	return -1, 0
}

// keyless reports whether the only parameter is a session id without a key.
func (g *Grammar) keyless() bool { return len(g.keys) == 1 && g.keys[0].name == "" }

// known returns the index of a key, or -1.
func (g *Grammar) known(name string) int {
	for i := range g.keys {
		if g.keys[i].name == name {
			return i
		}
	}
	return -1
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

// what names the text that has the parameters, in messages.
func (g *Grammar) what() string {
	if g.field == Header {
		return "header " + g.header
	}
	return string(g.field)
}
