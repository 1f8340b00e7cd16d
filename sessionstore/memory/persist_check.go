// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"slices"
)

// errDamaged says that a file is not what was written to it.
var errDamaged = errors.New("the file is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// bbolt's format, as its version 2 has it: all numbers in the machine's order.
const (
	pageHeader = 16
	elemSize   = 16

	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageMeta     = 0x04
	pageFreelist = 0x10

	leafBucket = 0x01 // flag of a leaf's element: its value is a bucket

	metaSize     = 64 // without the page's header
	metaMagic    = 0xED0CDAED
	metaVersion  = 2
	noFreelist   = ^uint64(0)
	minPageSize  = 1024
	maxPageSize  = 1024 << 14
	maxTreeDepth = 64
)

// checker reads a bbolt file with ordinary reads and looks whether every page
// that bbolt would follow is there and is what it says to be. bbolt itself maps
// the file and trusts it: of a truncated one it would read beyond the end, which
// kills the process, and in a page that names itself as its child it would
// never come to an end.
type checker struct {
	file     io.ReaderAt
	size     int64
	pageSize int64
	pages    uint64 // high water mark: all pages are below
	seen     []byte // a bit for each page that is in use
	value    func(bucket, key, value []byte) error
}

type metaPage struct {
	pageSize             uint32
	root, freelist, high uint64
	txid                 uint64
}

// checkFile returns an error that is errDamaged unless bbolt can read the whole
// file. Value is asked about each key of each bucket.
func checkFile(file io.ReaderAt, size int64, value func(bucket, key, value []byte) error) error {
	meta, err := readMeta(file, size)
	if err != nil {
		return err
	}
	c := &checker{file: file, size: size, pageSize: int64(meta.pageSize), pages: meta.high, value: value}
	if meta.high < 4 || meta.high > uint64(size)/uint64(meta.pageSize) {
		return damaged("it has %d bytes, but %d pages of %d were written", size, meta.high, meta.pageSize)
	}
	c.seen = make([]byte, meta.high/8+1)
	c.seen[0] |= 3
	if err := c.tree(nil, meta.root, nil, nil, 0); err != nil {
		return err
	}
	if meta.freelist == noFreelist {
		return nil
	}
	return c.freelist(meta.freelist)
}

// readMeta returns the newer of the two meta pages that is whole.
func readMeta(file io.ReaderAt, size int64) (metaPage, error) {
	var best metaPage
	found := false
	consider := func(at int64, pageSize uint32) bool {
		var buf [pageHeader + metaSize]byte
		if at+int64(len(buf)) > size {
			return false
		}
		if _, err := file.ReadAt(buf[:], at); err != nil {
			return false
		}
		m, ok := parseMeta(buf[:])
		if !ok || pageSize != 0 && m.pageSize != pageSize || at != 0 && at != int64(m.pageSize) {
			return false
		}
		if !found || m.txid > best.txid {
			best, found = m, true
		}
		return true
	}
	if consider(0, 0) {
		consider(int64(best.pageSize), best.pageSize)
	} else {
		for at := int64(minPageSize); at <= maxPageSize && !consider(at, 0); at *= 2 {
			continue
		}
	}
	if !found {
		return metaPage{}, damaged("it has no meta page that is whole")
	}
	return best, nil
}

func parseMeta(page []byte) (metaPage, bool) {
	order := binary.NativeEndian
	if order.Uint16(page[8:])&pageMeta == 0 {
		return metaPage{}, false
	}
	m := page[pageHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(m[:56])
	meta := metaPage{
		pageSize: order.Uint32(m[8:]), root: order.Uint64(m[16:]), freelist: order.Uint64(m[32:]),
		high: order.Uint64(m[40:]), txid: order.Uint64(m[48:]),
	}
	size := meta.pageSize
	return meta, order.Uint32(m) == metaMagic && order.Uint32(m[4:]) == metaVersion && order.Uint64(m[56:]) == sum.Sum64() &&
		size >= minPageSize && size <= maxPageSize && size&(size-1) == 0
}

// page reads a page with its overflow, and notes that it is in use.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, damaged("there is no page %d", id)
	}
	buf := make([]byte, c.pageSize)
	if _, err := c.file.ReadAt(buf, int64(id)*c.pageSize); err != nil {
		return nil, readError(id, err)
	}
	if got := binary.NativeEndian.Uint64(buf); got != id {
		return nil, damaged("page %d says that it is %d", id, got)
	}
	overflow := uint64(binary.NativeEndian.Uint32(buf[12:]))
	if overflow >= c.pages-id {
		return nil, damaged("page %d goes on beyond the end", id)
	}
	for i := id; i <= id+overflow; i++ {
		if !c.use(i) {
			return nil, damaged("page %d is used twice", i)
		}
	}
	if overflow > 0 {
		buf = make([]byte, int64(overflow+1)*c.pageSize)
		if _, err := c.file.ReadAt(buf, int64(id)*c.pageSize); err != nil {
			return nil, readError(id, err)
		}
	}
	return buf, nil
}

// readError tells a file that is too short from a disk that does not answer.
func readError(id uint64, err error) error {
	if errors.Is(err, io.EOF) {
		return damaged("page %d is missing", id)
	}
	return err
}

func (c *checker) use(page uint64) bool {
	bit := byte(1) << (page % 8)
	fresh := c.seen[page/8]&bit == 0
	c.seen[page/8] |= bit
	return fresh
}

