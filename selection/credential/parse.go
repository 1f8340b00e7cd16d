// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxUsername bounds the work that a username costs before its password is
	// looked at, in bytes. It holds the longest session id in ASCII, an account
	// and every other parameter.
	maxUsername = 512
	// maxValue is the longest session id or tag value, in characters.
	maxValue = 255
	// maxMaxErrors is the highest number of errors that a session may bear.
	maxMaxErrors = 100
	// maxQuoted is how much of a refused value goes into a reason, in bytes.
	maxQuoted = 32
)

// Parse reads a username. It takes time linear in the username's length, and
// allocates only if a value holds a percent escape, or for an error.
//
// The account runs to the first separator that is followed by a known key and
// by what separates a key from its value; a value runs to the next such
// separator, or to the end. So accounts and session ids may hold the separator,
// and alice-session alone is an account. Keys and modes are lower case. Values
// may be percent-encoded, in UTF-8; a plus sign is a plus sign.
//
// In the query form (alice?session=abc&sessionttl=30) each & separates, and a
// parameter that is not known is an error. The forms do not mix.
//
// All errors are of type *[Error] and wrap [ErrMalformed].
func (g *Grammar) Parse(username string) (Credentials, error) {
	if len(username) > maxUsername {
		return Credentials{}, malformed("the username is %d bytes long: shorten it to at most %d", len(username), maxUsername)
	}
	at, f, mixed := g.split(username)
	c := Credentials{Account: username[:at]}
	if err := checkAccountText(c.Account); err != nil {
		return Credentials{}, err
	}
	var err error
	switch {
	case f == nil:
		return c, nil
	case mixed:
		err = malformed("the username mixes two ways to write parameters: use one, and write ? inside a value as %%3F")
	case f.strict:
		err = g.parseStrict(&c, f, username[at+len(f.start):])
	default:
		err = g.parseOpen(&c, f, username, at)
	}
	if err != nil {
		return Credentials{}, err
	}
	return c, nil
}

// parseOpen reads the parameters of a form whose values may hold its separator.
func (g *Grammar) parseOpen(c *Credentials, f *form, username string, at int) error {
	var seen uint64
	at, index := g.next(username, at, f.start, f.assign)
	separator := f.start
	for at >= 0 {
		from := at + len(separator) + len(g.keys[index].name) + len(f.assign)
		end, following := g.next(username, from, f.pair, f.assign)
		value := username[from:]
		if end >= 0 {
			value = username[from:end]
		}
		if err := g.set(c, index, value, &seen); err != nil {
			return err
		}
		at, index, separator = end, following, f.pair
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
		if index < 0 || !assigned {
			// Its text is not repeated: it may be the rest of a session id that
			// holds the separator.
			return malformed("parameter %d after %s is not one of %s, each with %s and a value: correct it, or write %s inside a value as %%%02X",
				n, f.start, g.names(), f.assign, f.pair, f.pair[0])
		}
		if err := g.set(c, index, value, &seen); err != nil {
			return err
		}
	}
	return nil
}

// set gives the parameter of that index its value. seen has a bit for each key.
func (g *Grammar) set(c *Credentials, index int, encoded string, seen *uint64) error {
	k := g.keys[index]
	if *seen&(1<<index) != 0 {
		return malformed("%s is repeated: give it once", k.name)
	}
	*seen |= 1 << index

	value, ok := unescape(encoded)
	if !ok {
		return malformed("%s holds an invalid percent escape: write a percent sign as %%25", k.name)
	}
	switch k.field {
	case fieldSession:
		c.Session = value
		return checkText(k.name, value)
	case fieldTag:
		c.Tags.insert(k.name, value)
		return checkText(k.name, value)
	case fieldTTL:
		count, ok := decimal(value, math.MaxInt64/int64(g.ttlUnit))
		if !ok {
			return malformed("%s %q is not a usable number of %s: write a decimal number from 1, without a sign", k.name, clip(value), g.ttlUnitName)
		}
		c.TTL = time.Duration(count) * g.ttlUnit
	case fieldMaxErrors:
		count, ok := decimal(value, maxMaxErrors)
		if !ok {
			return malformed("%s %q is not a usable number of errors: write a decimal number from 1 to %d", k.name, clip(value), maxMaxErrors)
		}
		c.MaxErrors = int(count)
	case fieldMode:
		for _, mode := range modes {
			if value == mode {
				c.Mode = mode // the constant keeps nothing of the username alive
				return nil
			}
		}
		return malformed("%s %q is unknown (have %s)", k.name, clip(value), strings.Join(modes, ", "))
	}
	return nil
}

