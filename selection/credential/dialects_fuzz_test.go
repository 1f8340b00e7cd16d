// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// fuzzed are the grammars that are fuzzed: the presets, and what no preset does.
func fuzzed(tb testing.TB) []*Grammar {
	tb.Helper()
	var list []*Grammar
	for _, name := range Presets() {
		list = append(list, compile(tb, Config{Preset: name}))
	}
	for _, cfg := range []Config{
		{Template: "<account>[+sticky=<ttl>][+session_id=<session>]", Unit: "suffix", Bounds: "clamp"},
		{Template: "<account>[,session_<session>][,rotateTimeout_<milliseconds>]"},
		{Template: "<account>.<session>"},
		{Template: "<session>", Field: Header, Header: "X-Session"},
		{Template: "<account>[--a=<session>][--b=<x>][--c][--d]", Aliases: []Alias{{"c", "flex"}, {"e", "strict"}}},
		{Template: "<password>[_a-<session>][;b-<mode>][;c-<errors>]"},
		{Field: Header, Header: "X-Session"},
		{Preset: "dataimpulse", Field: Password},
		{Preset: "brightdata", ID: &ID{"any", 1, 255}},
	} {
		list = append(list, compile(tb, cfg))
	}
	return list
}

// FuzzDialects holds every grammar's Parse against its Format.
func FuzzDialects(f *testing.F) {
	grammars := fuzzed(f)
	for i, name := range Presets() {
		for _, a := range speeches[name].accepted {
			text := a.username
			if grammars[i].InPassword() {
				text = a.password
			}
			f.Add(uint8(i), text)
		}
		for _, r := range speeches[name].refused {
			f.Add(uint8(i), r.username)
		}
	}
	for i := range grammars {
		f.Add(uint8(i), "U--a=x--c--b=--c--ab;;")
		f.Add(uint8(i), "U-session-a-const-session_x,session-1,auto.country=")
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		g := grammars[int(which)%len(grammars)]
		c, err := g.Parse(text)
		if err != nil {
			var reason *Error
			if !errors.Is(err, ErrMalformed) || !errors.As(err, &reason) || reason.Reason == "" || len(reason.Reason) > 400 {
				t.Fatalf("%q: not an error for a client: %v", text, err)
			}
			if c != (Credentials{}) {
				t.Fatalf("%q: credentials beside an error: %+v", text, c)
			}
			return
		}
		switch {
		case c.Account != "" && g.field != Username, c.Password != "" && g.field != Password:
			t.Fatalf("%q: %+v has what was not asked for", text, c)
		case g.HasAccount() && g.field == Username && c.Account == "":
			t.Fatalf("%q: no account", text)
		case c.TTL != 0 && (c.TTL < g.limits.MinTTL || c.TTL > g.limits.MaxTTL), c.MaxErrors < 0 || c.MaxErrors > 100, c.MaxIdle < 0 || c.Bind < 0:
			t.Fatalf("%q: %+v is out of bounds", text, c)
		case c.Session != "" && (checkText("", c.Session) != nil || g.id.check("", c.Session) != nil):
			t.Fatalf("%q: session %q", text, c.Session)
		case c.Gone && c.Mode != "norotate":
			t.Fatalf("%q: gone in mode %q", text, c.Mode)
		}
		for i, tag := range c.Tags.List() {
			if tag.Value == "" || !utf8.ValidString(tag.Value) || !g.HasTag(tag.Key) || i > 0 && tag.Key <= c.Tags[i-1].Key {
				t.Fatalf("%q: tags %v", text, c.Tags.List())
			}
		}
		if g.field == Username && g.head {
			if g.CheckAccount(c.Account) != nil {
				return
			}
		} else if at, form, _ := g.split(c.Password); g.head && form != nil && at < len(c.Password) {
			t.Fatalf("%q: the password %q holds parameters", text, c.Password)
		}
		if g.field == Password && !passwordIsWhole(g, c.Password) {
			return
		}
		canonical := g.Format(c)
		if len(canonical) > maxText {
			return
		}
		again, err := g.Parse(canonical)
		if err != nil || again != c {
			t.Fatalf("%q: Parse(%q) = %+v, %v, want %+v", text, canonical, again, err, c)
		}
		if got := g.Format(again); got != canonical {
			t.Fatalf("%q: canonical %q became %q", text, canonical, got)
		}
	})
}

// passwordIsWhole reports whether no parameter makes one of the password's end,
// as CheckAccount does for accounts.
func passwordIsWhole(g *Grammar, password string) bool {
	for i := range g.forms {
		f := &g.forms[i]
		for _, k := range g.keys {
			text := password + f.start + k.name
			if k.kind != kindFlag {
				text += f.assign
			}
			if at, _, _ := g.split(text); at != len(password) {
				return false
			}
		}
	}
	return true
}

// What is read is linear in the text: a grammar with many keys looks at each
// separator once, and at each key there.
func TestReadingDoesNotAllocate(t *testing.T) {
	for name, s := range speeches {
		g := compile(t, Config{Preset: name})
		for _, a := range s.accepted {
			if strings.Contains(a.username+a.password, "%") {
				continue
			}
			if n := testing.AllocsPerRun(100, func() {
				if _, err := g.Read(a.username, a.password, ""); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s: %s:%s: %v allocations", name, a.username, a.password, n)
			}
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for name, text := range map[string]string{
		"short": "alice-session-abc-sessionttl-30", "long": "alice-session-" + strings.Repeat("a-", 127) + "-sessionttl-30-sessionmode-flex-country-de-city-berlin",
		"separators": "alice-session-" + strings.Repeat("-", 255) + strings.Repeat("-sessio", 30),
	} {
		b.Run(name, func(b *testing.B) {
			g := mustPreset(b)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = g.Read(text, "secret", "")
			}
		})
	}
}
