// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/internal/closedset"
)

const tokenScope = "lb/shop"

// givenKeys are started keys of a configuration.
func givenKeys(t testing.TB, secrets ...string) *Keys {
	t.Helper()
	k, err := NewKeys(KeysConfig{Given: secrets, Logger: zap.NewNop()})
	require.NoError(t, err)
	require.NoError(t, k.Start())
	t.Cleanup(func() { require.NoError(t, k.Cleanup()) })
	return k
}

const (
	oneSecret   = "a secret of thirty-two bytes ..."
	otherSecret = "another secret, as long as that."
)

func token(now time.Time) Token {
	return Token{
		ID: [16]byte{1, 2, 3}, Created: now.Add(-time.Minute), Expires: now.Add(14 * time.Minute), Seen: now.Add(-time.Second),
	}
}

func seal(t testing.TB, k *Keys, scope string, token Token, target string) string {
	t.Helper()
	value, err := k.Seal(context.Background(), scope, token, target)
	require.NoError(t, err)
	return value
}

func TestTokenComesBackAsItWas(t *testing.T) {
	k, now := givenKeys(t, oneSecret), time.Now()
	sealed := token(now)
	value := seal(t, k, tokenScope, sealed, "app1:8080")
	require.Len(t, value, tokenLength)
	require.NotContains(t, value, "app1")

	got, rejection := k.Open(t.Context(), tokenScope, value, now)
	require.Empty(t, rejection)
	require.Equal(t, sealed.ID, got.ID)
	require.True(t, sealed.Created.Equal(got.Created), "to the nanosecond")
	require.True(t, sealed.Expires.Equal(got.Expires))
	require.WithinDuration(t, sealed.Seen, got.Seen, time.Second)
	require.Equal(t, "app1:8080", k.Target(got, slices.Values([]string{"app2:8080"})), "it was hashed before")
	again := givenKeys(t, oneSecret) // another process
	got, rejection = again.Open(t.Context(), tokenScope, value, now)
	require.Empty(t, rejection)
	require.Empty(t, again.Target(got, slices.Values([]string{"app2:8080"})))
	require.Equal(t, "app1:8080", again.Target(got, slices.Values([]string{"app2:8080", "app1:8080"})))
}

func TestTokenIsRejectedForWhatItIs(t *testing.T) {
	k, now := givenKeys(t, oneSecret), time.Now()
	value := seal(t, k, tokenScope, token(now), "a")
	foreign := seal(t, givenKeys(t, otherSecret), tokenScope, token(now), "a")
	over := token(now)
	over.Expires = now
	future := token(now)
	future.Created = now.Add(2 * time.Minute)
	early := token(now)
	early.Created = now.Add(30 * time.Second)
	// The last character stands for four bits: this one has others as well.
	unusual := value[:len(value)-1] + string(value[len(value)-1]+1)

	for _, test := range []struct {
		name, value string
		want        Rejection
	}{
		{"nothing", "", RejectGarbage},
		{"another prefix", "s2." + value[3:], RejectGarbage},
		{"the prefix", "s1.", RejectTruncated},
		{"truncated", value[:len(value)-1], RejectTruncated},
		{"one more", value + "A", RejectOversized},
		{"huge", "s1." + strings.Repeat("A", 1<<20), RejectOversized},
		{"not base64", "s1." + strings.Repeat("*", tokenLength-3), RejectGarbage},
		{"line breaks", "s1." + strings.Repeat("\n", tokenLength-3), RejectGarbage},
		{"another spelling", unusual, RejectGarbage},
		{"an unknown key", foreign, RejectKey},
		{"another policy's", seal(t, k, "lb/other", token(now), "a"), RejectPolicy},
		{"over", seal(t, k, tokenScope, over, "a"), RejectExpired},
		{"not begun", seal(t, k, tokenScope, future, "a"), RejectFuture},
		{"sealed where clocks are a little ahead", seal(t, k, tokenScope, early, "a"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, rejection := k.Open(t.Context(), tokenScope, test.value, now)
			require.Equal(t, test.want, rejection)
		})
	}
}

