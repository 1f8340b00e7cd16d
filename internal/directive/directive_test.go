// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package directive

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"
)

type config struct {
	Name  string
	Count int
	TTL   caddy.Duration
	Tags  []string
	On    bool
	Via   string
	Inner string
}

func parse(input string) (config, error) {
	var c config
	d := caddyfile.NewTestDispenser(input)
	d.Next()
	err := Block(d, "thing", Options{
		"name":  String(&c.Name),
		"count": Int(&c.Count),
		"ttl":   Duration(&c.TTL),
		"tags":  Strings(&c.Tags),
		"on":    Flag(&c.On),
		"via":   Switch(&c.Via),
		"inner": FuncWithBlock(func(d *caddyfile.Dispenser) error {
			return Block(d, "inner", Options{"name": String(&c.Inner)})
		}),
	})
	return c, err
}

func TestBlockReadsItsOptions(t *testing.T) {
	c, err := parse("thing {\n name a\n count 3\n ttl 15m\n tags x y\n tags z\n on\n inner {\n name b\n }\n}")
	require.NoError(t, err)
	require.Equal(t, config{"a", 3, caddy.Duration(15 * time.Minute), []string{"x", "y", "z"}, true, "", "b"}, c)
}

func TestSwitchWithoutAnArgumentIsOn(t *testing.T) {
	for input, want := range map[string]string{
		"thing {\n via\n}": "on", "thing {\n via off\n}": "off", "thing {\n via auto\n}": "auto", "thing": "",
	} {
		c, err := parse(input)
		require.NoError(t, err)
		require.Equal(t, want, c.Via, input)
	}
}

func TestBlockMayBeAbsent(t *testing.T) {
	c, err := parse("thing")
	require.NoError(t, err)
	require.Zero(t, c)
}

func TestBlockRefuses(t *testing.T) {
	for input, want := range map[string]string{
		"thing {\n named a\n}":             "thing: unknown option named (have count, inner, name, on, tags, ttl, via)",
		"thing {\n name\n}":                "option name needs an argument",
		"thing {\n name a b\n}":            `thing: surplus argument "b" of option name`,
		"thing {\n name a\n name b\n}":     "thing: option name is given twice",
		"thing {\n on yes\n}":              `thing: surplus argument "yes" of option on`,
		"thing {\n count many\n}":          `count "many" is not a whole number`,
		"thing {\n count 0\n}":             "count 0 must be positive",
		"thing {\n ttl long\n}":            `ttl "long" is not a duration (like 30s or 15m)`,
		"thing {\n ttl 0\n}":               "ttl 0s must be positive",
		"thing {\n ttl -5m\n}":             "ttl -5m0s must be positive",
		"thing {\n via on off\n}":          `thing: surplus argument "off" of option via`,
		"thing {\n via \"\"\n}":            "option via needs an argument",
		"thing {\n tags\n}":                "option tags needs an argument",
		"thing {\n name a {\n x\n }\n}":    "thing: option name takes no block",
		"thing {\n inner {\n other\n }\n}": "inner: unknown option other (have name)",
	} {
		_, err := parse(input)
		require.ErrorContains(t, err, want, input)
	}
}
