// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package exits

import "syscall"

// bindWithoutPort has nothing to ask of this system.
func bindWithoutPort(_, _ string, _ syscall.RawConn) error { return nil }

// bindToInterface is refused where an exit is read, see Direct.
func bindToInterface(string) func(network, address string, conn syscall.RawConn) error {
	return bindWithoutPort
}
