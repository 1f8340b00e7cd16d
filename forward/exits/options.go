// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/internal/pace"
)

// Options are what any exit may have.
type Options struct {
	// How much of all sessions the exit gets, in relation to the others; with
	// slots each of them. Default: 1.
	Weight int `json:"weight,omitempty"`

	// How many live sessions the exit may have, with slots each of them; at that
	// it gets no new ones. Default: no limit.
	MaxSessions int `json:"max_sessions,omitempty"`

	// How many requests and tunnels the exit takes in a time, such as 100/1m.
	// Above that new sessions and requests without one go elsewhere, and strict
	// sessions move when they are used. Default: no limit.
	Rate string `json:"rate,omitempty"`

	// As how many targets an exit counts that is a provider's gateway: one whose
	// URL has {session} in its user or password. A session that leaves one of them
	// finds another one, which is another session at the gateway. One request
	// tries at most 2 of them. At most 10000. Default: 1.
	Slots int `json:"slots,omitempty"`

	// What the exit is like, by keys such as country. Requests that ask for tags
	// are served by exits that have them; those that ask for none by any. The
	// value * stands for all values. Compared without regard to case. Default:
	// none.
	Tags map[string][]string `json:"tags,omitempty"`

	// How the exit is checked. Default: it is not; an exit that fails rests.
	Check *Check `json:"check,omitempty"`

	rate pace.Rate // Rate, as it is counted
}

// Pace returns how many requests the exit takes in a time; zero for no limit.
func (o *Options) Pace() pace.Rate { return o.rate }

// Check fetches a URL through an exit again and again: an exit that fails
// twice in a row is down until it succeeds.
type Check struct {
	// What is fetched, http or https; any answer below 500 is a success. The
	// rules about clients' destinations do not apply. Required.
	URL string `json:"url,omitempty"`

	// How often. Must be at least 100ms. Required.
	Interval caddy.Duration `json:"interval,omitempty"`
}

// minCheckInterval keeps checks from being a load.
const minCheckInterval = 100 * time.Millisecond

// options is how a target gets at them.
func (o *Options) options() *Options { return o }

// Compile reads the options and refuses those without a meaning.
func (o *Options) Compile() error {
	switch {
	case o.Weight < 0:
		return fmt.Errorf("weight is %d, it must be positive", o.Weight)
	case o.MaxSessions < 0:
		return fmt.Errorf("max_sessions is %d, it must be positive", o.MaxSessions)
	case o.Slots < 0 || o.Slots > maxSlots:
		return fmt.Errorf("slots is %d, it must be from 1 to %d", o.Slots, maxSlots)
	}
	if o.Rate != "" {
		var err error
		if o.rate, err = pace.ParseRate(o.Rate); err != nil {
			return fmt.Errorf("rate: %w", err)
		}
	}
	var err error
	if o.Tags, err = FoldTags(o.Tags); err != nil {
		return err
	}
	return o.Check.settle()
}

func (c *Check) settle() error {
	if c == nil {
		return nil
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("check: its URL must be one of http or https, such as https://example.com/")
	}
	if time.Duration(c.Interval) < minCheckInterval {
		return fmt.Errorf("check: the interval is %s, it must be at least %s", time.Duration(c.Interval), minCheckInterval)
	}
	return nil
}

// Has reports whether the exit has a tag; the value is folded.
func (o *Options) Has(key, value string) bool {
	values := o.Tags[key]
	return slices.Contains(values, value) || slices.Contains(values, "*")
}

// maxSlots bounds the slots of one exit: each is a target, and placement looks
// at targets.
const maxSlots = 10_000
