// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-sticky/caddy-sticky"
)

const (
	// hash is that of the password secret.
	hash = "$2a$10$xjAxB6Y67jcnSvv7mbOsYOb2/5YzUbLfV04moY7NDVmaQ3KcigZ2W"

	// password is the one in all exits' URLs. No error may repeat it.
	password = "hunter2"
)

// optionKind says which arguments an option rejects. See mistakes.
type optionKind int

const (
	kindText        optionKind = iota // as many arguments as the example has
	kindList                          // one argument or more; repeatable
	kindFlag                          // no argument; those of an example are optional
	kindSwitch                        // one argument, which is optional
	kindNumber                        // a whole number above 0
	kindDuration                      // a duration above 0
	kindAnyDuration                   // a duration; Validate checks its range
)

// optionCase describes an option of a block. An empty field for an error means
// the error of package directive.
type optionCase struct {
	kind  optionKind
	valid string // an example of its arguments

	repeatable bool
	block      string // the block that it takes, as errors name it

	missing  string // the error if there is no argument
	surplus  string // the error if there is one more argument than in the example
	repeated string // the error if the option is given twice

	// malformed maps other arguments that the option rejects to the error.
	malformed map[string]string

	// foreign is the error for any use of the option. It is set if the option
	// belongs to exits of another scheme.
	foreign string
}

// optionBlock is a place in a Caddyfile where options stand.
type optionBlock struct {
	what    string   // the block's name in errors; empty if Caddy reads the block
	module  string   // the ID of the module that reads the block, if it is one of this project
	path    []string // the lines that open the block, outermost first
	options map[string]optionCase
}

// caddyfile returns a Caddyfile that has these lines in the block.
func (b optionBlock) caddyfile(lines ...string) string {
	var text strings.Builder
	for _, line := range b.path {
		text.WriteString(strings.TrimSpace(line+" {") + "\n")
	}
	for _, line := range lines {
		text.WriteString(line + "\n")
	}
	text.WriteString(strings.Repeat("}\n", len(b.path)))
	return text.String()
}

// adapt returns the error for a Caddyfile, if there is one.
func adapt(input string) error {
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	return err
}

// mistake is a wrong use of an option.
type mistake struct {
	name  string
	lines []string // the lines in the block
	at    int      // the index of the line that the error names
	want  string   // the error, without file and line
}

// mistakes returns each way to use an option that the option must reject.
func (b optionBlock) mistakes(name string, o optionCase) []mistake {
	line := strings.TrimSpace(name + " " + o.valid)
	if o.foreign != "" {
		return []mistake{{"foreign", []string{line}, 0, o.foreign}}
	}
	needsArgument := fmt.Sprintf("option %s needs an argument", name)
	var list []mistake
	if !o.argumentIsOptional() {
		list = append(list, mistake{"missing", []string{name}, 0, cmp.Or(o.missing, needsArgument)})
	}
	if o.kind != kindList && o.kind != kindFlag && o.missing == "" {
		list = append(list, mistake{"empty", []string{name + ` ""`}, 0, needsArgument})
	}
	if o.kind != kindList || o.surplus != "" {
		want := fmt.Sprintf("%s: surplus argument %q of option %s", b.what, "surplus", name)
		list = append(list, mistake{"surplus", []string{line + " surplus"}, 0, cmp.Or(o.surplus, want)})
	}
	if !o.isRepeatable() {
		want := fmt.Sprintf("%s: option %s is given twice", b.what, name)
		list = append(list, mistake{"repeated", []string{line, line}, 1, cmp.Or(o.repeated, want)})
	}
	if o.block == "" {
		want := fmt.Sprintf("%s: option %s takes no block", b.what, name)
		list = append(list, mistake{"block", []string{line + " {", "inner", "}"}, 1, want})
	}
	for argument, want := range o.rejectedValues(name) {
		list = append(list, mistake{argument, []string{name + " " + argument}, 0, want})
	}
	return list
}

func (o optionCase) argumentIsOptional() bool {
	return (o.kind == kindFlag || o.kind == kindSwitch) && o.missing == ""
}

func (o optionCase) isRepeatable() bool {
	return (o.repeatable || o.kind == kindList) && o.repeated == ""
}

