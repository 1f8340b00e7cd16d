// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts_test

import (
	"testing"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }
