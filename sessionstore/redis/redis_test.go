// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package redis_test

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/redis"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/storetest"
)

// patient is a timeout for tests that are not about it: machines are busy.
const patient = caddy.Duration(20 * time.Second)

func startRedis(t testing.TB, r *redis.Store) *redis.Store {
	t.Helper()
	require.NoError(t, r.Provision(caddy.Context{}))
	require.NoError(t, r.Validate())
	require.NoError(t, r.Start())
	t.Cleanup(func() { require.NoError(t, r.Cleanup()) })
	return r
}

// oneOf returns a store with a connection of its own: its timeout is not that of
// any other.
func oneOf(t testing.TB, server *peer.Process, prefix string) *redis.Store {
	t.Helper()
	return startRedis(t, &redis.Store{
		Addresses: []string{server.Address}, Prefix: prefix, Timeout: patient + caddy.Duration(names.Add(1)),
	})
}

func TestRedisConforms(t *testing.T) {
	server := peer.Redis(t)
	storetest.RunRemote(t, 4*time.Second, func(t *testing.T) sessionstore.Store {
		t.Helper()
		return oneOf(t, server, fmt.Sprintf("test%d:", names.Add(1)))
	})
}

func BenchmarkRedisGet(b *testing.B) {
	r := oneOf(b, peer.Redis(b), "")
	_, _, err := r.Claim(b.Context(), binding("a", "x"))
	require.NoError(b, err)
	ctx, key := b.Context(), sessionstore.KeyOf("test", "a")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = r.Get(ctx, key)
	}
}

func BenchmarkRedisClaim(b *testing.B) {
	r := oneOf(b, peer.Redis(b), "")
	s := binding("", "x")
	b.ReportAllocs()
	var n uint64
	for b.Loop() {
		n++
		binary.LittleEndian.PutUint64(s.Key[:], n*0x9e3779b97f4a7c15)
		if _, won, err := r.Claim(b.Context(), s); err != nil || !won {
			b.Fatal(won, err)
		}
	}
}