// tree checks the page and all under it. Its keys are not less than least, and
// less than below, if that is not nil.
func (c *checker) tree(bucket []byte, id uint64, least, below []byte, depth int) error {
	if depth > maxTreeDepth {
		return damaged("page %d is too deep", id)
	}
	buf, err := c.page(id)
	if err != nil {
		return err
	}
	if binary.NativeEndian.Uint16(buf[8:]) == pageBranch {
		return c.branch(bucket, id, buf, least, below, depth)
	}
	return c.leaf(bucket, id, buf, least, below, depth)
}

func (c *checker) branch(bucket []byte, id uint64, buf, least, below []byte, depth int) error {
	order := binary.NativeEndian
	count := int(order.Uint16(buf[10:]))
	if count == 0 {
		return damaged("page %d has no children", id)
	}
	// Keys follow the elements without a gap: a count that is wrong shows.
	end := pageHeader + count*elemSize
	for i := range count {
		at := pageHeader + i*elemSize
		if at+elemSize > len(buf) {
			return damaged("page %d has too many children", id)
		}
		elem := buf[at:]
		if at+int(order.Uint32(elem)) != end {
			return damaged("page %d has a gap", id)
		}
		end += int(order.Uint32(elem[4:]))
		key, err := part(buf, id, at, order.Uint32(elem), order.Uint32(elem[4:]))
		if err != nil {
			return err
		}
		if order := bytes.Compare(key, least); order < 0 || order == 0 && i > 0 || below != nil && bytes.Compare(key, below) >= 0 {
			return damaged("page %d is out of order", id)
		}
		// What the child holds is below the next child's key.
		next := below
		if at += elemSize; i+1 < count && at+elemSize <= len(buf) {
			if next, err = part(buf, id, at, order.Uint32(buf[at:]), order.Uint32(buf[at+4:])); err != nil {
				return err
			}
		}
		if err := c.tree(bucket, order.Uint64(elem[8:]), key, next, depth+1); err != nil {
			return err
		}
		least = key
	}
	return nil
}

func (c *checker) leaf(bucket []byte, id uint64, buf, least, below []byte, depth int) error {
	order := binary.NativeEndian
	if order.Uint16(buf[8:]) != pageLeaf {
		return damaged("page %d is no leaf", id)
	}
	count := int(order.Uint16(buf[10:]))
	if count == 0 && len(bytes.Trim(buf[pageHeader:min(len(buf), pageHeader+elemSize)], "\x00")) > 0 {
		return damaged("page %d has lost its keys", id)
	}
	end := pageHeader + count*elemSize
	for i := range count {
		at := pageHeader + i*elemSize
		if at+elemSize > len(buf) {
			return damaged("page %d has too many keys", id)
		}
		elem := buf[at:]
		if at+int(order.Uint32(elem[4:])) != end {
			return damaged("page %d has a gap", id)
		}
		end += int(order.Uint32(elem[8:])) + int(order.Uint32(elem[12:]))
		key, err := part(buf, id, at, order.Uint32(elem[4:]), order.Uint32(elem[8:]))
		if err != nil {
			return err
		}
		value, err := part(buf, id, at, order.Uint32(elem[4:])+order.Uint32(elem[8:]), order.Uint32(elem[12:]))
		if err != nil {
			return err
		}
		if order := bytes.Compare(key, least); len(key) == 0 || order < 0 || order == 0 && i > 0 || below != nil && bytes.Compare(key, below) >= 0 {
			return damaged("page %d is out of order", id)
		}
		least = key
		switch flags := order.Uint32(elem); {
		case flags == leafBucket && bucket == nil:
			err = c.bucket(slices.Clone(key), value, depth)
		case flags == 0 && bucket != nil:
			err = c.value(bucket, key, value)
		default:
			err = damaged("page %d has a key that is neither bucket nor session", id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket checks what a bucket's value leads to: a page, or one that is inside
// of the value.
func (c *checker) bucket(name, value []byte, depth int) error {
	if len(value) < 16 {
		return damaged("bucket %q is cut off", name)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.tree(name, root, nil, nil, depth+1)
	}
	if len(value) < 16+pageHeader {
		return damaged("bucket %q is cut off", name)
	}
	return c.leaf(name, 0, value[16:], nil, nil, depth+1)
}

func part(buf []byte, id uint64, elem int, pos, size uint32) ([]byte, error) {
	from := uint64(elem) + uint64(pos)
	if pos < elemSize || from+uint64(size) > uint64(len(buf)) {
		return nil, damaged("a key or value of page %d is outside of it", id)
	}
	return buf[from : from+uint64(size)], nil
}

// freelist checks that no page is free and in use at once.
func (c *checker) freelist(id uint64) error {
	buf, err := c.page(id)
	if err != nil {
		return err
	}
	order := binary.NativeEndian
	if order.Uint16(buf[8:]) != pageFreelist {
		return damaged("page %d is no list of free pages", id)
	}
	count, list := uint64(order.Uint16(buf[10:])), buf[pageHeader:]
	if count == 0xFFFF {
		count, list = order.Uint64(list), list[8:]
	}
	if count > uint64(len(list)/8) {
		return damaged("the list of free pages is cut off")
	}
	for i := range count {
		free := order.Uint64(list[i*8:])
		if free < 2 || free >= c.pages || !c.use(free) {
			return damaged("page %d is free and in use", free)
		}
	}
	return nil
}

// castagnoli is what records are checked with; processors know it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)
