// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"iter"
	"sync"
	"sync/atomic"
)

// targetNamesLimit bounds what is remembered: a dynamic source may name other
// targets for ever.
const targetNamesLimit = 1 << 14

// targetNames hashes identities of targets with a key, each once, and remembers
// whose hash is whose.
type targetNames struct {
	key   []byte
	known sync.Map // string to TargetHash
	names sync.Map // TargetHash to string
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
	n.names.Store(h, identity)
	return h
}

// name returns the identity that a hash is of: one that was hashed before, or
// one of the candidates. Empty if it is none of these.
func (n *targetNames) name(h TargetHash, candidates iter.Seq[string]) string {
	if identity, ok := n.names.Load(h); ok {
		return identity.(string)
	}
	for identity := range candidates {
		if n.hash(identity) == h {
			return identity
		}
	}
	return ""
}
