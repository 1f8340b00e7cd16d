// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// placeholders are the words of a template that are no tags.
var placeholders = map[string]kind{
	"session":      kindSession,
	"ttl":          kindTTL,
	"seconds":      kindTTL,
	"minutes":      kindTTL,
	"milliseconds": kindTTL,
	"idle":         kindIdle,
	"bind":         kindBind,
	"mode":         kindMode,
	"errors":       kindMaxErrors,
	"killswitch":   kindGone,
}

// unitOfWord is the unit that some of them imply.
var unitOfWord = map[string]string{"seconds": "s", "minutes": "m", "milliseconds": "ms"}

// readTemplates compiles the ways to write parameters; the first one is
// canonical, and all have the same keys. The field is what the configuration
// says, or else what the templates say, or else otherwise.
func (g *Grammar) readTemplates(templates []string, field, otherwise Field) error {
	for i, text := range templates {
		f, keys, head, err := g.readTemplate(text)
		if err != nil {
			return fmt.Errorf("template %q: %w", text, err)
		}
		if i == 0 {
			g.keys = keys
			g.field = fieldOf(field, head, otherwise)
			g.head = head != "" && g.field != Header
			if g.field == Password && !g.head {
				return fmt.Errorf("template %q: it reads the password and has none: begin it with <password>", text)
			}
		}
		if !g.head {
			f.start = ""
		}
		// Where parameters follow each other as keys and values do, or as they
		// follow the account, only a known key says where the next one begins.
		f.strict = f.start != f.pair && f.pair != f.assign
		g.forms = append(g.forms, f)
		if g.field == Username && strings.Contains(f.start+f.pair+f.assign, ":") {
			return fmt.Errorf("template %q: a colon ends a username: use another separator", text)
		}
		if !g.head {
			break // without an account before them, forms could not be told apart
		}
	}
	return nil
}

// fieldOf settles where the parameters are.
func fieldOf(configured Field, head string, otherwise Field) Field {
	switch {
	case configured != "":
		return configured
	case head == "password":
		return Password
	}
	return otherwise
}

// readTemplate compiles one template.
func (g *Grammar) readTemplate(text string) (f form, keys []key, head string, err error) {
	rest := text
	if before, after, ok := strings.Cut(rest, "<account>"); ok && !strings.ContainsAny(before, "<[]>") {
		g.prefix, head, rest = before, "account", after
	} else if after, ok := strings.CutPrefix(rest, "<password>"); ok {
		head, rest = "password", after
	}
	if rest != "" && !strings.HasPrefix(rest, "[") && !strings.ContainsAny(rest, "[]") && strings.HasSuffix(rest, ">") {
		rest = "[" + rest + "]" // one parameter needs no brackets
	}
	hasAssign := false
	for n := 0; rest != ""; n++ {
		group, after, ok := strings.Cut(strings.TrimPrefix(rest, "["), "]")
		if !ok || rest[0] != '[' || strings.Contains(group, "[") {
			return f, nil, "", errors.New("write each parameter in brackets, as in [-session-<session>]")
		}
		rest = after
		separator, k, assign, err := g.readGroup(group)
		if err != nil {
			return f, nil, "", err
		}
		keys = append(keys, k)
		switch {
		case n == 0:
			f.start, f.pair = separator, separator
		case n == 1:
			f.pair = separator
		case separator != f.pair:
			return f, nil, "", fmt.Errorf("%q is separated by %q and others by %q: use one separator", k.name, separator, f.pair)
		}
		if separator == "" && (n > 0 || head != "") {
			return f, nil, "", fmt.Errorf("nothing separates %q from what is before it", k.name)
		}
		if k.kind == kindFlag {
			continue
		}
		if hasAssign && assign != f.assign {
			return f, nil, "", fmt.Errorf("the value of %q is separated by %q and others by %q: use one separator", k.name, assign, f.assign)
		}
		hasAssign, f.assign = true, assign
		if assign == "" && k.name != "" {
			return f, nil, "", fmt.Errorf("nothing separates %q from its value", k.name)
		}
	}
	if len(keys) == 1 && keys[0].name == "" && keys[0].kind != kindSession {
		return f, nil, "", errors.New("only a session id may stand without a key")
	}
	return f, keys, head, nil
}

