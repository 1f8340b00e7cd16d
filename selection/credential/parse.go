// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"math"
	"strings"
	"time"
)

const (
	// maxText bounds the work that credentials cost before their password is
	// looked at, in bytes. It holds the longest session id in ASCII, an account
	// and every other parameter.
	maxText = 512
	// maxValue is the longest session id or tag value, in characters.
	maxValue = 255
	// maxMaxErrors is the highest number of errors that a session may bear.
	maxMaxErrors = 100
)

// Read reads a client's credentials. The header is the one that Header names,
// and is ignored where the grammar has none. As Parse, it takes linear time and
// allocates only if a value holds a percent escape, or for an error.
func (g *Grammar) Read(username, password, header string) (Credentials, error) {
	var c Credentials
	var err error
	switch g.field {
	case Password:
		if c.Account, err = g.account(username); err == nil {
			err = g.parse(&c, password)
		}
	case Header:
		if c.Account, err = g.account(username); err == nil {
			err = g.parse(&c, header)
		}
		c.Password = password
	case Username:
		err = g.parse(&c, username)
		c.Password = password
	}
	if err != nil {
		return Credentials{}, err
	}
	return c, nil
}

// Parse reads the text that has the parameters: a username, unless the grammar
// has another field. It takes time linear in the text's length, and allocates
// only if a value holds a percent escape, or for an error.
//
// The account runs to the first separator that is followed by a known key and
// by what separates a key from its value; a value runs to the next such
// separator, or to the end. So accounts and session ids may hold the separator,
// and alice-session alone is an account. Keys and modes are written as they
// stand in the grammar. Values may be percent-encoded, in UTF-8; a plus sign is
// a plus sign.
//
// In a strict form (massive's alice?session=abc&sessionttl=30) each pair
// separates, and a parameter that is not known is an error. Forms do not mix.
//
// All errors are of type *[Error] and wrap [ErrMalformed].
func (g *Grammar) Parse(text string) (Credentials, error) {
	var c Credentials
	if err := g.parse(&c, text); err != nil {
		return Credentials{}, err
	}
	return c, nil
}

func (g *Grammar) parse(c *Credentials, text string) error {
	if len(text) > maxText {
		return malformed("the %s is %d bytes long: shorten it to at most %d", g.what(), len(text), maxText)
	}
	if !g.head {
		return g.parseAlone(c, text)
	}
	if g.field == Username {
		var ok bool
		if text, ok = strings.CutPrefix(text, g.prefix); !ok {
			return malformed("the username does not begin with %s: write that before the account", g.prefix)
		}
	}
	at, f, mixed := g.split(text)
	if g.field == Password {
		c.Password = text[:at]
	} else {
		c.Account = text[:at]
		if err := checkAccountText(c.Account); err != nil {
			return err
		}
	}
	switch {
	case f == nil:
		return nil
	case mixed:
		return malformed("the %s mixes two ways to write parameters: use one, and write ? inside a value as %%3F", g.what())
	case f.strict:
		return g.parseStrict(c, f, text[at+len(f.start):])
	}
	return g.parseOpen(c, f, text, at)
}

// account reads a username that is nothing else.
func (g *Grammar) account(username string) (string, error) {
	if len(username) > maxText {
		return "", malformed("the username is %d bytes long: shorten it to at most %d", len(username), maxText)
	}
	name, ok := strings.CutPrefix(username, g.prefix)
	if !ok {
		return "", malformed("the username does not begin with %s: write that before the account", g.prefix)
	}
	return name, checkAccountText(name)
}

// parseAlone reads a text that has nothing but parameters.
func (g *Grammar) parseAlone(c *Credentials, text string) error {
	f := &g.forms[0]
	if text == "" {
		return nil
	}
	if f.strict {
		return g.parseStrict(c, f, text)
	}
	if index, _ := g.match(text, f); index < 0 {
		return malformed("the %s does not begin with one of %s: correct it", g.what(), g.names())
	}
	return g.parseOpen(c, f, text, 0)
}

// parseOpen reads the parameters of a form whose values may hold its separator.
func (g *Grammar) parseOpen(c *Credentials, f *form, text string, at int) error {
	var seen uint64
	at, index, from := g.next(text, at, f.start, f)
	for at >= 0 {
		end, following, begin := -1, -1, -1
		if !g.keyless() {
			end, following, begin = g.next(text, from, f.pair, f)
		}
		value := text[from:]
		if end >= 0 {
			value = text[from:end]
		}
		if err := g.set(c, index, value, &seen); err != nil {
			return err
		}
		at, index, from = end, following, begin
	}
	return nil
}

