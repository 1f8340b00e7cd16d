// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// kernelSilence returns how long no byte moved, see SilenceOf. False if the
// connection is closed or the system does not know.
func kernelSilence(conn *net.TCPConn) (silence time.Duration, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	var infoErr error
	if err := raw.Control(func(fd uintptr) {
		silence, infoErr = SilenceOf(int(fd))
	}); err != nil || infoErr != nil {
		return 0, false
	}
	return silence, true
}

// SilenceOf returns how long no byte moved on a socket, to the jiffy (TCP_INFO,
// tcp(7)); a fresh connection counts from its handshake, and segments without
// data, such as keep-alive probes, do not count.
func SilenceOf(fd int) (time.Duration, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond, nil
}

// TellsSilenceOf reports whether the system tells the silence of a socket. It asks
// once for all of them.
func TellsSilenceOf(fd int) bool {
	if !tellsSilence.Load() {
		if _, err := SilenceOf(fd); err != nil {
			return false
		}
		tellsSilence.Store(true)
	}
	return true
}
