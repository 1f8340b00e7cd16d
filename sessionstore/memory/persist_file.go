// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// fileVersion is the format of records.
	fileVersion = "1"

	// lockPatience is how long bbolt asks for a file's lock; it needs a little
	// more than nothing to ask once.
	lockPatience = 60 * time.Millisecond
)

var (
	headerBucket  = []byte("header")
	sessionBucket = []byte("sessions")
	versionKey    = []byte("version")

	// errLocked says that another process has the file.
	errLocked = errors.New("the file is in use by another process")
)

// sessionFile is an open database of sessions. Its errors are errDamaged where
// the file is not to be read any more.
type sessionFile struct {
	db   *bolt.DB
	path string
}

// openFile opens the file, or makes it. It looks at all of it, so that what is
// read later is sound. Of a damaged file it returns where it was moved as well.
func openFile(path string) (f *sessionFile, aside string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, "", err
	}
	var why error
	for range 2 {
		f, moved, err := tryFile(path)
		if errors.Is(err, errDamaged) && moved != "" {
			aside, why = moved, err
			continue
		}
		if err != nil {
			return nil, "", err
		}
		return f, aside, why
	}
	return nil, "", why
}

// tryFile opens the file. If it is damaged, it was set aside, under its lock.
func tryFile(path string) (f *sessionFile, aside string, err error) {
	setAside := func(why error) error {
		if errors.Is(why, errDamaged) {
			to := path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000000Z")
			if err := os.Rename(path, to); err != nil {
				return fmt.Errorf("setting it aside: %w", err)
			}
			aside = to
		}
		return why
	}
	options := &bolt.Options{
		Timeout: lockPatience,
		// The map scales; arrays do not.
		FreelistType: bolt.FreelistMapType,
		NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			file, err := os.OpenFile(name, flag, mode)
			if err != nil {
				return nil, err
			}
			if err = lockFile(file); err == nil {
				err = setAside(checkOpened(file))
			}
			if err != nil {
				_ = file.Close()
				return nil, err
			}
			return file, nil
		},
	}
	f = &sessionFile{path: path}
	err = guarded(func() (err error) {
		f.db, err = bolt.Open(path, 0o600, options)
		return err
	})
	if err == nil {
		err = f.begin()
		if err != nil {
			err = setAside(err)
			_ = f.close()
		}
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = errLocked
	}
	if err != nil {
		return nil, aside, err
	}
	return f, "", nil
}

// checkOpened looks at a file that is locked and not mapped yet.
func checkOpened(file *os.File) error {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	return checkFile(file, info.Size(), checkValue)
}

// checkValue judges what a bucket has for a key.
func checkValue(bucket, key, value []byte) error {
	switch {
	case bytes.Equal(bucket, headerBucket):
		if bytes.Equal(key, versionKey) && string(value) != fileVersion {
			return damaged("its format is %q, this version knows %s", value, fileVersion)
		}
	case !bytes.Equal(bucket, sessionBucket):
		return damaged("it has a bucket %q", bucket)
	case !checkRecord(key, value):
		return damaged("the record of a session is not what was written")
	}
	return nil
}

// begin makes what a new file lacks.
func (f *sessionFile) begin() error {
	fresh := false
	err := f.view(func(tx *bolt.Tx) error {
		header := tx.Bucket(headerBucket)
		fresh = header == nil || header.Get(versionKey) == nil || tx.Bucket(sessionBucket) == nil
		if fresh && tx.Cursor().Bucket().Stats().KeyN > 0 {
			return damaged("its header is missing")
		}
		return nil
	})
	if err != nil || !fresh {
		return err
	}
	return f.update(func(tx *bolt.Tx) error {
		header, err := tx.CreateBucketIfNotExists(headerBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(sessionBucket); err != nil {
			return err
		}
		return header.Put(versionKey, []byte(fileVersion))
	})
}

// get returns what parse makes of the key's record.
func (f *sessionFile) get(key sessionstore.Key, parse func(key, record []byte)) error {
	return f.view(func(tx *bolt.Tx) error {
		if record := tx.Bucket(sessionBucket).Get(key[:]); record != nil {
			parse(key[:], record)
		}
		return nil
	})
}

// scan hands up to limit records to parse, which may stop it, from the first
// key that is not below from. It returns where the next scan begins; done says
// that there is nothing more.
func (f *sessionFile) scan(from []byte, limit int, parse func(key, record []byte) bool) (next []byte, done bool, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(sessionBucket).Cursor()
		key, record := cursor.Seek(from)
		for ; key != nil && limit > 0; limit-- {
			if !parse(key, record) {
				break
			}
			key, record = cursor.Next()
		}
		next, done = bytes.Clone(key), key == nil
		return nil
	})
	return next, done, err
}

func (f *sessionFile) view(read func(tx *bolt.Tx) error) error {
	return guarded(func() error { return f.db.View(read) })
}

func (f *sessionFile) update(write func(tx *bolt.Tx) error) error {
	return guarded(func() error { return f.db.Update(write) })
}

func (f *sessionFile) close() error {
	return guarded(f.db.Close)
}

// remove takes the file away, while its lock is held if the system can.
func (f *sessionFile) remove() error {
	err := os.Remove(f.path)
	if closing := f.close(); closing != nil {
		return closing
	}
	if err != nil {
		err = os.Remove(f.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// guarded calls bbolt, which panics over what it did not expect to read. A file
// that became shorter meanwhile faults.
func guarded(call func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = damaged("reading it failed: %v", r)
		}
	}()
	return call()
}
