// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
)

// An account with rules has transports of its own. They end with the exit, not
// with the account.
func TestDismissedExitClosesTheConnectionsOfAccounts(t *testing.T) {
	closed := make(chan struct{}, 1)
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	origin.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	origin.Start()
	defer origin.Close()

	rules := new(destination.Rules)
	o := &Outlet{transports: newTransports(newTransport(time.Second))}
	set := Set{members: map[*Outlet]func(){o: o.closeIdleConnections}}
	own := o.transportsFor(rules)
	require.NotSame(t, o.transports, own)
	require.Same(t, own, o.transportsFor(rules))
	require.Same(t, o.transports, o.transportsFor(nil))

	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, origin.URL, nil)
	require.NoError(t, err)
	res, err := own.of(r).RoundTrip(r)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())

	set.dismiss(o)
	select {
	case <-closed:
	case <-time.After(own.kept.IdleConnTimeout / 2):
		t.Fatal("the connection stays open, although its exit is gone")
	}
	require.NotSame(t, own, o.transportsFor(rules), "nothing of it is kept")
}
