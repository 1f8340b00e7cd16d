// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package proxytest

// Slowdown makes tests smaller where the race detector makes them slow.
const Slowdown = 5
