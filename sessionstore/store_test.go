// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

func TestKeyPartsDoNotRunTogether(t *testing.T) {
	require.NotEqual(t, sessionstore.KeyOf("a", "bc"), sessionstore.KeyOf("ab", "c"))
	require.NotEqual(t, sessionstore.KeyOf("a"), sessionstore.KeyOf("a", ""))
}

func BenchmarkKeyOf(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = sessionstore.KeyOf("lb/shop", "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12")
	}
}
