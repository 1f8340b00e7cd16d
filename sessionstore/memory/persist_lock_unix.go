// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix && !solaris && !aix

package memory

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes the lock that bbolt will take once more, on the same open
// file: what is done before bbolt reads it is done under the lock.
func lockFile(file *os.File) error {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errLocked
	}
	return err
}
