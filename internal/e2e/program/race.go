// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package program

// buildFlags make the program under test look for races when the tests do.
var buildFlags = []string{"-race"}
