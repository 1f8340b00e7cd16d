// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"testing"

	"github.com/caddy-sticky/caddy-sticky/internal/doctable"
)

func TestRejectionsAreDocumented(t *testing.T) {
	doctable.Require(t, "../../docs/caddyfile.md", "reason of a rejection", doctable.Rows(Rejections[:]))
}