// parseStrict reads the parameters of a form that says what is a parameter.
func (g *Grammar) parseStrict(c *Credentials, f *form, parameters string) error {
	var seen uint64
	for n, more := 1, true; more; n++ {
		var parameter string
		parameter, parameters, more = strings.Cut(parameters, f.pair)
		name, value, assigned := strings.Cut(parameter, f.assign)
		index := g.known(name)
		if index < 0 || assigned == (g.keys[index].kind == kindFlag) {
			// Its text is not repeated: it may be the rest of a session id that
			// holds the separator.
			return malformed("parameter %d%s is not one of %s, each with %s and a value: correct it, or write %s inside a value as %%%02X",
				n, after(f.start), g.names(), f.assign, f.pair, f.pair[0])
		}
		if err := g.set(c, index, value, &seen); err != nil {
			return err
		}
	}
	return nil
}

func after(start string) string {
	if start == "" {
		return ""
	}
	return " after " + start
}

// set gives the parameter of that index its value. seen has a bit for each key.
func (g *Grammar) set(c *Credentials, index int, encoded string, seen *uint64) error {
	k := &g.keys[index]
	if *seen&(1<<index) != 0 {
		return malformed("%s is repeated: give it once", k.name)
	}
	*seen |= 1 << index

	value, ok := unescape(encoded)
	if !ok {
		return malformed("%s holds an invalid percent escape: write a percent sign as %%25", k.text())
	}
	if k.mode != "" {
		if err := setMode(c, k, k.mode); err != nil {
			return err
		}
	}
	switch k.kind {
	case kindSession:
		if c.Session != "" {
			return malformed("%s gives a second session id: give one", k.text())
		}
		c.Session = value
		if err := checkText(k.text(), value); err != nil {
			return err
		}
		return g.id.check(k.text(), value)
	case kindTag:
		if c.Tags.Get(k.tag) != "" {
			return malformed("%s is repeated: give it once", k.tag)
		}
		if err := checkText(k.name, value); err != nil {
			return err
		}
		c.Tags.insert(k.tag, value)
	case kindTTL:
		return g.setTTL(c, k, value)
	case kindIdle:
		return g.setDuration(&c.MaxIdle, k, value)
	case kindBind:
		return g.setDuration(&c.Bind, k, value)
	case kindMaxErrors:
		count, ok := decimal(value, maxMaxErrors)
		if !ok || count == 0 {
			return malformed("%s %q is not a usable number of errors: write a decimal number from 1 to %d", k.name, clip(value), maxMaxErrors)
		}
		c.MaxErrors = int(count)
	case kindMode:
		for _, mode := range modes {
			if value == mode {
				return setMode(c, k, mode) // the constant keeps nothing of the text alive
			}
		}
		return malformed("%s %q is unknown (have %s)", k.name, clip(value), strings.Join(modes, ", "))
	case kindGone:
		switch value {
		case "0":
		case "1":
			c.Gone = true
			return setMode(c, k, "norotate")
		default:
			return malformed("%s %q is neither 0 nor 1: write one of them", k.name, clip(value))
		}
	case kindFlag:
		if value != "" {
			return malformed("%s is followed by something that is no parameter: leave that out", k.name)
		}
	}
	return nil
}

func setMode(c *Credentials, k *key, mode string) error {
	if c.Mode != "" {
		return malformed("%s sets the mode a second time: set it once", k.name)
	}
	c.Mode = mode
	return nil
}

// setTTL reads the lifetime, within its bounds.
func (g *Grammar) setTTL(c *Credentials, k *key, value string) error {
	ttl, ok := g.unit.parse(value)
	shortest, longest := g.limits.MinTTL, g.limits.MaxTTL
	if ok && g.clamp {
		ttl = min(max(ttl, shortest), longest)
	}
	switch {
	case !ok || ttl == 0 || ttl == math.MaxInt64:
		return g.errNumber(k, value)
	case ttl < shortest || ttl > longest:
		return malformed("%s is %s, it must be within %s and %s", k.name, g.unit.text(ttl), g.unit.text(shortest), g.unit.text(longest))
	}
	c.TTL = ttl
	return nil
}

func (g *Grammar) setDuration(to *time.Duration, k *key, value string) error {
	d, ok := g.unit.parse(value)
	if !ok || d == 0 || d == math.MaxInt64 {
		return g.errNumber(k, value)
	}
	*to = d
	return nil
}

func (g *Grammar) errNumber(k *key, value string) error {
	return malformed("%s %q is not a usable number of %s: write a decimal number from 1, without a sign", k.name, clip(value), g.unit.name)
}

// text is the key's name in messages.
func (k *key) text() string {
	if k.name == "" {
		return "the session id"
	}
	return k.name
}
