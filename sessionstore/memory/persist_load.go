// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// recallLocked returns the entry of key, from the file if the table has not
// loaded it yet.
func (t *table) recallLocked(key sessionstore.Key, now time.Time) *entry {
	if e := t.find(key); e != nil {
		return e
	}
	j := t.journal.Load()
	if j == nil || !j.incomplete() {
		return nil
	}
	f := j.file.Load()
	if f == nil {
		return nil
	}
	var found *entry
	err := f.get(key, func(key, record []byte) {
		if e, ok := t.entryOf(key, record); ok && e.forgotten() > now.UnixNano() {
			found = e
		}
	})
	if err != nil {
		logger().Error("a session was not looked up on disk", zap.String("file", f.path), zap.Error(err))
	}
	if found == nil {
		return nil
	}
	found.state.Store(found.initial(now))
	if err := t.linkLocked(found); err != nil {
		return nil
	}
	t.adopted(found, now)
	return found
}

// adopted counts an entry that comes from the file and is in the table now. It
// may be one more than max_sessions: no live session is given up.
func (t *table) adopted(e *entry, now time.Time) {
	switch {
	case e.at == nil:
		t.forget.add(e, e.forgotten())
	case e.state.Load() == stateOver:
		t.remains.Add(1)
		t.forget.add(e, e.forgotten())
	default:
		t.live.Add(1)
		e.at.count.Add(1)
		t.expiry.add(e, e.end())
	}
}

// initial is the state of an entry that comes from the file.
func (e *entry) initial(now time.Time) int32 {
	switch {
	case e.at == nil:
		return stateEnded
	case e.end() <= now.UnixNano():
		return stateOver
	}
	return stateLive
}

// load puts the next few sessions of the file into the table, unless the table
// knows better. They are of one lock.
func (j *journal) load(f *sessionFile, from []byte) (next []byte, done bool, err error) {
	t, now := j.table, time.Now()
	if t.begin(context.Background()) != nil {
		return nil, true, nil
	}
	defer t.closing.RUnlock()
	var batch []*entry
	sound := true
	next, done, err = f.scan(from, loadBatch, func(key, record []byte) bool {
		e, ok := t.entryOf(key, record)
		switch {
		case !ok:
			sound = false
			return false
		case len(batch) > 0 && (t.lock(batch[0].key) != t.lock(e.key) || slot(batch[len(batch)-1].key) == slot(e.key)):
			return false
		case e.forgotten() <= now.UnixNano():
			j.dirty.add(e.key) // to be deleted
		default:
			batch = append(batch, e)
		}
		return true
	})
	if !sound {
		err = damaged("the record of a session is not what was written")
	}
	if err != nil || len(batch) == 0 {
		return next, done, err
	}
	mu := t.lock(batch[0].key)
	mu.Lock()
	defer mu.Unlock()
	t.linkAllLocked(batch, now)
	return next, done, nil
}

// linkAllLocked puts entries into the table whose keys it does not know. They
// are waited for together.
func (t *table) linkAllLocked(batch []*entry, now time.Time) {
	linked := batch[:0]
	for _, e := range batch {
		head := t.head(e.key)
		if t.find(e.key) != nil {
			continue
		}
		e.state.Store(e.initial(now))
		e.next.Store(head)
		linked = append(linked, e)
		if _, on := t.arriving.get(e.key); !on {
			t.cache.Set(slot(e.key), e, 1)
		}
	}
	t.cache.Wait()
	for _, e := range linked {
		if got, ok := t.cache.Get(slot(e.key)); !ok || got != e {
			if err := t.setLocked(e); err != nil {
				e.state.Store(stateGone)
				continue
			}
		}
		t.adopted(e, now)
	}
}
