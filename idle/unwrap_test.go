// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/conntest"
)

func TestHalfCloserLooksThroughWrappers(t *testing.T) {
	type wrapper struct{ net.Conn }
	type named struct {
		conntest.Broken
		Inner net.Conn
	}
	inner := &conntest.HalfPipe{}
	require.NotNil(t, halfCloser(inner))
	require.NotNil(t, halfCloser(wrapper{inner}))
	require.NotNil(t, halfCloser(&wrapper{&wrapper{inner}}))
	require.Nil(t, halfCloser(wrapper{}))
	peer, _ := net.Pipe()
	defer peer.Close()
	require.Nil(t, halfCloser(wrapper{peer}))
	require.Nil(t, Unwrap((*wrapper)(nil)))
	require.Nil(t, halfCloser(named{Inner: inner}), "a field that is not embedded may be anything")
}

func TestHalfCloserNeverSkipsTLS(t *testing.T) {
	inner := &conntest.HalfPipe{}
	require.NotNil(t, halfCloser(hidingConn{inner: inner}))
	require.Nil(t, halfCloser(tlsHidingConn{hidingConn{inner: inner}}))
}

type hidingConn struct {
	conntest.Broken
	inner net.Conn
}

func (c hidingConn) NetConn() net.Conn { return c.inner }

// tlsHidingConn is TLS without CloseWrite around a connection with it.
type tlsHidingConn struct{ hidingConn }

func (tlsHidingConn) ConnectionState() (s tls.ConnectionState) { return s }
