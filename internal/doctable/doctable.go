// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package doctable reads tables of the documentation, for tests that compare them
// with the program.
package doctable

import (
	"os"
	"strings"
	"testing"

	"github.com/caddy-sticky/caddy-sticky/internal/closedset"
)

// Require fails if the table of a Markdown file whose first header cell is this one
// has other rows than these. A row is what stands between its first and its last |.
func Require(t testing.TB, path, header string, rows []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	found, inside := false, false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		row := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"))
		switch {
		case strings.HasPrefix(line, "| "+header+" |"):
			found, inside = true, true
		case inside && strings.HasPrefix(line, "|---"):
		case inside && strings.HasPrefix(line, "|"):
			got = append(got, row)
		default:
			inside = false
		}
	}
	if !found {
		t.Fatalf("%s has no table with the header %q", path, header)
	}
	if want := strings.Join(rows, "\n"); strings.Join(got, "\n") != want {
		t.Fatalf("the table %q of %s must be:\n| %s |", header, path, strings.Join(rows, " |\n| "))
	}
}

// Rows returns a row for each name of a set: the name and its meaning.
func Rows[T ~string](set []closedset.Member[T]) []string {
	rows := make([]string, len(set))
	for i, m := range set {
		rows[i] = "`" + string(m.Name) + "` | " + m.Meaning
	}
	return rows
}
