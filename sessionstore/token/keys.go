// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// DefaultKeyRotation is how long a generated key seals new tokens.
	DefaultKeyRotation = 30 * 24 * time.Hour

	// minGivenKey is the shortest secret that is taken from a configuration:
	// whoever can try all of them can seal tokens.
	minGivenKey = 16
)

// Keys seals the tokens that clients carry, and opens them. The keys are given,
// or generated and kept in Caddy's storage, so that all machines that share it
// read each other's tokens.
//
// NewKeys and Accept only read; Start may write. Calls before Start wait for it
// within the limits of sessionstore.Store.
type Keys struct {
	given    []*tokenKey
	rotation time.Duration
	storage  certmagic.Storage
	logger   *zap.Logger

	accept atomic.Int64 // nanoseconds: the longest lifetime of any token
	ready  *sessionstore.Latch
	ring   atomic.Pointer[ring]
	stop   sync.Once
}

// KeysConfig says where keys come from.
type KeysConfig struct {
	// Given are secrets of at least 16 bytes. The first one seals, all of them
	// open. None: keys are generated and kept in Storage.
	Given []string

	// Rotation is how long a generated key seals before the next one does.
	// Zero: DefaultKeyRotation.
	Rotation time.Duration

	// Storage is Caddy's.
	Storage certmagic.Storage

	Logger *zap.Logger
}

// NewKeys checks the configuration. It takes nothing and writes nothing.
func NewKeys(config KeysConfig) (*Keys, error) {
	k := &Keys{rotation: config.Rotation, storage: config.Storage, logger: config.Logger, ready: sessionstore.NewLatch()}
	if k.rotation == 0 {
		k.rotation = DefaultKeyRotation
	}
	switch {
	case k.rotation < minRotation:
		return nil, fmt.Errorf("key_rotation is %s, it must be at least %s", k.rotation, minRotation)
	case len(config.Given) > 0 && config.Rotation != 0:
		return nil, errors.New("key_rotation has no meaning for cookie_keys that are given: leave one of them out")
	}
	for i, secret := range config.Given {
		if len(secret) < minGivenKey {
			return nil, fmt.Errorf("cookie_keys: key %d has %d bytes, it must have at least %d (openssl rand -base64 32 makes one)", i+1, len(secret), minGivenKey)
		}
		if slices.Contains(config.Given[:i], secret) {
			return nil, fmt.Errorf("cookie_keys: key %d is given twice", i+1)
		}
		sum := sha256.Sum256([]byte("caddy-sticky key id\x00" + secret))
		key := &tokenKey{id: keyID(sum[:4]), secret: []byte(secret)}
		key.derive()
		k.given = append(k.given, key)
	}
	return k, nil
}

// Accept notes that tokens may live as long as this: no key is forgotten
// earlier.
func (k *Keys) Accept(lifetime time.Duration) {
	for {
		known := k.accept.Load()
		if int64(lifetime) <= known || k.accept.CompareAndSwap(known, int64(lifetime)) {
			return
		}
	}
}

// Lifetime is the longest lifetime that Accept was told.
func (k *Keys) Lifetime() time.Duration { return time.Duration(k.accept.Load()) }

// Start makes the keys ready: given ones at once, others from storage, where
// the first ones may have to be made. A storage that fails is no reason not to
// start: see ring.
func (k *Keys) Start() error {
	if len(k.given) > 0 {
		k.ring.Store(fixedRing(k.given))
		k.ready.Open(nil)
		return nil
	}
	value, _, err := rings.LoadOrNew(k.ringName(), func() (caddy.Destructor, error) {
		return newRing(k.logger), nil
	})
	if err != nil {
		return fmt.Errorf("cookie keys: %w", err)
	}
	r := value.(*ring)
	r.use(k)
	k.ring.Store(r)
	k.ready.Open(nil)
	return nil
}

// Cleanup gives back what Start took.
func (k *Keys) Cleanup() error {
	var err error
	k.stop.Do(func() {
		k.ready.Open(sessionstore.ErrClosed)
		if r := k.ring.Load(); r != nil && len(k.given) == 0 {
			r.leave(k)
			_, err = rings.Delete(k.ringName())
		}
	})
	return err
}

// ringName tells storages apart, so that configurations which share one share
// its keys.
func (k *Keys) ringName() string { return fmt.Sprintf("%T %v", k.storage, k.storage) }

// opened returns the ring. It waits for Start, within limits.
func (k *Keys) opened(ctx context.Context) (*ring, error) {
	if r := k.ring.Load(); r != nil {
		return r, nil
	}
	if err := k.ready.Wait(ctx); err != nil {
		return nil, err
	}
	return k.ring.Load(), nil
}

// Seal makes the value that a client carries: a binding of t.ID to target in a
// scope. Only t's exported fields but Target count. About a microsecond.
func (k *Keys) Seal(ctx context.Context, scope string, t Token, target string) (string, error) {
	r, err := k.opened(ctx)
	if err != nil {
		return "", err
	}
	key := r.state.Load().signing(time.Now())
	t.Target = key.names.hash(target)
	return key.seal(scope, t), nil
}

// Open reads a value that a client brought. The token counts only if there is no
// rejection, but for RejectExpired, where it says what was true. A value that
// was sealed with an unknown key makes the keys be read again, now and then.
func (k *Keys) Open(ctx context.Context, scope, value string, now time.Time) (Token, Rejection) {
	raw, rejection := decodeToken(value)
	if rejection != "" {
		return Token{}, rejection
	}
	r, err := k.opened(ctx)
	if err != nil {
		return Token{}, RejectKey
	}
	key := r.find(ctx, keyID(raw[:4]))
	if key == nil {
		return Token{}, RejectKey
	}
	return key.open(scope, &raw, now)
}

// Target returns the identity of the target that a token names: one that was
// known before, or one of the candidates. Empty if it is none of these.
func (k *Keys) Target(t Token, candidates iter.Seq[string]) string {
	r := k.ring.Load()
	if r == nil {
		return ""
	}
	key := r.state.Load().key(t.key)
	if key == nil {
		return ""
	}
	return key.names.name(t.Target, candidates)
}
