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
		var d Deadlines
		begin := time.Now()
		var mu sync.Mutex
		var fired []time.Duration
		entries := make([]*Deadline, 100)
		for i := range entries {
			e := &Deadline{}
			e.Owner = ownerFunc(func() {
				mu.Lock()
				defer mu.Unlock()
				fired = append(fired, time.Since(begin))
			})
			entries[i] = e
			d.Set(e, begin.Add(time.Duration(1+(i*37)%100)*time.Second))
		}
		for i, e := range entries {
			switch i % 3 {
			case 0:
				d.Stop(e)
				d.Stop(e)
			case 1:
				d.Set(e, begin.Add(time.Duration(200+i)*time.Second))
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

func (f ownerFunc) Due() { f() }
