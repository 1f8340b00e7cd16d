// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// minPersist is the shortest interval of writes: a shorter one would do
	// nothing but wait for the disk.
	minPersist = 100 * time.Millisecond

	defaultPersist = time.Second

	// writeBatch bounds what one transaction holds in memory.
	writeBatch = 20_000

	// loadBatch bounds for how long one of the table's locks is held while
	// sessions are read from the file.
	loadBatch = 128

	// patience bounds how long it takes until a file that was not to be had is
	// asked for again.
	patience = 2 * time.Second
)

// The states of a journal.
const (
	journalOpening int32 = iota // nobody knows yet what the file has
	journalLoading              // what the table lacks may be in the file
	journalLoaded               // the table has it all
	journalAway                 // the file is not to be had: the table is alone
)

// journal keeps a table's sessions in a file. The table tells it which keys
// changed; it writes their present state at each interval, so the order of
// changes makes no difference, and it holds no lock meanwhile that a request
// takes. One goroutine opens, loads and writes; it ends when close is called.
type journal struct {
	table    *table
	path     string
	interval atomic.Int64

	state   atomic.Int32
	decided chan struct{} // closed when the state first is not opening
	loaded  chan struct{} // closed when the state first is neither opening nor loading
	file    atomic.Pointer[sessionFile]
	dirty   dirtyKeys

	once      sync.Once
	discard   bool // close removes the file
	stop      chan struct{}
	done      chan struct{}
	failing   string // what was logged last, so that it is logged once
	lastWrite time.Time
}

// filePath is where the sessions of a store are.
func filePath(name string) string {
	return filepath.Join(caddy.AppDataDir(), "sticky", name+".db")
}

func logger() *zap.Logger { return caddy.Log().Named("sticky.stores.memory") }

