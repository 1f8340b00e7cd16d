// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package filewatch reads a file and tells when it changed.
//
// It looks at the file at an interval: that needs no descriptor, works on every
// file system, and is quick enough for files that people edit. A change counts
// when the file was the same at two looks, so that one that is just being
// written is not read by half.
package filewatch

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// limit bounds what a file may take of the memory, in bytes.
const limit = 16 << 20

// Interval is how often a file that a configuration names is compared with what
// was read of it. Tests shorten it.
var Interval = time.Second

// File is a file that is watched.
type File struct {
	path     string
	interval time.Duration

	applied os.FileInfo // when it was last read; nil: it could not be
	failed  bool        // said already

	once sync.Once
	stop chan struct{}
	done chan struct{}
}

// Open reads a file that Watch will compare at each interval. The caller ends with
// Close.
func Open(path string, interval time.Duration) (*File, []byte, error) {
	f := &File{path: path, interval: interval, stop: make(chan struct{})}
	content, info, err := read(path)
	if err != nil {
		return nil, nil, err
	}
	f.applied = info
	return f, content, nil
}

// Watch calls changed, from one goroutine, with what is in the file each time
// it changed, and with an error, once, when it can no longer be read. To be
// called once at most.
func (f *File) Watch(changed func(content []byte, err error)) {
	f.done = make(chan struct{})
	go f.watch(changed)
}

// Close ends watching. Changed is not called after it returned.
func (f *File) Close() {
	f.once.Do(func() { close(f.stop) })
	if f.done != nil {
		<-f.done
	}
}

func (f *File) watch(changed func(content []byte, err error)) {
	defer close(f.done)
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	var last os.FileInfo
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		last = f.look(last, changed)
	}
}

// look compares the file to what was read of it, and to the last look.
func (f *File) look(last os.FileInfo, changed func(content []byte, err error)) os.FileInfo {
	now, err := os.Stat(f.path)
	if err == nil && same(now, f.applied) && !f.failed {
		return now
	}
	if err == nil && !same(now, last) {
		return now // it may be being written
	}
	var content []byte
	if err == nil {
		content, now, err = read(f.path)
	}
	if err != nil {
		if !f.failed {
			f.failed = true
			changed(nil, err)
		}
		return nil
	}
	f.failed, f.applied = false, now
	changed(content, nil)
	return now
}

func same(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func read(path string) ([]byte, os.FileInfo, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a file", path)
	}
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if len(content) > limit {
		return nil, nil, fmt.Errorf("%s is larger than %d MiB", path, limit>>20)
	}
	return content, info, nil
}