// readGroup compiles one parameter.
func (g *Grammar) readGroup(group string) (separator string, k key, assign string, err error) {
	literal, rest, hasValue := strings.Cut(group, "<")
	word, closed := strings.CutSuffix(rest, ">")
	if hasValue {
		if !closed || strings.ContainsAny(word, "<>") {
			return "", k, "", fmt.Errorf("%q does not end with one value in angle brackets", group)
		}
		if !isKey(word) {
			return "", k, "", fmt.Errorf("value %q: use letters, digits and underscores", word)
		}
	}
	isSeparator := func(r rune) bool { return !isAlphanumeric(r) }
	k.name = strings.TrimLeftFunc(literal, isSeparator)
	separator = literal[:len(literal)-len(k.name)]
	if !hasValue {
		k.kind = kindFlag
	} else {
		name := strings.TrimRightFunc(k.name, isSeparator)
		assign, k.name = k.name[len(name):], name
		if kind, known := placeholders[word]; known {
			k.kind = kind
		} else {
			k.kind, k.tag = kindTag, word
		}
		if unit, ok := unitOfWord[word]; ok {
			g.unit, _ = unitOf(unit)
		}
	}
	// Percent signs escape, and what is not ASCII could be half of a character.
	if bad := strings.IndexFunc(separator+assign, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' }); bad >= 0 {
		return "", k, "", fmt.Errorf("%q is not separated by punctuation", k.name)
	}
	return separator, k, assign, nil
}

// modes are the values of a mode parameter.
var modes = []string{"strict", "flex", "norotate"}

// idRule is a compiled ID.
type idRule struct {
	text     string // for messages
	allowed  *[128]bool
	min, max int
	number   bool
}

func (id ID) compile() (idRule, error) {
	r := idRule{min: id.Min, max: id.Max, number: id.Characters == "number", text: id.Characters}
	if id.Characters == "" {
		return r, errors.New("id needs characters, such as A-Za-z0-9, any or number")
	}
	switch {
	case r.number && (id.Min < 0 || id.Max < id.Min || id.Max > 999_999_999):
		return r, fmt.Errorf("id number from %d to %d: write a smallest and a largest one from 0 to 999999999", id.Min, id.Max)
	case r.number:
		return r, nil
	case id.Min < 1 || id.Max < id.Min || id.Max > maxValue:
		return r, fmt.Errorf("id from %d to %d characters: write a smallest and a largest length from 1 to %d", id.Min, id.Max, maxValue)
	case id.Characters == "any":
		return r, nil
	}
	r.allowed = new([128]bool)
	for i := 0; i < len(id.Characters); i++ {
		c := id.Characters[i]
		last := c
		if i+2 < len(id.Characters) && id.Characters[i+1] == '-' {
			last = id.Characters[i+2]
			i += 2
		}
		if c <= ' ' || last > '~' || last < c {
			return r, fmt.Errorf("id characters %q: write ASCII characters and ranges of them, as in A-Za-z0-9_", id.Characters)
		}
		for ; c <= last; c++ {
			r.allowed[c] = true
		}
	}
	return r, nil
}

// check refuses a session id; checkText did not.
func (r *idRule) check(name, id string) error {
	if r.number {
		n, ok := decimal(id, int64(r.max))
		if !ok || n < int64(r.min) || len(id) > 1 && id[0] == '0' {
			return malformed("%s is not a number from %d to %d: write it in digits", name, r.min, r.max)
		}
		return nil
	}
	if r.allowed != nil && slices.ContainsFunc([]byte(id), func(c byte) bool { return c >= 128 || !r.allowed[c] }) {
		return malformed("%s holds a character that is not one of %s: use those", name, r.text)
	}
	if (r.min > 1 || r.max < maxValue) && (runes(id) < r.min || runes(id) > r.max) {
		return malformed("%s has %d characters: give it %d to %d", name, runes(id), r.min, r.max)
	}
	return nil
}
