// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
)

// foreign is an exit of another package.
type foreign struct{ exits.Options }

func (*foreign) Identity() string { return "foreign://" }

func (*foreign) Connect(context.Context, destination.Destination) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// bare is an exit without options.
type bare struct{ exits.Exit }

// An assertion of a method that another package does not see would be false, and
// each exit would lose its options in silence.
func TestOptionsOfEachKindArrive(t *testing.T) {
	options := exits.Options{Weight: 7}
	for _, exit := range []exits.Exit{
		&exits.Direct{Options: options}, &exits.HTTP{Options: options},
		&exits.HTTPS{HTTP: exits.HTTP{Options: options}}, &exits.SOCKS5{Options: options},
		&foreign{options},
	} {
		require.Equal(t, 7, exits.OptionsOf(exit).Weight, "%T", exit)
	}
	require.Zero(t, *exits.OptionsOf(&bare{}))
}
