// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"time"

	"github.com/caddy-sticky/caddy-sticky/internal/filewatch"
)

// The bubbles of internal/filewatch show what the interval means.
func init() { filewatch.Interval = 50 * time.Millisecond }
