// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// A record is what the file knows of a session: a checksum of the key and all
// that follows, then fixed fields, then scope and target, each preceded by its
// length. A tombstone has neither of these.
const (
	recordFixed = 4 + 3*8 + 3*4

	// nameLimit is longer than any scope or target.
	nameLimit = math.MaxUint16
)

// appendRecord appends the record of e to buf.
func appendRecord(buf []byte, e *entry) []byte {
	from := len(buf)
	order := binary.LittleEndian
	buf = order.AppendUint32(buf, 0)
	buf = order.AppendUint64(buf, uint64(e.created))
	buf = order.AppendUint64(buf, uint64(e.expires))
	buf = order.AppendUint64(buf, uint64(e.lastUsed.Load()))
	buf = order.AppendUint32(buf, e.maxIdle)
	buf = order.AppendUint32(buf, uint32(e.max))
	buf = order.AppendUint32(buf, uint32(e.errors.Load()))
	if e.at != nil {
		for _, name := range []string{e.at.scope, e.at.target} {
			name = name[:min(len(name), nameLimit)]
			buf = order.AppendUint16(buf, uint16(len(name)))
			buf = append(buf, name...)
		}
	}
	order.PutUint32(buf[from:], recordSum(e.key[:], buf[from:]))
	return buf
}

func recordSum(key, record []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, record[4:])
}

// checkRecord reports whether a record is what was written for key.
func checkRecord(key, record []byte) bool {
	if len(key) != len(sessionstore.Key{}) || len(record) < recordFixed || binary.LittleEndian.Uint32(record) != recordSum(key, record) {
		return false
	}
	_, _, ok := recordNames(record)
	return ok
}

func recordNames(record []byte) (scope, target []byte, ok bool) {
	rest := record[recordFixed:]
	if len(rest) == 0 {
		return nil, nil, true
	}
	next := func() (name []byte, ok bool) {
		if len(rest) < 2 || len(rest)-2 < int(binary.LittleEndian.Uint16(rest)) {
			return nil, false
		}
		end := 2 + int(binary.LittleEndian.Uint16(rest))
		name, rest = rest[2:end], rest[end:]
		return name, true
	}
	if scope, ok = next(); !ok {
		return nil, nil, false
	}
	target, ok = next()
	return scope, target, ok && len(rest) == 0 && len(target) > 0
}

// entryOf returns the entry that a record describes, unless the record is
// damaged.
func (t *table) entryOf(key, record []byte) (*entry, bool) {
	if !checkRecord(key, record) {
		return nil, false
	}
	order := binary.LittleEndian
	e := &entry{
		key: sessionstore.Key(key), created: int64(order.Uint64(record[4:])), expires: int64(order.Uint64(record[12:])),
		maxIdle: order.Uint32(record[28:]), max: int32(order.Uint32(record[32:])),
	}
	e.lastUsed.Store(int64(order.Uint64(record[20:])))
	e.errors.Store(int32(order.Uint32(record[36:])))
	if scope, target, _ := recordNames(record); target != nil {
		e.at = t.place(string(scope), string(target))
	}
	return e, true
}
