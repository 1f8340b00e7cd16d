// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package credential reads what proxy clients write into a username, a password
// or a header to name their session.
//
// A username is an account followed by parameters, for example
// alice-session-abc-sessionttl-30. A [Grammar] says which parameters there are
// and how they are separated. It is compiled from a [Config]: the name of a
// preset, which is the dialect of some provider, or a template of one's own:
//
//	grammar, err := credential.Config{Preset: "massive"}.Compile()
//	...
//	c, err := grammar.Read("alice-session-abc-sessionttl-30", "secret", "")
//	// c.Account == "alice", c.Session == "abc", c.TTL == 30*time.Minute
//
// The package verifies no passwords and knows no accounts, and it applies no
// defaults: what a client left out stays zero, and [Grammar.Limits] says what
// the dialect means by that.
package credential

import (
	"errors"
	"iter"
	"time"
)

// ErrMalformed is what every error of [Grammar.Parse] wraps.
var ErrMalformed = errors.New("malformed credentials")

// Error says why a text was refused.
type Error struct {
	// Reason names the parameter and the cure. It is fit to be sent to the
	// client: it holds neither the session id nor the whole text.
	Reason string
}

// Error returns the reason after the text of [ErrMalformed].
func (e *Error) Error() string { return ErrMalformed.Error() + ": " + e.Reason }

// Unwrap returns [ErrMalformed].
func (e *Error) Unwrap() error { return ErrMalformed }

// Credentials is what a client says. Two values are equal (==) if they say the
// same. Its strings may share the memory of the text they came from.
type Credentials struct {
	// Who asks. Never decoded: a percent sign in an account is a percent sign.
	// Empty only where the grammar has no account, see [Grammar.HasAccount].
	Account string

	// The password without parameters, which a grammar may have there. Nothing
	// is asked of it; it may be empty. Only Read sets it, and Parse of a grammar
	// whose parameters are in the password.
	Password string

	// The session id, decoded, 1 to 255 characters. Empty: none was given, so
	// every request rotates.
	Session string

	// How long a session made by this request lives, within the grammar's
	// limits. 0: not given.
	TTL time.Duration

	// How long a session made by this request lives without being used. 0: not
	// given.
	MaxIdle time.Duration

	// How long a session holds its exit although that fails, counted from the
	// session's creation; an error after that moves it. 0: not given.
	Bind time.Duration

	// "strict", "flex" or "norotate". Empty: not given.
	Mode string

	// Gone asks that a failing exit is answered with 410. Mode is norotate then.
	Gone bool

	// How many consecutive errors a session in flex mode bears, 1 to 100. 0: not
	// given. It is accepted under every mode, because the mode may come from the
	// configuration; whoever knows the mode ignores it unless that is flex.
	MaxErrors int

	// What the exit must be like: an exit serves the request only if it has all
	// of these tags. They count when an exit is chosen, that is for new sessions,
	// for moves and for requests without a session; a live session keeps its exit
	// whatever they say. Those that Grammar.IsIdentity names are part of the
	// session's key besides, so that another value is another session. Values are
	// as the client wrote them and are compared without regard to case.
	Tags Tags
}

// maxTags is the number of tags that one grammar may have. Tags are an array, so
// that reading them allocates nothing and Credentials are comparable.
const maxTags = 8

// Tag is a property that the client asks of its exit.
type Tag struct {
	Key, Value string
}

// Tags are the tags of a client, sorted by key whatever their order there; the
// unused places are at the end and empty.
type Tags [maxTags]Tag

// List returns the tags that are there. It is part of t.
func (t *Tags) List() []Tag {
	for i := range t {
		if t[i].Key == "" {
			return t[:i]
		}
	}
	return t[:]
}

// Get returns the value of key, "" if it was not given; a given value is never
// empty.
func (t *Tags) Get(key string) string {
	for i := range t {
		if t[i].Key == key {
			return t[i].Value
		}
	}
	return ""
}

// All yields key and value of each tag, sorted by key.
func (t *Tags) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, tag := range t.List() {
			if !yield(tag.Key, tag.Value) {
				return
			}
		}
	}
}

// insert puts a tag where it belongs. The key must be absent, and a place free.
func (t *Tags) insert(key, value string) {
	i := 0
	for t[i].Key != "" && t[i].Key < key {
		i++
	}
	copy(t[i+1:], t[i:])
	t[i] = Tag{Key: key, Value: value}
}
