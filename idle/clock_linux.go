// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// kernelSilence returns how long no byte moved, to the jiffy (TCP_INFO, tcp(7));
// a fresh connection counts from its handshake, and segments without data, such
// as keep-alive probes, do not count. False if the connection is closed or the
// system does not know.
func kernelSilence(conn *net.TCPConn) (time.Duration, bool) {
	raw, err := conn.SyscallConn()
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
