// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bindWithoutPort makes the system choose the port when the destination is
// known (IP_BIND_ADDRESS_NO_PORT, ip(7)). Else each connection from a source
// address would take one of its 28,000 ports for itself, whatever it leads to.
func bindWithoutPort(_, _ string, conn syscall.RawConn) error {
	// A system that does not have the option does without.
	return conn.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}
