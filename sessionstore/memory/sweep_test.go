// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// The sessions that end make room for as many at that very moment, whoever
// takes them out of the count, and however many ask for it at once.
func TestFullTableHasRoomAtTheMomentOfExpiry(t *testing.T) {
	const limit, askers = 8, 64
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			table, err := newTable(limit)
			require.NoError(t, err)
			defer table.close()
			session := func(id string) sessionstore.Session {
				now := time.Now()
				return sessionstore.Session{Key: sessionstore.KeyOf("test", id), Scope: "test", Target: "a", Created: now, Expires: now.Add(time.Minute)}
			}
			for i := range limit {
				_, won, err := table.claim(t.Context(), session(fmt.Sprint("old", i)), time.Now())
				require.NoError(t, err)
				require.True(t, won)
			}
			time.Sleep(time.Minute)

			var room, full atomic.Int64
			var all sync.WaitGroup
			for i := range askers {
				all.Go(func() {
					switch _, won, err := table.claim(t.Context(), session(fmt.Sprint("new", i)), time.Now()); {
					case err == nil && won:
						room.Add(1)
					default:
						full.Add(1)
					}
				})
			}
			all.Wait()
			require.EqualValues(t, limit, room.Load())
			require.EqualValues(t, askers-limit, full.Load())
			synctest.Wait()
			require.EqualValues(t, limit, table.live.Load())
		})
	}
}
