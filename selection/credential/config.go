// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Config says in a configuration's words how clients write their credentials:
// a preset or a template, and what differs from it.
type Config struct {
	// The dialect of a provider: massive, brightdata, oxylabs, decodo, iproyal,
	// evomi, geonode, soax, dataimpulse, okeyproxy, illusory, scrapeops, apify or
	// thordata. Default: massive, unless there is a template.
	Preset string `json:"preset,omitempty"`

	// A form of one's own instead of a preset: an account and then, each in
	// brackets, parameters, which clients may write in any order and leave out.
	//
	//	<account>[-session-<session>][-ttl-<minutes>]
	//
	// A parameter is a separator, a key, another separator and what the value
	// means: <session>; <ttl> (in unit) or <seconds>, <minutes>, <milliseconds>;
	// <idle> and <bind>, which are lifetimes as well; <mode>; <errors>;
	// <killswitch>; or any other word, which is a tag that the exit must have. A
	// parameter without a value is a bare flag. The first parameter may have a
	// separator of its own; all others share theirs. Text before <account> is the
	// account's prefix. A template that begins with <password> reads the
	// password; one without either reads nothing but parameters.
	Template string `json:"template,omitempty"`

	// Where the parameters are: username, password or header. Default: the
	// preset's; for a template username, or password if it begins with that.
	Field Field `json:"field,omitempty"`

	// The name of the header field, where field is header. Its value has
	// parameters only.
	Header string `json:"header,omitempty"`

	// What clients write before the name of their account, such as customer-.
	// May be empty. Default: the preset's.
	AccountPrefix *string `json:"account_prefix,omitempty"`

	// What a lifetime is given in: s, m, ms, or suffix for a number followed by
	// one of s, m, h and d. Default: the preset's; for a template m.
	Unit string `json:"unit,omitempty"`

	// What becomes of a lifetime that is too short or too long: reject answers
	// 400, clamp takes the nearest one that is allowed. Default: the preset's;
	// for a template reject.
	Bounds string `json:"bounds,omitempty"`

	// What a session id may be. Default: the preset's; for a template any 1 to
	// 255 characters.
	ID *ID `json:"id,omitempty"`

	// Keys that also set a mode: another name for the session's key, or a flag
	// of the template.
	Aliases []Alias `json:"aliases,omitempty"`

	// Tags that are part of the session's key, beside country and city: with
	// another value it is another session. One that the dialect does not know is
	// added to it.
	Identity []string `json:"identity,omitempty"`
}

// ID says what a session id may be.
type ID struct {
	// The characters, as in A-Za-z0-9_ (a hyphen at the end stands for itself);
	// any; or number for a decimal number. Required.
	Characters string `json:"characters,omitempty"`

	// The smallest and the largest length; of a number its smallest and largest
	// value.
	Min int `json:"min,omitempty"`
	Max int `json:"max,omitempty"`
}

// Alias is a key that also sets a mode.
type Alias struct {
	// The key, as clients write it.
	Key string `json:"key,omitempty"`

	// strict, flex or norotate.
	Mode string `json:"mode,omitempty"`
}

// Field is where a client writes its parameters.
type Field string

// The fields.
const (
	Username Field = "username"
	Password Field = "password"
	Header   Field = "header"
)

// Limits is what a dialect says about lifetimes and about exits that fail, where
// clients do not. All of it gives way to a configuration.
type Limits struct {
	// How long a session lives.
	TTL time.Duration
	// The shortest and the longest lifetime that a client may ask for.
	MinTTL, MaxTTL time.Duration
	// How long a session lives without being used. 0: as long as it likes.
	MaxIdle time.Duration
	// What a failing exit does to a session. Empty: the configuration's mode.
	Mode string
}

// Compile makes a grammar of a configuration.
func (cfg Config) Compile() (*Grammar, error) {
	g, err := cfg.compile()
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return g, nil
}

