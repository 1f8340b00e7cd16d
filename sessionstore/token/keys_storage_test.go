// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// folder is a storage of files that another process has, too.
type folder struct {
	*certmagic.FileStorage
	process string
}

func (f folder) String() string { return f.process }

// Locks of files are waited for by looking again every second, which is longer
// here than a new key is known before it seals.
func TestProcessesWithOneFolderReadEachOtherWhileKeysRotate(t *testing.T) {
	// A third of the rotation is how long a new key is known before it seals.
	const rotation, life = 2900 * time.Millisecond, 15 * time.Minute
	shared := &certmagic.FileStorage{Path: t.TempDir()}
	processes := make(map[string]*Keys)
	for _, name := range []string{"one", "two"} {
		k, err := NewKeys(KeysConfig{Rotation: rotation, Storage: folder{shared, t.Name() + name}, Logger: zap.NewNop()})
		require.NoError(t, err)
		k.Accept(life)
		require.NoError(t, k.Start())
		t.Cleanup(func() { require.NoError(t, k.Cleanup()) })
		processes[name] = k
	}
	var values []string
	ids := make(map[string]bool)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); len(ids) < 3; {
		require.Less(t, time.Since(begun), 10*rotation, "keys rotate")
		now := <-tick.C
		for name, k := range processes {
			value := seal(t, k, tokenScope, Token{Created: now, Expires: now.Add(life), Seen: now}, "a")
			values = append(values, value)
			ids[value[3:8]] = true
			for other, k := range processes {
				_, rejection := k.Open(t.Context(), tokenScope, value, now)
				require.Empty(t, rejection, "%s reads what %s sealed %s after the beginning", other, name, now.Sub(begun))
			}
		}
	}
	for _, k := range processes {
		for _, value := range values {
			_, rejection := k.Open(t.Context(), tokenScope, value, time.Now())
			require.Empty(t, rejection)
		}
	}
}
