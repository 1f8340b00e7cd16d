// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// newReservation is what another process has.
func newReservation(t *testing.T) *reservation {
	t.Helper()
	r := new(reservation)
	t.Cleanup(func() {
		for _, block := range r.blocks {
			_ = block.Close()
		}
	})
	return r
}

func TestPortIsGivenToOneTestOfOneProcess(t *testing.T) {
	given := make(map[int]bool)
	for _, r := range []*reservation{newReservation(t), newReservation(t), newReservation(t)} {
		for range 2 * blockSize {
			port, err := r.take()
			require.NoError(t, err)
			require.False(t, given[port], port)
			given[port] = true
		}
	}
}

func TestPortIsGivenAgainAfterItsTest(t *testing.T) {
	r := newReservation(t)
	first, err := r.take()
	require.NoError(t, err)
	r.put(first)
	for port := 0; port != first; {
		port, err = r.take()
		require.NoError(t, err)
	}
	require.Empty(t, r.free, "the other ports of the block are given first")
	require.Len(t, r.blocks, 1)
}

func TestPortThatAnotherProgramUsesIsNotGiven(t *testing.T) {
	r := newReservation(t)
	first, err := r.take()
	require.NoError(t, err)
	second, err := r.take()
	require.NoError(t, err)
	stream, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first))
	require.NoError(t, err)
	defer stream.Close()
	packets, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", second))
	require.NoError(t, err)
	defer packets.Close()
	r.free = append([]int{first, second}, r.free...)
	port, err := r.take()
	require.NoError(t, err)
	require.NotContains(t, []int{first, second}, port)
}
