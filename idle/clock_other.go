// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package idle

import (
	"net"
	"time"
)

// kernelSilence is false: this system does not tell, and connections count for
// themselves.
func kernelSilence(*net.TCPConn) (time.Duration, bool) { return 0, false }
