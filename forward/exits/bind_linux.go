// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
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

// bindToInterface makes connections leave by an interface (SO_BINDTODEVICE,
// socket(7)), wherever the routes lead. Its errors are the exit's.
func bindToInterface(name string) func(network, address string, conn syscall.RawConn) error {
	return func(network, address string, conn syscall.RawConn) error {
		if err := bindWithoutPort(network, address, conn); err != nil {
			return err
		}
		var failed error
		if err := conn.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), name) }); err != nil {
			return err
		}
		if failed != nil {
			return &proxystatus.ExitError{Kind: "proxy_configuration_error", Err: fmt.Errorf("interface %s: %w", name, failed)}
		}
		return nil
	}
}
