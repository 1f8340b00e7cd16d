// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package idle

import "time"

// kernelClock says that this system does not tell when a connection's last byte
// moved; connections count for themselves.
const kernelClock = false

func (c *tcpConn) silence() (time.Duration, bool) { return 0, false }
