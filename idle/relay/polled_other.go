// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package relay

import "context"

// startPolled is false: on this system goroutines carry tunnels.
func startPolled(context.Context, Tunnel, func(Result)) bool { return false }
