// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/idle"
	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

func TestProcessWaitsForItsTunnels(t *testing.T) {
	w := start(t.Context(), t, time.Hour, conntest.Sockets)
	w.send(w.client, w.target, "hello")
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan struct{})
	go func() {
		Drain(ctx)
		close(drained)
	}()
	w.send(w.target, w.client, "still here")
	select {
	case <-drained:
		t.Fatal("the process did not wait")
	default:
	}
	cancel()
	<-drained
	require.Equal(t, idle.Drained, (<-w.done).Reason)
	_, err := w.client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	Drain(t.Context()) // nothing is left to wait for
}
