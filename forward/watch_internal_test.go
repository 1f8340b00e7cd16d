// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import "time"

// The bubbles of internal/filewatch show what the interval means.
func init() { watchInterval = 50 * time.Millisecond }
