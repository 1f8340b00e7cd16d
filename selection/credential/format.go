// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"fmt"
	"strconv"
	"strings"
)

// Format writes the canonical text for c: the known parameters in their
// canonical order, a ttl in whole units (a part of one counts as one), and what
// the grammar cannot say left out. Parse reads it back as c if CheckAccount
// accepts the account, the values are ones that Parse returns, the tags are
// sorted, and the result is not too long (512 bytes).
func (g *Grammar) Format(c Credentials) string {
	f := &g.forms[0]
	b := make([]byte, 0, 64)
	if g.head {
		if g.field == Password {
			b = append(b, c.Password...)
		} else {
			b = append(b, g.prefix...)
			b = append(b, c.Account...)
		}
	}
	session, mode := g.keysFor(c)
	separator := f.start
	for i := range g.keys {
		k := &g.keys[i]
		from := len(b)
		b = append(b, separator...)
		b = append(b, k.name...)
		if k.kind != kindFlag {
			b = append(b, f.assign...)
		}
		empty := len(b)
		written := false
		switch k.kind {
		case kindSession:
			if i == session {
				b = g.appendEscaped(b, c.Session)
			}
		case kindTag:
			b = g.appendEscaped(b, c.Tags.Get(k.tag))
		case kindMode:
			if i == mode {
				b = g.appendEscaped(b, c.Mode)
			}
		case kindTTL:
			if c.TTL > 0 {
				b = g.unit.append(b, c.TTL)
			}
		case kindIdle:
			if c.MaxIdle > 0 {
				b = g.unit.append(b, c.MaxIdle)
			}
		case kindBind:
			if c.Bind > 0 {
				b = g.unit.append(b, c.Bind)
			}
		case kindMaxErrors:
			if c.MaxErrors > 0 {
				b = strconv.AppendInt(b, int64(c.MaxErrors), 10)
			}
		case kindGone:
			if i == mode {
				b = append(b, '1')
			}
		case kindFlag:
			written = i == mode
		}
		if len(b) == empty && !written {
			b = b[:from]
			continue
		}
		separator = f.pair
	}
	return string(b)
}

// keysFor returns which key says the session's id and which one the mode; -1
// for none. One key may say both.
func (g *Grammar) keysFor(c Credentials) (session, mode int) {
	session, mode = -1, -1
	for i := range g.keys {
		k := &g.keys[i]
		switch {
		case c.Mode == "":
		case k.kind == kindGone && c.Gone,
			!c.Gone && k.kind == kindMode,
			!c.Gone && k.kind == kindFlag && k.mode == c.Mode:
			if mode < 0 {
				mode = i
			}
		}
	}
	for i := range g.keys {
		k := &g.keys[i]
		if c.Session == "" || k.kind != kindSession {
			continue
		}
		if k.mode == "" && session < 0 {
			session = i
		}
		// Only where nothing but the session's key says the mode.
		if k.mode != "" && k.mode == c.Mode && mode < 0 {
			return i, -1
		}
	}
	return session, mode
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
// key that would end the value; at the value's end what follows the value may
// complete it.
func (g *Grammar) cuts(rest string) bool {
	if g.keyless() {
		return false
	}
	for i := range g.forms {
		f := &g.forms[i]
		if i == 0 && f.strict && strings.HasPrefix(rest, f.pair) {
			return true
		}
		for _, separator := range [...]string{f.start, f.pair} {
			after, ok := strings.CutPrefix(rest, separator)
			if !ok || separator == "" {
				continue
			}
			for _, k := range g.keys {
				next := f.assign
				if k.kind == kindFlag {
					next = f.pair
				}
				if tail, ok := strings.CutPrefix(after, k.name); ok && (strings.HasPrefix(tail, next) || strings.HasPrefix(next, tail)) {
					return true
				}
			}
		}
	}
	return false
}
