// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var names atomic.Int64

func open(t testing.TB, size int) *memory.Store {
	t.Helper()
	m := &memory.Store{Name: fmt.Sprintf("test-%d", names.Add(1)), MaxSessions: size, Persist: "off"}
	require.NoError(t, m.Provision(caddy.Context{}))
	require.NoError(t, m.Validate())
	require.NoError(t, m.Start())
	t.Cleanup(func() { require.NoError(t, m.Cleanup()) })
	return m
}

func binding(id string, target string) sessionstore.Session {
	now := time.Now()
	return sessionstore.Session{
		Key: sessionstore.KeyOf("test", id), Scope: "lb/test", Target: target,
		Created: now, Expires: now.Add(15 * time.Minute),
	}
}