// Format writes the canonical username for c: the known parameters in their
// canonical order, a ttl in whole units (a part of one counts as one), tags
// that the grammar does not know left out. Parse reads it back as c if
// CheckAccount accepts the account, the values are ones that Parse returns, the
// tags are sorted, and the result is not too long (512 bytes).
func (g *Grammar) Format(c Credentials) string {
	f := &g.forms[0]
	b := make([]byte, 0, 64)
	b = append(b, c.Account...)
	separator := f.start
	for _, k := range g.keys {
		from := len(b)
		b = append(b, separator...)
		b = append(b, k.name...)
		b = append(b, f.assign...)
		empty := len(b)
		switch k.field {
		case fieldSession:
			b = g.appendEscaped(b, c.Session)
		case fieldTag:
			b = g.appendEscaped(b, c.Tags.Get(k.name))
		case fieldMode:
			b = g.appendEscaped(b, c.Mode)
		case fieldTTL:
			if c.TTL > 0 {
				b = strconv.AppendInt(b, int64((c.TTL-1)/g.ttlUnit)+1, 10)
			}
		case fieldMaxErrors:
			if c.MaxErrors > 0 {
				b = strconv.AppendInt(b, int64(c.MaxErrors), 10)
			}
		}
		if len(b) == empty {
			b = b[:from]
			continue
		}
		separator = f.pair
	}
	return string(b)
}

// appendEscaped appends a value, and escapes no more than what would be read as
// something else: the percent sign, the colon (it ends a username), and a
// separator before a known key.
func (g *Grammar) appendEscaped(b []byte, value string) []byte {
	for i := range len(value) {
		if value[i] == '%' || value[i] == ':' || g.cuts(value[i:]) {
			b = fmt.Appendf(b, "%%%02X", value[i])
			continue
		}
		b = append(b, value[i])
	}
	return b
}

// cuts reports whether the rest of a value begins with a separator and a known
// key that would end the value; at the value's end the assign may be what
// follows the value.
func (g *Grammar) cuts(rest string) bool {
	for i := range g.forms {
		f := &g.forms[i]
		for _, separator := range [...]string{f.start, f.pair} {
			after, ok := strings.CutPrefix(rest, separator)
			if !ok {
				continue
			}
			for _, k := range g.keys {
				if tail, ok := strings.CutPrefix(after, k.name); ok && (tail == "" || strings.HasPrefix(tail, f.assign)) {
					return true
				}
			}
		}
	}
	return false
}

func malformed(format string, args ...any) error {
	return &Error{Reason: fmt.Sprintf(format, args...)}
}

func checkAccountText(account string) error {
	switch {
	case account == "":
		return malformed("the account is empty: write it before the parameters")
	case !utf8.ValidString(account):
		return malformed("the account is not valid UTF-8: send the username in UTF-8")
	case strings.Contains(account, ":"):
		return malformed("the account holds a colon, which ends a username: leave it out")
	case hasControl(account):
		return malformed("the account holds a control character: leave it out")
	}
	return nil
}

func checkText(name, value string) error {
	switch {
	case value == "":
		return malformed("%s is empty: give it 1 to %d characters, or leave it out", name, maxValue)
	case !utf8.ValidString(value):
		return malformed("%s is not valid UTF-8: send the username in UTF-8", name)
	case utf8.RuneCountInString(value) > maxValue:
		return malformed("%s is longer than %d characters: shorten it", name, maxValue)
	case hasControl(value):
		return malformed("%s holds a control character: leave it out", name)
	}
	return nil
}

func hasControl(s string) bool { return strings.IndexFunc(s, unicode.IsControl) >= 0 }

// clip bounds what of a refused value is repeated.
func clip(value string) string { return value[:min(len(value), maxQuoted)] }

// decimal reads a number from 1 to highest that is written in digits alone.
func decimal(s string, highest int64) (n int64, ok bool) {
	for i := range len(s) {
		digit := int64(s[i]) - '0'
		if digit < 0 || digit > 9 || n > (highest-digit)/10 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, n > 0
}

// unescape decodes percent escapes. Without any, the result is s itself.
func unescape(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		high, low := unhex(s[i+1]), unhex(s[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		b = append(b, byte(high<<4|low))
		i += 2
	}
	return string(b), true
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}
