// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"net"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

func TestKeepAliveIsSetOnTheSocket(t *testing.T) {
	ln := listen(t, "tcp", time.Hour)
	ln.KeepAlive = &KeepAlive{Idle: caddy.Duration(7 * time.Second), Interval: caddy.Duration(3 * time.Second), Count: 5}
	_, server := conntest.Accept(t, ln)
	require.Equal(t, []int{1, 7, 3, 5, 22000}, keepAliveOf(t, server.(*tcpConn).TCPConn))
}

func keepAliveOf(t *testing.T, conn *net.TCPConn) (values []int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		for _, option := range [][2]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
		} {
			value, err := unix.GetsockoptInt(int(fd), option[0], option[1])
			require.NoError(t, err)
			values = append(values, value)
		}
	}))
	return values
}
