// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"time"

	"golang.org/x/sys/unix"
)

// kernelClock says that the system knows when a TCP connection's last byte
// moved (TCP_INFO, tcp(7)).
const kernelClock = true

// silence returns how long no byte moved, to the millisecond; false if the
// connection is closed.
func (c *tcpConn) silence() (time.Duration, bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info *unix.TCPInfo
	var infoErr error
	if err := raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil || infoErr != nil {
		return 0, false
	}
	return time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond, true
}
