// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/forward/exits"
)

func TestRateFillsEvenly(t *testing.T) {
	o := &exits.Options{Rate: "10/1s"}
	require.NoError(t, o.Compile())
	tg := &Target{Outlet: &Outlet{opts: o, state: new(exitState)}}
	for range 10 {
		require.False(t, tg.Limited())
		tg.Take()
	}
	require.True(t, tg.Limited())
	tg.state.taken.Add(-int64(100 * time.Millisecond))
	require.False(t, tg.Limited())
}
