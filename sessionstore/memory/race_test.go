// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package memory_test

// slowdown makes tests smaller where the race detector makes them slow.
const slowdown = 10