// rejectedValues maps arguments that are malformed or out of range to the error.
func (o optionCase) rejectedValues(name string) map[string]string {
	values := make(map[string]string)
	if o.kind == kindNumber {
		for _, value := range []string{"few", "1.5", "1e6", "1s", "99999999999999999999"} {
			values[value] = fmt.Sprintf("%s %q is not a whole number", name, value)
		}
		values["0"] = name + " 0 must be positive"
		values["-1"] = name + " -1 must be positive"
	}
	if o.kind == kindDuration || o.kind == kindAnyDuration {
		for _, value := range []string{"soon", "15", "1.5"} {
			values[value] = fmt.Sprintf("%s %q is not a duration (like 30s or 15m)", name, value)
		}
	}
	if o.kind == kindDuration {
		values["0"] = name + " 0s must be positive"
		values["0s"] = name + " 0s must be positive"
		values["-1s"] = name + " -1s must be positive"
	}
	maps.Copy(values, o.malformed)
	return values
}

// requireRefused requires that the error is exactly the one of the mistake, with
// file and line.
func (b optionBlock) requireRefused(t *testing.T, m mistake) {
	t.Helper()
	input := b.caddyfile(m.lines...)
	err := adapt(input)
	require.Error(t, err, input)
	want := fmt.Sprintf("%s, at Caddyfile:%d", m.want, len(b.path)+1+m.at)
	require.True(t, strings.HasSuffix(err.Error(), ": "+want), "got  %s\nwant %s\nof\n%s", err, want, input)
	require.NotContains(t, err.Error(), password)
}

func TestEachOptionRefusesWrongArguments(t *testing.T) {
	for _, b := range optionBlocks() {
		for name, o := range b.options {
			for _, m := range b.mistakes(name, o) {
				t.Run(fmt.Sprintf("%s/%s/%s", strings.Join(b.path, "/"), name, m.name), func(t *testing.T) { b.requireRefused(t, m) })
			}
		}
	}
}

// An option takes its example, is repeatable and needs no argument where the
// table says so.
func TestEachOptionTakesItsExample(t *testing.T) {
	for _, b := range optionBlocks() {
		for name, o := range b.options {
			if o.foreign != "" {
				continue
			}
			line := name + " " + o.valid
			examples := [][]string{{line}}
			if o.isRepeatable() {
				examples = append(examples, []string{line, line})
			}
			if o.argumentIsOptional() {
				examples = append(examples, []string{name})
			}
			for _, lines := range examples {
				input := b.caddyfile(lines...)
				err := adapt(input)
				require.NoError(t, err, input)
			}
		}
	}
}

// The error for an unknown option lists all options of the block. The test
// fails if an option is not in the table.
func TestEachBlockRefusesUnknownOptions(t *testing.T) {
	for _, b := range optionBlocks() {
		if b.what == "" {
			continue
		}
		t.Run(strings.Join(b.path, "/"), func(t *testing.T) {
			want := b.what + " takes no options"
			if len(b.options) > 0 {
				want = fmt.Sprintf("%s: unknown option colour (have %s)", b.what, strings.Join(slices.Sorted(maps.Keys(b.options)), ", "))
			}
			b.requireRefused(t, mistake{lines: []string{"colour blue"}, want: want})
		})
	}
}

// Each module of this project that reads a Caddyfile is in the table, and so is
// each block that an option takes.
func TestEachBlockIsInTheTable(t *testing.T) {
	var modules, blocks []string
	for _, b := range optionBlocks() {
		modules = append(modules, b.module)
		blocks = append(blocks, b.what)
	}
	for _, b := range optionBlocks() {
		for name, o := range b.options {
			if o.block != "" {
				require.Contains(t, blocks, o.block, "the block of %s", name)
			}
		}
	}
	for _, id := range caddy.Modules() {
		info, err := caddy.GetModule(id)
		require.NoError(t, err)
		mod := info.New()
		ours := strings.HasPrefix(reflect.Indirect(reflect.ValueOf(mod)).Type().PkgPath(), "github.com/caddy-sticky/caddy-sticky/")
		if _, ok := mod.(caddyfile.Unmarshaler); ok && ours {
			require.Contains(t, modules, id)
		}
	}
}
