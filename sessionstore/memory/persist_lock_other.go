// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix || solaris || aix

package memory

import "os"

// lockFile leaves the lock to bbolt. These systems do not rename a file that
// another process has open.
func lockFile(*os.File) error { return nil }