func TestEveryChangeOfATokenIsNoticed(t *testing.T) {
	k, now := givenKeys(t, oneSecret), time.Now()
	value := seal(t, k, tokenScope, token(now), "a")
	raw, err := base64.RawURLEncoding.DecodeString(value[len(Prefix):])
	require.NoError(t, err)
	for i := range len(raw) * 8 {
		raw[i/8] ^= 1 << (i % 8)
		forged := Prefix + base64.RawURLEncoding.EncodeToString(raw)
		raw[i/8] ^= 1 << (i % 8)
		got, rejection := k.Open(t.Context(), tokenScope, forged, now)
		require.Contains(t, []Rejection{RejectForged, RejectKey, RejectPolicy}, rejection, "bit %d", i)
		require.Zero(t, got)
	}
}

func TestExpiredTokenSaysWhereTheClientWas(t *testing.T) {
	k, now := givenKeys(t, oneSecret), time.Now()
	value := seal(t, k, tokenScope, token(now), "a")
	got, rejection := k.Open(t.Context(), tokenScope, value, now.Add(time.Hour))
	require.Equal(t, RejectExpired, rejection)
	require.Equal(t, "a", k.Target(got, slices.Values([]string{"a"})))
}

func TestGivenKeysAreChangedOneAfterTheOther(t *testing.T) {
	now := time.Now()
	before, during, after := givenKeys(t, oneSecret), givenKeys(t, otherSecret, oneSecret), givenKeys(t, otherSecret)
	old := seal(t, before, tokenScope, token(now), "a")
	fresh := seal(t, during, tokenScope, token(now), "a")
	for _, test := range []struct {
		keys  *Keys
		value string
		want  Rejection
	}{
		{before, old, ""},
		{during, old, ""},
		{after, old, RejectKey},
		{before, fresh, RejectKey},
		{during, fresh, ""},
		{after, fresh, ""},
	} {
		_, rejection := test.keys.Open(t.Context(), tokenScope, test.value, now)
		require.Equal(t, test.want, rejection)
	}
}

// Only what Seal made is opened, in the one spelling that it has.
func FuzzOpen(f *testing.F) {
	// A fixed time, because each process that fuzzes makes the value anew.
	k, now := givenKeys(f, oneSecret), time.Unix(1_800_000_000, 0)
	value := seal(f, k, tokenScope, token(now), "a")
	f.Add(value, "lb/shop")
	f.Add(value, "lb/other")
	f.Add(value[:40], "lb/shop")
	f.Add(strings.ToLower(value), "lb/shop")
	f.Add("s1."+strings.Repeat("A", tokenLength-3), "")
	f.Fuzz(func(t *testing.T, text, scope string) {
		got, rejection := k.Open(t.Context(), scope, text, now)
		if rejection == "" {
			require.Equal(t, value, text)
			require.Equal(t, tokenScope, scope)
			return
		}
		require.GreaterOrEqual(t, closedset.Index(Rejections[:], rejection), 0, rejection)
		require.Zero(t, got, "nothing else was sealed, not even an expired one")
	})
}

func BenchmarkTokenOpen(b *testing.B) {
	k, now := givenKeys(b, oneSecret), time.Now()
	value := seal(b, k, tokenScope, token(now), "app1:8080")
	b.ReportAllocs()
	for b.Loop() {
		if _, rejection := k.Open(b.Context(), tokenScope, value, now); rejection != "" {
			b.Fatal(rejection)
		}
	}
}

func BenchmarkTokenSeal(b *testing.B) {
	k, t := givenKeys(b, oneSecret), token(time.Now())
	b.ReportAllocs()
	for b.Loop() {
		_, _ = k.Seal(b.Context(), tokenScope, t, "app1:8080")
	}
}
