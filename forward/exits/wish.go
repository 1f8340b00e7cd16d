// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
)

// Wish is what a request asks of its exit's tags. It counts where an exit is
// chosen: for a new session, for a move and for a request without a session. A
// live session keeps its exit whatever the wish: those tags that are part of its
// key were the same when it began, and the others count at its creation only.
type Wish struct {
	// The exit must have each of these: what the client asks for.
	Tags []credential.Tag
	// Of each key, the exit must have one of these values: what the account
	// allows. Folded.
	Allowed map[string][]string
}

// IsEmpty reports whether any exit may serve the request.
func (w *Wish) IsEmpty() bool { return len(w.Tags) == 0 && len(w.Allowed) == 0 }

// Admits reports whether an exit may serve the request. Has reports whether the
// exit has a tag; it is called with the key as declared and the value folded
// (FoldTag), and answers yes for tag <key> *.
func (w *Wish) Admits(has func(key, value string) bool) bool {
	for _, tag := range w.Tags {
		if !has(tag.Key, FoldTag(tag.Value)) {
			return false
		}
	}
	for key, values := range w.Allowed {
		if !slices.ContainsFunc(values, func(value string) bool { return has(key, value) }) {
			return false
		}
	}
	return true
}

// Check refuses a client that asks for what its account may not use.
func (w *Wish) Check() error {
	for _, tag := range w.Tags {
		if values, limited := w.Allowed[tag.Key]; limited && !slices.Contains(values, FoldTag(tag.Value)) {
			return &proxystatus.Refusal{
				Kind: "http_request_denied", Private: true,
				Reason: fmt.Sprintf("this account may not use exits with %s %q (have %s)", tag.Key, tag.Value[:min(len(tag.Value), 32)], strings.Join(values, ", ")),
			}
		}
	}
	return nil
}

// Describe names the first tag of the wish.
func (w *Wish) Describe() string {
	for _, tag := range w.Tags {
		return fmt.Sprintf("the tag %s=%q", tag.Key, tag.Value)
	}
	for key, values := range w.Allowed {
		return fmt.Sprintf("a tag %s of %s", key, strings.Join(values, ", "))
	}
	return "no tag"
}

// FoldTags checks the tags of an account. Values are compared without regard to
// case.
func FoldTags(tags map[string][]string) (map[string][]string, error) {
	if len(tags) == 0 {
		return nil, nil
	}
	folded := make(map[string][]string, len(tags))
	for key, values := range tags {
		if key == "" || len(values) == 0 || slices.Contains(values, "") {
			return nil, errors.New("tags need a key and at least one value")
		}
		for _, value := range values {
			folded[key] = append(folded[key], FoldTag(value))
		}
	}
	return folded, nil
}

// FoldTag is a tag's value as it is compared.
func FoldTag(value string) string { return strings.ToLower(value) }
