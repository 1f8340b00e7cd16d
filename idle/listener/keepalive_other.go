// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package listener

import (
	"net"
	"time"
)

// limitUnacknowledged does nothing: this system has its own limit.
func limitUnacknowledged(*net.TCPConn, time.Duration) {}
