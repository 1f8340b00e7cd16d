// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

// Reader is an option that reads an exit of any kind and adds it to a list.
func Reader(to *[]json.RawMessage) directive.Option {
	return directive.Repeat(directive.FuncWithBlock(func(d *caddyfile.Dispenser) error {
		exit, err := readExit(d, len(*to)+1)
		if err == nil {
			*to = append(*to, exit)
		}
		return err
	}))
}

// readExit reads an exit, the one of this number.
func readExit(d *caddyfile.Dispenser, number int) (json.RawMessage, error) {
	var url string
	if !d.AllArgs(&url) {
		return nil, d.Err("exit takes one argument, a URL such as direct:// or socks5://berlin.exits.example:1080")
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return nil, d.Errf("exit %d is not a URL: write it with a scheme, such as http:// or direct://", number)
	}
	scheme = strings.ToLower(scheme)
	if err := checkScheme(scheme); err != nil {
		return nil, d.Errf("exit %d: %v", number, err)
	}
	exit := exitLine{URL: scheme + "://" + rest}
	err := directive.Block(d, "exit", directive.Options{
		"weight":          directive.Int(&exit.Weight),
		"max_sessions":    directive.Int(&exit.MaxSessions),
		"rate":            directive.String(&exit.Rate),
		"tag":             directive.Repeat(directive.Func(exit.readTag)),
		"check":           directive.Func(exit.readCheck),
		"slots":           directive.Int(&exit.Slots),
		"interface":       exit.of("direct", directive.String(&exit.Interface)),
		"tls_server_name": exit.of("https", directive.String(&exit.TLSServerName)),
		"tls_trust":       exit.of("https", directive.Strings(&exit.TLSTrust)),
		"tls_insecure":    exit.of("https", directive.Flag(&exit.TLSInsecure)),
	})
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(exit, "exit", scheme, nil), nil
}

// exitLine is an exit of any kind as the Caddyfile has it.
type exitLine struct {
	URL string `json:"url"`
	Options
	Interface     string   `json:"interface,omitempty"`
	TLSServerName string   `json:"tls_server_name,omitempty"`
	TLSTrust      []string `json:"tls_trust,omitempty"`
	TLSInsecure   bool     `json:"tls_insecure,omitempty"`
}

// of is an option that exits of one kind have.
func (e *exitLine) of(scheme string, option directive.Option) directive.Option {
	if strings.HasPrefix(e.URL, scheme+"://") {
		return option
	}
	return directive.Func(func(d *caddyfile.Dispenser) error {
		return d.Errf("option %s is for %s:// exits", d.Val(), scheme)
	})
}

func (e *exitLine) readTag(d *caddyfile.Dispenser) error {
	var key, value string
	if !d.AllArgs(&key, &value) {
		return d.Err("tag takes a key and a value, such as tag country de")
	}
	if e.Tags == nil {
		e.Tags = make(map[string][]string)
	}
	e.Tags[key] = append(e.Tags[key], value)
	return nil
}

func (e *exitLine) readCheck(d *caddyfile.Dispenser) error {
	var url, interval string
	if !d.AllArgs(&url, &interval) {
		return d.Err("check takes a URL and an interval, such as check https://example.com/ 30s")
	}
	every, err := caddy.ParseDuration(interval)
	if err != nil {
		return d.Errf("check: %q is not a duration, such as 30s", interval)
	}
	e.Check = &Check{URL: url, Interval: caddy.Duration(every)}
	return nil
}

// ReadLine makes of a line what the Caddyfile's exit would be in JSON.
func ReadLine(line string) (json.RawMessage, error) {
	words, err := caddyfile.Tokenize([]byte(line), "exits_file")
	if err != nil {
		return nil, err
	}
	if len(words) == 0 {
		return nil, errors.New("it has no URL")
	}
	tokens := []caddyfile.Token{{Text: "exit", Line: 1}, {Text: words[0].Text, Line: 1}}
	if len(words) > 1 {
		tokens = append(tokens, caddyfile.Token{Text: "{", Line: 1})
		at := 1
		for rest := words[1:]; len(rest) > 0; {
			n, known := exitOptionArgs[rest[0].Text]
			if !known || len(rest) <= n {
				return nil, fmt.Errorf("option %q is unknown, or its arguments are missing", rest[0].Text)
			}
			at++
			for _, word := range rest[:n+1] {
				tokens = append(tokens, caddyfile.Token{Text: word.Text, Line: at})
			}
			rest = rest[n+1:]
		}
		tokens = append(tokens, caddyfile.Token{Text: "}", Line: at + 1})
	}
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	exit, err := readExit(d, 1)
	if err != nil {
		// The dispenser adds where it is, which is no place in the file.
		text, _, _ := strings.Cut(err.Error(), ", at ")
		return nil, errors.New(text)
	}
	return exit, nil
}

// exitOptionArgs is how many arguments an exit's options have.
var exitOptionArgs = map[string]int{
	"weight": 1, "max_sessions": 1, "rate": 1, "tag": 2, "slots": 1, "interface": 1, "check": 2,
	"tls_server_name": 1, "tls_trust": 1, "tls_insecure": 0,
}
