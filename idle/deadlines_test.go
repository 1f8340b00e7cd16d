// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDeadlinesComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadlines
		begin := time.Now()
		var mu sync.Mutex
		var fired []time.Duration
		entries := make([]*deadline, 100)
		for i := range entries {
			e := &deadline{}
			e.owner = ownerFunc(func() {
				mu.Lock()
				defer mu.Unlock()
				fired = append(fired, time.Since(begin))
			})
			entries[i] = e
			d.set(e, begin.Add(time.Duration(1+(i*37)%100)*time.Second))
		}
		for i, e := range entries {
			switch i % 3 {
			case 0:
				d.stop(e)
				d.stop(e)
			case 1:
				d.set(e, begin.Add(time.Duration(200+i)*time.Second))
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, fired, 66)
		require.IsNonDecreasing(t, fired)
		require.Equal(t, 297*time.Second, fired[65])
		require.Empty(t, d.heap)
	})
}

type ownerFunc func()

func (f ownerFunc) due() { f() }
