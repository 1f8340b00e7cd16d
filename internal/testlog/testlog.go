// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package testlog finds lines in logs of Caddy by their message and fields. The
// logs must be in Caddy's JSON format.
//
// Only tests import it.
package testlog

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Fields are fields of a line by their names in the log: "msg" is the message,
// "level" and "logger" are Caddy's. An object in a line is a Fields too.
type Fields map[string]any

// Lines returns the lines that have all of these fields, in the order of the log.
// Numbers are equal if they are written in the same way. Lines that are not JSON,
// such as the report of a data race, are skipped.
func Lines(log string, want Fields) []Fields {
	var found []Fields
	for text := range strings.Lines(log) {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber() // a float64 is not written as the log writes it
		var line Fields
		if decoder.Decode(&line) == nil && line.has(want) {
			found = append(found, line)
		}
	}
	return found
}

// has reports whether the line has all of these fields.
func (line Fields) has(want Fields) bool {
	for name, value := range want {
		got, ok := line[name]
		if !ok {
			return false
		}
		if inner, ok := value.(Fields); ok {
			object, ok := got.(map[string]any)
			if !ok || !Fields(object).has(inner) {
				return false
			}
			continue
		}
		if fmt.Sprint(got) != fmt.Sprint(value) {
			return false
		}
	}
	return true
}

// Text returns a field as text, "" if the line has no such field.
func (line Fields) Text(name string) string {
	value, ok := line[name]
	if !ok {
		return ""
	}
	return fmt.Sprint(value)
}
