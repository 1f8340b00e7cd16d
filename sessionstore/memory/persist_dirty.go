// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"sync"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// dirtyShards spreads those who note changes. A power of two.
const dirtyShards = 64

// dirtyKeys is the set of keys whose state in the file is behind. The zero value
// is ready for use.
type dirtyKeys struct {
	shards [dirtyShards]dirtyShard
}

type dirtyShard struct {
	mu   sync.Mutex
	keys map[sessionstore.Key]struct{}
}

func (d *dirtyKeys) add(key sessionstore.Key) {
	shard := &d.shards[key[1]%dirtyShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.keys == nil {
		shard.keys = make(map[sessionstore.Key]struct{})
	}
	shard.keys[key] = struct{}{}
}

// take returns the set and leaves an empty one, which needs no memory.
func (d *dirtyKeys) take() []sessionstore.Key {
	var keys []sessionstore.Key
	for i := range d.shards {
		shard := &d.shards[i]
		shard.mu.Lock()
		taken := shard.keys
		shard.keys = nil
		shard.mu.Unlock()
		for key := range taken {
			keys = append(keys, key)
		}
	}
	return keys
}
