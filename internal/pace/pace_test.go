// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pace

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPaceIsKept(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	r, err := ParseRate("3/1m")
	require.NoError(t, err)
	var p Pace
	for range 3 {
		require.Zero(t, p.Allow(r, now))
	}
	require.Equal(t, 20*time.Second, p.Allow(r, now))
	require.False(t, p.Over(now))
	now = now.Add(20 * time.Second)
	require.Zero(t, p.Allow(r, now))
	require.Positive(t, p.Allow(r, now))
	now = now.Add(time.Hour)
	require.True(t, p.Over(now))
	for range 3 {
		require.Zero(t, p.Allow(r, now), "no more than a bucket full is saved")
	}
	require.Positive(t, p.Allow(r, now))
}

func TestRatesWithoutMeaningAreRefused(t *testing.T) {
	for _, text := range []string{"", "10", "10/", "/1m", "0/1m", "-1/1m", "10/0s", "10/-1m", "x/1m", "10/x", "9999999999/1s"} {
		_, err := ParseRate(text)
		require.ErrorContains(t, err, "is not a rate: write a number and a time, such as 10/1m", text)
	}
}
