// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package credential reads what proxy clients write into a username.
//
// A username is an account followed by parameters, for example
// alice-session-abc-sessionttl-30. A [Grammar] is a table that says which
// parameters there are and how they are separated; a preset is such a table
// under a name:
//
//	grammar, err := credential.Preset("massive")
//	...
//	c, err := grammar.Parse("alice-session-abc-sessionttl-30")
//	// c.Account == "alice", c.Session == "abc", c.TTL == 30*time.Minute
//
// The package verifies no passwords, knows no accounts and has no defaults:
// what a client left out stays zero, and the bounds of a ttl are the caller's.
package credential

import (
	"errors"
	"iter"
	"time"
)

// ErrMalformed is what every error of [Grammar.Parse] wraps.
var ErrMalformed = errors.New("malformed credentials")

// Error says why a username was refused.
type Error struct {
	// Reason names the parameter and the cure. It is fit to be sent to the
	// client: it holds neither the session id nor the whole username.
	Reason string
}

// Error returns the reason after the text of [ErrMalformed].
func (e *Error) Error() string { return ErrMalformed.Error() + ": " + e.Reason }

// Unwrap returns [ErrMalformed].
func (e *Error) Unwrap() error { return ErrMalformed }

// Credentials is what a username says. Two values are equal (==) if they say
// the same. Its strings may share the memory of the username they came from.
type Credentials struct {
	// Who asks. Never empty after Parse, and never decoded: a percent sign in
	// an account is a percent sign.
	Account string

	// The session id, decoded, 1 to 255 characters. Empty: none was given, so
	// every request rotates.
	Session string

	// How long a session made by this request lives. 0: not given.
	TTL time.Duration

	// "strict", "flex" or "norotate". Empty: not given.
	Mode string

	// How many consecutive errors a session in flex mode bears, 1 to 100. 0: not
	// given. It is accepted under every mode, because the mode may come from the
	// configuration; whoever knows the mode ignores it unless that is flex.
	MaxErrors int

	// What the exit must be like.
	Tags Tags
}

// maxTags is the number of tags that one grammar may have. Tags are an array, so
// that reading them allocates nothing and Credentials are comparable.
const maxTags = 4

// Tag is a property that the client asks of its exit.
type Tag struct {
	Key, Value string
}

// Tags are the tags of a username, sorted by key whatever their order there; the
// unused places are at the end and empty.
type Tags [maxTags]Tag

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
		for i := range t {
			if t[i].Key == "" || !yield(t[i].Key, t[i].Value) {
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
