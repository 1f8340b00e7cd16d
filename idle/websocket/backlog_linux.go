// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"net"

	"golang.org/x/sys/unix"
)

// kernelBacklog returns how many bytes the peer's system has taken, ever, and
// whether there are more that it has not (TCP_INFO, tcp(7)). False if the
// connection is closed or the system does not know.
func kernelBacklog(conn *net.TCPConn) (taken uint64, more, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false, false
	}
	var info *unix.TCPInfo
	var infoErr error
	if err := raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil || infoErr != nil {
		return 0, false, false
	}
	return info.Bytes_acked, info.Unacked > 0 || info.Notsent_bytes > 0, true
}