func (cfg Config) compile() (*Grammar, error) {
	d := ownDialect
	switch {
	case cfg.Preset != "" && cfg.Template != "":
		return nil, errors.New("there is a preset and a template: leave out one of them")
	case cfg.Template != "":
		d.templates = []string{cfg.Template}
	default:
		if cfg.Preset == "" {
			cfg.Preset = "massive"
		}
		i := slices.IndexFunc(presets, func(d dialect) bool { return d.name == cfg.Preset })
		if i < 0 {
			return nil, fmt.Errorf("preset %q is unknown (have %s)", cfg.Preset, strings.Join(Presets(), ", "))
		}
		d = presets[i]
	}
	g := &Grammar{limits: d.limits, clamp: d.clamp, header: cfg.Header}
	var err error
	if g.unit, err = unitOf(d.unit); err != nil {
		return nil, err
	}
	switch cfg.Field {
	case "", Username, Password, Header:
	default:
		return nil, fmt.Errorf("field %q is unknown (have username, password, header <name>)", string(cfg.Field))
	}
	if err := g.readTemplates(d.templates, cfg.Field, d.field); err != nil {
		return nil, err
	}
	if cfg.Unit != "" {
		if g.unit, err = unitOf(cfg.Unit); err != nil {
			return nil, err
		}
	}
	if cfg.AccountPrefix != nil {
		g.prefix = *cfg.AccountPrefix
	}
	if g.prefix != "" && g.field == Password {
		return nil, errors.New("account_prefix is for parameters in the username: leave it out")
	}
	if strings.Contains(g.prefix, ":") || hasControl(g.prefix) {
		return nil, fmt.Errorf("account_prefix %q holds a colon or a control character: leave it out", g.prefix)
	}
	switch {
	case g.field == Header && !isToken(g.header):
		return nil, fmt.Errorf("%q is not the name of a header field: write field header <name>", g.header)
	case g.field != Header && g.header != "":
		return nil, fmt.Errorf("header %q is given but field is %s: write field header <name>", g.header, g.field)
	}
	switch cfg.Bounds {
	case "":
	case "reject", "clamp":
		g.clamp = cfg.Bounds == "clamp"
	default:
		return nil, fmt.Errorf("bounds %q is unknown (have reject, clamp)", cfg.Bounds)
	}
	id := d.id
	if cfg.ID != nil {
		id = *cfg.ID
	}
	if g.id, err = id.compile(); err != nil {
		return nil, err
	}
	for _, alias := range append(slices.Clone(d.aliases), cfg.Aliases...) {
		if err := g.addAlias(alias); err != nil {
			return nil, err
		}
	}
	for _, tag := range cfg.Identity {
		if err := g.addIdentity(tag); err != nil {
			return nil, err
		}
	}
	for _, tag := range []string{"country", "city"} {
		if !slices.Contains(g.identity, tag) {
			g.identity = append(g.identity, tag)
		}
	}
	for _, k := range g.keys {
		if k.name != "" {
			g.first[k.name[0]] = true
		}
	}
	return g, g.checkKeys()
}

func (g *Grammar) addAlias(alias Alias) error {
	if !slices.Contains(modes, alias.Mode) {
		return fmt.Errorf("alias %q: mode %q is unknown (have %s)", alias.Key, alias.Mode, strings.Join(modes, ", "))
	}
	if i := g.known(alias.Key); i >= 0 {
		k := &g.keys[i]
		if k.kind != kindSession && k.kind != kindFlag {
			return fmt.Errorf("alias %q: that key is neither the session's nor a flag", alias.Key)
		}
		k.mode = alias.Mode
		return nil
	}
	g.keys = append(g.keys, key{name: alias.Key, kind: kindSession, mode: alias.Mode})
	return nil
}

func (g *Grammar) addIdentity(tag string) error {
	if slices.Contains(g.identity, tag) {
		return fmt.Errorf("identity %q is given twice", tag)
	}
	g.identity = append(g.identity, tag)
	if !slices.ContainsFunc(g.keys, func(k key) bool { return k.kind == kindTag && k.tag == tag }) {
		g.keys = append(g.keys, key{name: tag, kind: kindTag, tag: tag})
	}
	return nil
}

// checkKeys refuses keys that could not be told from what is around them.
func (g *Grammar) checkKeys() error {
	tags := 0
	for i, k := range g.keys {
		if k.kind == kindTag {
			tags++
		}
		if k.name == "" && len(g.keys) == 1 {
			continue // a template of a session id alone
		}
		if k.name == "" {
			return errors.New("a parameter without a key is possible only alone: give it a key, as in -session-<session>")
		}
		if !isKey(k.name) {
			return fmt.Errorf("key %q: use letters, digits and underscores, or hyphens", k.name)
		}
		for _, f := range g.forms {
			if strings.ContainsAny(k.name, f.start+f.pair+f.assign) {
				return fmt.Errorf("key %q holds a separator: give it another name", k.name)
			}
		}
		if g.known(k.name) != i {
			return fmt.Errorf("key %q is given twice", k.name)
		}
	}
	if tags > maxTags {
		return fmt.Errorf("there are %d tags: at most %d are possible", tags, maxTags)
	}
	if len(g.keys) > maxKeys {
		return fmt.Errorf("there are %d parameters: at most %d are possible", len(g.keys), maxKeys)
	}
	if !slices.ContainsFunc(g.keys, func(k key) bool { return k.kind == kindSession }) {
		return errors.New("the template has no <session>: add one, as in [-session-<session>]")
	}
	return nil
}

// isKey reports whether a key may have this name.
func isKey(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool { return !isAlphanumeric(r) && r != '_' && r != '-' })
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// isToken reports whether a header field may have this name (RFC 9110 §5.6.2).
func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !isAlphanumeric(r) && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}
