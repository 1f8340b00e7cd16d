// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package directive reads blocks of options from a Caddyfile.
//
// A block is a table from an option's name to what reads its arguments:
//
//	directive.Block(d, "store memory", directive.Options{
//		"name":         directive.String(&m.Name),
//		"max_sessions": directive.Int(&m.MaxSessions),
//		"persist":      directive.String(&m.Persist),
//	})
//
// Missing, surplus, repeated, malformed and unknown ones are refused here, in
// one way for all directives. What a value means is not checked: that is
// Validate's business, because JSON needs it as well.
package directive

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Option reads one option, whose name is the dispenser's current token.
type Option struct {
	read       func(d *caddyfile.Dispenser) error
	repeatable bool
	takesBlock bool
}

// Options maps an option's name to what reads it.
type Options map[string]Option

// Block reads the block at the dispenser's position, if there is one. What
// names the directive in errors.
func Block(d *caddyfile.Dispenser, what string, options Options) error {
	if d.NextArg() {
		return d.Errf("%s: surplus argument %q", what, d.Val())
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		option, ok := options[name]
		if !ok && len(options) == 0 {
			return d.Errf("%s takes no options", what)
		}
		if !ok {
			return d.Errf("%s: unknown option %s (have %s)", what, name,
				strings.Join(slices.Sorted(maps.Keys(options)), ", "))
		}
		if seen[name] && !option.repeatable {
			return d.Errf("%s: option %s is given twice", what, name)
		}
		seen[name] = true
		here := d.Nesting()
		if err := option.read(d); err != nil {
			return err
		}
		if option.takesBlock {
			continue
		}
		if d.NextArg() {
			return d.Errf("%s: surplus argument %q of option %s", what, d.Val(), name)
		}
		if d.NextBlock(here) {
			return d.Errf("%s: option %s takes no block", what, name)
		}
	}
	return nil
}

// Repeat makes an option that may be given several times.
func Repeat(o Option) Option {
	o.repeatable = true
	return o
}

// Func makes an option of a function that reads the arguments it wants.
func Func(read func(d *caddyfile.Dispenser) error) Option { return Option{read: read} }

// FuncWithBlock makes an option of a function that reads its arguments and a
// block, all of them.
func FuncWithBlock(read func(d *caddyfile.Dispenser) error) Option {
	return Option{read: read, takesBlock: true}
}

// String reads one argument.
func String[T ~string](to *T) Option {
	return Func(func(d *caddyfile.Dispenser) error {
		value, err := Argument(d)
		*to = T(value)
		return err
	})
}

// Strings reads one argument or more, and appends them.
func Strings(to *[]string) Option {
	return Option{repeatable: true, read: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return d.Errf("option %s needs an argument", d.Val())
		}
		*to = append(*to, d.Val())
		*to = append(*to, d.RemainingArgs()...)
		return nil
	}}
}

// Line reads what has arguments and no options.
func Line(d *caddyfile.Dispenser, to ...*string) error {
	d.Next()
	name := d.Val()
	for _, argument := range to {
		if !d.NextArg() || d.Val() == "" {
			return d.Errf("%s needs an argument", name)
		}
		*argument = d.Val()
	}
	return Block(d, name, nil)
}

// Flag reads no argument; that it is there is all.
func Flag(to *bool) Option {
	return Func(func(*caddyfile.Dispenser) error {
		*to = true
		return nil
	})
}

// Switch reads a word such as on or off; without an argument it is on.
func Switch(to *string) Option {
	return Func(func(d *caddyfile.Dispenser) error {
		if *to = "on"; d.CountRemainingArgs() == 0 {
			return nil
		}
		var err error
		*to, err = Argument(d)
		return err
	})
}

// Int reads a whole number above 0.
func Int(to *int) Option {
	return Func(func(d *caddyfile.Dispenser) error {
		name := d.Val()
		value, err := Argument(d)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return d.Errf("%s %q is not a whole number", name, value)
		}
		if n <= 0 {
			return d.Errf("%s %d must be positive", name, n)
		}
		*to = n
		return nil
	})
}

// Duration reads a duration such as 90s or 15m. It must be positive: in these
// options, zero is how JSON says "default".
func Duration(to *caddy.Duration) Option {
	return Func(func(d *caddyfile.Dispenser) error { return ReadDuration(d, to) })
}

// ReadDuration reads the argument of Duration.
func ReadDuration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	name := d.Val()
	value, err := Argument(d)
	if err == nil {
		*to, err = positive(d, name, value)
	}
	return err
}

// DurationOrOff reads a duration as Duration does, or the word off, which is
// zero.
func DurationOrOff(to **caddy.Duration) Option {
	return Func(func(d *caddyfile.Dispenser) error {
		name := d.Val()
		value, err := Argument(d)
		var duration caddy.Duration
		if err == nil && value != "off" {
			duration, err = positive(d, name, value)
		}
		*to = &duration
		return err
	})
}

// OptionalDuration reads a duration whose absence differs from its zero.
func OptionalDuration(to **caddy.Duration) Option {
	return Func(func(d *caddyfile.Dispenser) error {
		duration, err := duration(d)
		*to = (*caddy.Duration)(&duration)
		return err
	})
}

// duration reads the argument of an option.
func duration(d *caddyfile.Dispenser) (time.Duration, error) {
	name := d.Val()
	value, err := Argument(d)
	if err != nil {
		return 0, err
	}
	return parseDuration(d, name, value)
}

func parseDuration(d *caddyfile.Dispenser, name, value string) (time.Duration, error) {
	duration, err := caddy.ParseDuration(value)
	if err != nil {
		return 0, d.Errf("%s %q is not a duration (like 30s or 15m)", name, value)
	}
	return duration, nil
}

func positive(d *caddyfile.Dispenser, name, value string) (caddy.Duration, error) {
	duration, err := parseDuration(d, name, value)
	if err == nil && duration <= 0 {
		return 0, d.Errf("%s %s must be positive", name, duration)
	}
	return caddy.Duration(duration), err
}

// Argument returns the next argument on the line, which is not empty.
func Argument(d *caddyfile.Dispenser) (string, error) {
	name := d.Val()
	if !d.NextArg() || d.Val() == "" {
		return "", d.Errf("option %s needs an argument", name)
	}
	return d.Val(), nil
}
