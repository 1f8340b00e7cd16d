// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

const (
	// ringFile is where the keys are, and ringLock what guards it, in Caddy's
	// storage.
	ringFile = "sticky/cookie_keys.json"
	ringLock = "sticky_cookie_keys"

	// ringVersion is of the file's format. Another one is left alone.
	ringVersion = 1

	// refreshInterval is how often the keys are read again. A new key is in the
	// storage for longer than that before anyone seals with it.
	refreshInterval = 10 * time.Minute

	// minRotation is the shortest time that makes sense to anybody, in a test.
	minRotation = time.Second

	// rereadInterval is how often at most an unknown key id makes the keys be
	// read again: anybody can send one.
	rereadInterval = 10 * time.Second

	// storageLimit bounds one reading or writing of the keys.
	storageLimit = 10 * time.Second

	// rereadLimit bounds how long a request waits for that.
	rereadLimit = 250 * time.Millisecond
)

// rings keeps generated keys across reloads: it maps a storage to its *ring.
// Written at Start and Cleanup only.
var rings = caddy.NewUsagePool()

// ring is a set of keys that changes with time: what is in the storage, or as
// long as that cannot be read or written, a key of this process alone. Such a
// key is reported; tokens sealed with it hold on this machine until it stops.
type ring struct {
	state  atomic.Pointer[ringState]
	logger *zap.Logger

	changed chan struct{} // what the users ask for

	mu      sync.Mutex
	users   []*Keys           // oldest first
	storage certmagic.Storage // the newest one's: an older one may be closed
	failed  bool              // the storage, last time
	own     *tokenKey

	reread atomic.Int64       // when an unknown id last did, nanoseconds since 1970
	asked  chan chan struct{} // to read the keys now, and to say when that is done; nil: the keys are fixed
	cancel context.CancelFunc
	done   chan struct{}
}

// ringState is the keys of one moment, oldest first.
type ringState struct {
	keys []*tokenKey
}

func fixedRing(keys []*tokenKey) *ring {
	r := new(ring)
	// The first one given is the one that seals: the newest.
	ordered := slices.Clone(keys)
	slices.Reverse(ordered)
	r.state.Store(&ringState{ordered})
	return r
}

func newRing(logger *zap.Logger) *ring {
	ctx, cancel := context.WithCancel(context.Background())
	r := &ring{logger: logger, cancel: cancel, asked: make(chan chan struct{}), changed: make(chan struct{}, 1), done: make(chan struct{})}
	go r.keep(ctx)
	return r
}

// Destruct ends the ring; the pool calls it when nobody uses it any more.
func (r *ring) Destruct() error {
	r.cancel()
	<-r.done
	return nil
}

// use adds a configuration, whose settings apply from now on. There are keys
// when it returns.
func (r *ring) use(k *Keys) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users = append(r.users, k)
	r.logger, r.storage = k.logger, k.storage
	r.refreshLocked(context.Background())
	select {
	case r.changed <- struct{}{}:
	default: // it is to look already
	}
}

func (r *ring) leave(k *Keys) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users = slices.DeleteFunc(r.users, func(user *Keys) bool { return user == k })
	if n := len(r.users); n > 0 {
		r.logger, r.storage = r.users[n-1].logger, r.users[n-1].storage
	}
}

// keep reads the keys again and again until the ring is ended.
func (r *ring) keep(ctx context.Context) {
	defer close(r.done)
	timer := time.NewTimer(r.refreshEvery())
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			r.refresh(ctx)
			timer.Reset(r.refreshEvery())
		case read := <-r.asked:
			r.refresh(ctx)
			close(read)
		case <-r.changed:
			timer.Reset(r.refreshEvery())
		case <-ctx.Done():
			return
		}
	}
}

// refreshEvery is the refresh interval of the shortest rotation in use. While
// the storage fails it is tried more often.
func (r *ring) refreshEvery() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	every := refreshInterval
	if n := len(r.users); n > 0 {
		every = refreshOf(r.users[n-1].rotation)
	}
	if r.failed {
		every = min(every, time.Minute)
	}
	return every
}

func refreshOf(rotation time.Duration) time.Duration {
	return min(refreshInterval, rotation/6)
}

func (r *ring) refresh(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refreshLocked(ctx)
}

// refreshLocked brings the ring to what is in the storage, and the storage to
// what the time asks for. It says once that it can't, and once that it can again.
func (r *ring) refreshLocked(ctx context.Context) {
	if len(r.users) == 0 {
		return
	}
	user := r.users[len(r.users)-1]
	ctx, cancel := context.WithTimeout(ctx, storageLimit)
	defer cancel()
	keys, err := r.sync(ctx, user.rotation, user.Lifetime())
	if err == nil {
		if r.failed {
			r.logger.Info("cookie keys are shared through the storage again")
		}
		r.failed = false
		if r.own != nil && time.Since(r.own.created) < retention(user.rotation, user.Lifetime()) {
			keys = append([]*tokenKey{r.own}, keys...)
		}
		r.state.Store(&ringState{keys})
		return
	}
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return
	}
	if r.state.Load() == nil {
		r.own = generate(time.Now())
		r.own.derive()
		r.state.Store(&ringState{[]*tokenKey{r.own}})
	}
	if !r.failed {
		r.logger.Error("cookie keys cannot be kept in the storage; other machines and the next start of this one may not read the cookies that are set now",
			zap.String("file", ringFile), zap.Error(err))
	}
	r.failed = true
}

