// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore

import (
	"crypto/hmac"
	"crypto/sha256"
	"sync"
	"sync/atomic"
)

// targetNamesLimit bounds what is remembered: a dynamic source may name other
// targets for ever.
const targetNamesLimit = 1 << 14

// targetNames hashes identities of targets with a key, each once.
type targetNames struct {
	key   []byte
	known sync.Map // string to TargetHash
	size  atomic.Int64
}

func newTargetNames(key []byte) *targetNames { return &targetNames{key: key} }

// hash returns the hash of a target's identity.
func (n *targetNames) hash(identity string) TargetHash {
	if h, ok := n.known.Load(identity); ok {
		return h.(TargetHash)
	}
	mac := hmac.New(sha256.New, n.key)
	mac.Write([]byte(identity))
	h := TargetHash(mac.Sum(nil)[:8])
	if n.size.Add(1) > targetNamesLimit {
		n.size.Add(-1)
		return h
	}
	if _, known := n.known.LoadOrStore(identity, h); known {
		n.size.Add(-1)
	}
	return h
}
