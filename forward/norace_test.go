// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package forward_test

// Slowdown is what it is under the race detector, see race_test.go.
const Slowdown = 1