// sync reads the keys. If it is time for another one, it makes it, under the
// storage's lock.
func (r *ring) sync(ctx context.Context, rotation, lifetime time.Duration) ([]*tokenKey, error) {
	keys, err := r.load(ctx)
	if err != nil || !due(keys, rotation, time.Now()) {
		return keys, err
	}
	wait, cancel := context.WithCancel(ctx)
	if len(keys) > 0 {
		// Whoever has the lock makes the key, which is to be known here before it
		// seals: waiting for the lock may take longer than that.
		wait, cancel = context.WithTimeout(ctx, refreshOf(rotation)/2)
	}
	defer cancel()
	if err := r.storage.Lock(wait, ringLock); err != nil {
		if keys, err := r.load(ctx); err == nil && !due(keys, rotation, time.Now()) {
			return keys, nil
		}
		return nil, fmt.Errorf("locking: %w", err)
	}
	defer func() {
		if err := r.storage.Unlock(context.WithoutCancel(ctx), ringLock); err != nil {
			r.logger.Error("cookie keys not unlocked", zap.Error(err))
		}
	}()
	// Another machine may have been faster.
	keys, err = r.load(ctx)
	now := time.Now()
	if err != nil || !due(keys, rotation, now) {
		return keys, err
	}
	keys = expireKeys(keys, retention(rotation, lifetime), now)
	next := generate(now)
	if len(keys) > 0 {
		// Whoever reads the keys every refresh interval knows this one by then.
		next.signs = now.Add(refreshOf(rotation) * 2)
	}
	next.derive()
	keys = append(keys, next)
	if err := r.store(ctx, keys); err != nil {
		return nil, err
	}
	return keys, nil
}

// due reports whether another key is to be made.
func due(keys []*tokenKey, rotation time.Duration, now time.Time) bool {
	if len(keys) == 0 {
		return true
	}
	newest := keys[len(keys)-1]
	return now.Sub(newest.signs) >= rotation-2*refreshOf(rotation)
}

// expireKeys leaves out keys that no live token can be sealed with: another one
// has sealed for longer than any token lives.
func expireKeys(keys []*tokenKey, retention time.Duration, now time.Time) []*tokenKey {
	for len(keys) > 1 && now.Sub(keys[1].signs) > retention {
		keys = keys[1:]
	}
	return keys
}

// retention is how long a key is accepted after the last token was sealed with
// it. Other machines may have policies that live longer than ours, and clocks
// that are late.
func retention(rotation, lifetime time.Duration) time.Duration {
	return max(lifetime, min(rotation, 24*time.Hour)) + 2*refreshOf(rotation) + tokenSkew
}

func generate(now time.Time) *tokenKey {
	k := &tokenKey{secret: make([]byte, 32), created: now, signs: now}
	_, _ = rand.Read(k.secret) // never fails
	_, _ = rand.Read(k.id[:])
	return k
}

// signing returns the key that seals at now: the newest that is no longer only
// announced.
func (s *ringState) signing(now time.Time) *tokenKey {
	for _, key := range slices.Backward(s.keys) {
		if !key.signs.After(now) {
			return key
		}
	}
	return s.keys[0]
}

func (s *ringState) key(id keyID) *tokenKey {
	for _, key := range slices.Backward(s.keys) {
		if key.id == id {
			return key
		}
	}
	return nil
}

// find returns a key. One that is not known may have been made by another
// machine a moment ago.
func (r *ring) find(ctx context.Context, id keyID) *tokenKey {
	if key := r.state.Load().key(id); key != nil || r.asked == nil {
		return key
	}
	now, last := time.Now().UnixNano(), r.reread.Load()
	if now-last < int64(rereadInterval) || !r.reread.CompareAndSwap(last, now) {
		return nil
	}
	limit := time.NewTimer(rereadLimit)
	defer limit.Stop()
	read := make(chan struct{})
	select {
	case r.asked <- read: // once they are not being read
	case <-limit.C:
		return nil
	case <-ctx.Done():
		return nil
	}
	select {
	case <-read:
	case <-limit.C:
	case <-ctx.Done():
	}
	return r.state.Load().key(id)
}

// ringDocument is the file in the storage.
type ringDocument struct {
	Version int           `json:"version"`
	Keys    []keyDocument `json:"keys"` // oldest first
}

type keyDocument struct {
	ID      []byte    `json:"id"`
	Secret  []byte    `json:"secret"`
	Created time.Time `json:"created"`
	Signs   time.Time `json:"signs"` // not before that
}

// load reads the keys; there may be none yet.
func (r *ring) load(ctx context.Context) ([]*tokenKey, error) {
	text, err := r.storage.Load(ctx, ringFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	var doc ringDocument
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s is damaged, delete it to have new keys made: %w", ringFile, err)
	}
	if doc.Version != ringVersion {
		return nil, fmt.Errorf("%s has the unknown version %d", ringFile, doc.Version)
	}
	var known map[keyID]*tokenKey
	if state := r.state.Load(); state != nil {
		known = make(map[keyID]*tokenKey, len(state.keys))
		for _, key := range state.keys {
			known[key.id] = key
		}
	}
	keys := make([]*tokenKey, 0, len(doc.Keys))
	for _, d := range doc.Keys {
		if len(d.ID) != len(keyID{}) || len(d.Secret) < minGivenKey {
			return nil, fmt.Errorf("%s is damaged, delete it to have new keys made", ringFile)
		}
		key := &tokenKey{id: keyID(d.ID), secret: d.Secret, created: d.Created, signs: d.Signs}
		if old := known[key.id]; old != nil && string(old.secret) == string(key.secret) {
			key = old // with the targets it has named
		} else {
			key.derive()
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (r *ring) store(ctx context.Context, keys []*tokenKey) error {
	doc := ringDocument{Version: ringVersion}
	for _, key := range keys {
		doc.Keys = append(doc.Keys, keyDocument{ID: key.id[:], Secret: key.secret, Created: key.created, Signs: key.signs})
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if err := r.storage.Store(ctx, ringFile, text); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