// keepIn begins to keep the table's sessions in a file.
func (t *table) keepIn(path string, interval time.Duration) *journal {
	j := &journal{
		table: t, path: path,
		decided: make(chan struct{}), loaded: make(chan struct{}),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	j.interval.Store(int64(interval))
	t.journal.Store(j)
	go j.run()
	return j
}

// changed notes that the file is behind. The change is visible already.
func (t *table) changed(key sessionstore.Key) {
	if j := t.journal.Load(); j != nil && j.file.Load() != nil {
		j.dirty.add(key)
	}
}

// incomplete reports whether the file may have what the table lacks.
func (j *journal) incomplete() bool { return j.state.Load() <= journalLoading }

// settle waits until it is known whether there is a file to look into.
func (t *table) settle(ctx context.Context) error {
	j := t.journal.Load()
	if j == nil || j.state.Load() != journalOpening {
		return nil
	}
	return wait(ctx, j.decided)
}

// complete waits until the table has what the file has.
func (t *table) complete(ctx context.Context) error {
	j := t.journal.Load()
	if j == nil || !j.incomplete() {
		return nil
	}
	return wait(ctx, j.loaded)
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run opens the file, and opens it anew when it turns out to be damaged.
func (j *journal) run() {
	defer close(j.done)
	for f := j.open(); f != nil; f = j.open() {
		if j.keep(f) {
			return
		}
	}
}

func (j *journal) enter(state int32) {
	j.state.Store(state)
	if state != journalOpening {
		closeOnce(j.decided)
	}
	if state >= journalLoaded {
		closeOnce(j.loaded)
	}
}

// closeOnce is called by one goroutine at a time.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// open tries until it has the file; nil means that the journal was closed.
func (j *journal) open() *sessionFile {
	for delay := minPersist / 2; ; delay = min(2*delay, patience) {
		f, aside, err := openFile(j.path)
		if aside != "" {
			logger().Error("the file of sessions was damaged and was set aside",
				zap.String("file", j.path), zap.String("moved_to", aside), zap.Error(err))
			err = nil
		}
		if f != nil {
			j.recovered()
			j.begin(f)
			return f
		}
		j.failed("sessions are not written to disk", err)
		j.enter(journalAway)
		select {
		case <-time.After(delay):
		case <-j.stop:
			return nil
		}
	}
}

// failed says once what is the matter.
func (j *journal) failed(what string, err error) {
	if what == j.failing {
		return
	}
	j.failing = what
	log := logger().Error
	if errors.Is(err, errLocked) {
		log = logger().Warn
	}
	log(what+", which is tried again", zap.String("file", j.path), zap.Error(err))
}

func (j *journal) recovered() {
	if j.failing != "" {
		logger().Info("sessions are written to disk again", zap.String("file", j.path))
		j.failing = ""
	}
}

// begin has all be written that the table knows: of a file that was away, the
// table's own state wins.
func (j *journal) begin(f *sessionFile) {
	j.file.Store(f) // from here on changes are noted
	for _, e := range j.table.entries() {
		j.dirty.add(e.key)
	}
	j.enter(journalLoading)
}

// keep loads the file, writes what changes, and says whether that is all; if
// not, the file is damaged and was closed.
func (j *journal) keep(f *sessionFile) bool {
	var from []byte
	for begun := time.Now(); ; {
		if time.Since(j.lastWrite) >= time.Duration(j.interval.Load()) && !j.flush(f) {
			return false
		}
		select {
		case <-j.stop:
			return j.end(f)
		default:
		}
		next, done, err := j.load(f, from)
		if err != nil {
			return j.lost(f, err)
		}
		if done {
			logger().Debug("sessions were loaded", zap.String("file", j.path), zap.Duration("duration", time.Since(begun)))
			break
		}
		from = next
	}
	j.enter(journalLoaded)
	for {
		next := time.NewTimer(max(time.Duration(j.interval.Load())-time.Since(j.lastWrite), 0))
		select {
		case <-next.C:
			if !j.flush(f) {
				return false
			}
		case <-j.stop:
			next.Stop()
			return j.end(f)
		}
	}
}

// end writes what is left to be written.
func (j *journal) end(f *sessionFile) bool {
	if j.discard {
		j.file.Store(nil)
		if err := f.remove(); err != nil {
			logger().Error("the file of sessions was not removed", zap.String("file", j.path), zap.Error(err))
		}
		return true
	}
	for _, e := range j.table.entries() {
		if e.stale.Load() {
			j.dirty.add(e.key)
		}
	}
	if !j.flush(f) {
		return true
	}
	j.file.Store(nil)
	if err := f.close(); err != nil {
		logger().Error("the file of sessions was not closed", zap.String("file", j.path), zap.Error(err))
	}
	return true
}

// lost gives a damaged file up; openFile will set it aside.
func (j *journal) lost(f *sessionFile, err error) bool {
	j.file.Store(nil)
	j.dirty.take()
	j.failed("the file of sessions is damaged", err)
	_ = f.close()
	return false
}

// flush writes the present state of what changed. False means that the file is
// lost.
func (j *journal) flush(f *sessionFile) bool {
	defer func() { j.lastWrite = time.Now() }()
	keys := j.dirty.take()
	slices.SortFunc(keys, func(a, b sessionstore.Key) int { return bytes.Compare(a[:], b[:]) })
	for batch := range slices.Chunk(keys, writeBatch) {
		err := f.update(func(tx *bolt.Tx) error { return j.write(tx.Bucket(sessionBucket), batch) })
		if errors.Is(err, errDamaged) {
			return j.lost(f, err)
		}
		if err != nil {
			for _, key := range keys {
				j.dirty.add(key)
			}
			j.failed("sessions are not written to disk", err)
			return true
		}
	}
	if len(keys) > 0 {
		j.recovered()
	}
	return true
}

// write puts the present state of keys into the file.
func (j *journal) write(sessions *bolt.Bucket, keys []sessionstore.Key) error {
	buf := make([]byte, 0, len(keys)*128)
	for _, key := range keys {
		e := j.table.find(key)
		var err error
		if e == nil {
			err = sessions.Delete(key[:])
		} else {
			from := len(buf)
			e.stale.Store(false)
			buf = appendRecord(buf, e)
			err = sessions.Put(key[:], buf[from:len(buf):len(buf)])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// close ends the journal; what is not written yet is written now.
func (j *journal) close() {
	j.once.Do(func() { close(j.stop) })
	<-j.done
	j.enter(journalAway)
}

// remove ends the journal and takes its file away, which would go stale.
func (j *journal) remove() {
	j.discard = true
	j.close()
}

// removeStale takes away a file that is not kept up to date, if nobody has it.
func removeStale(path string) error {
	if _, err := os.Stat(path); err != nil {
		return nil //nolint:nilerr // there is none, or nobody can read it
	}
	f, _, err := tryFile(path)
	if err != nil {
		return err
	}
	return f.remove()
}

// persistInterval reads the option persist: zero means off.
func persistInterval(value string) (time.Duration, error) {
	switch value {
	case "off":
		return 0, nil
	case "":
		return defaultPersist, nil
	}
	interval, err := caddy.ParseDuration(value)
	if err != nil {
		return 0, fmt.Errorf("persist %q is neither a duration (like 1s) nor off", value)
	}
	if interval < minPersist {
		return 0, fmt.Errorf("persist %s is too short: %s is the least, off writes nothing", value, minPersist)
	}
	return interval, nil
}
