// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection_test

import (
	"testing"

	"github.com/caddy-sticky/caddy-sticky/internal/doctable"
	"github.com/caddy-sticky/caddy-sticky/selection"
)

func TestOutcomesAndReasonsAreDocumented(t *testing.T) {
	const path = "../docs/caddyfile.md"
	doctable.Require(t, path, "outcome", doctable.Rows(selection.Outcomes[:]))
	doctable.Require(t, path, "reason", doctable.Rows(selection.Reasons[1:])) // the first one is none
}
