// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnacknowledged gives a connection up whose peer acknowledges nothing for
// so long: keep-alive probes wait while data is on its way (RFC 5482).
func limitUnacknowledged(conn *net.TCPConn, limit time.Duration) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
}
