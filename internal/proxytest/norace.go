// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package proxytest

// Slowdown is what it is under the race detector, see race.go.
const Slowdown = 1
