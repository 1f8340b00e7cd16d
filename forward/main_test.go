// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import "testing"

func TestMain(m *testing.M) { Main(m) }
