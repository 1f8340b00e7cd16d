// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package websocket

import "net"

// kernelBacklog is false: this system does not tell.
func kernelBacklog(*net.TCPConn) (taken uint64, more, ok bool) { return 0, false, false }
