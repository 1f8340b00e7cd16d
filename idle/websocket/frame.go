// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"crypto/rand"
	"encoding/binary"
)

// Of RFC 6455 §5.2.
const (
	finalBit      = 0x80
	opcodeBits    = 0x0f
	controlBit    = 0x08
	maskBit       = 0x80
	lengthBits    = 0x7f
	maxControl    = 125 // bytes of payload of a control frame
	maskSize      = 4
	maxHeaderSize = 2 + 8 + maskSize

	opcodeContinuation = 0x0
	opcodeText         = 0x1
	opcodeBinary       = 0x2
	opcodeClose        = 0x8
	opcodePing         = 0x9
	opcodePong         = 0xa

	// goingAway is what both ends are told (RFC 6455 §7.4.1).
	goingAway = 1001
)

// frames follows one direction of a WebSocket: it knows where frames begin and
// end, and nothing of what they carry. What stands in the bits reserved for
// extensions is theirs. A stream that breaks a rule by which frames are told
// apart is broken from there on, for what follows might be anything.
type frames struct {
	masked bool // as all frames of a client are, and none of a server's

	header [maxHeaderSize]byte
	have   int    // bytes of the header of the frame under way
	rest   uint64 // bytes of its payload to come
	broken bool
	closed bool // a Close frame began: no frame may follow it
}

// boundary reports whether a frame may stand here.
func (f *frames) boundary() bool { return f.have == 0 && f.rest == 0 && !f.broken }

// next takes bytes up to the next boundary, or all, and returns how many.
func (f *frames) next(p []byte) int {
	if f.broken {
		return len(p)
	}
	n := 0
	if f.rest == 0 {
		for done := false; !done; n++ {
			if n == len(p) {
				return n
			}
			f.header[f.have] = p[n]
			f.have++
			done = f.read()
		}
		if f.broken {
			return len(p)
		}
	}
	if left := uint64(len(p) - n); f.rest > left {
		f.rest -= left
		return len(p)
	}
	n += int(f.rest)
	f.rest = 0
	return n
}

// advance takes all bytes.
func (f *frames) advance(p []byte) {
	for len(p) > 0 {
		p = p[f.next(p):]
	}
}

// read looks at the header as far as it is there, and reports whether that is
// all of it, or enough to know that it is none.
func (f *frames) read() bool {
	first := f.header[0]
	opcode := first & opcodeBits
	if f.have == 1 {
		switch opcode {
		case opcodeContinuation, opcodeText, opcodeBinary:
		case opcodeClose, opcodePing, opcodePong:
			f.broken = first&finalBit == 0
		default:
			f.broken = true
		}
		return f.broken
	}
	second := f.header[1]
	length := uint64(second & lengthBits)
	size := 2
	switch length {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if f.masked {
		size += maskSize
	}
	if f.have == 2 && (second&maskBit != 0 != f.masked || opcode&controlBit != 0 && length > maxControl) {
		f.broken = true
		return true
	}
	if f.have < size {
		return false
	}
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(f.header[2:]))
	case 127:
		length = binary.BigEndian.Uint64(f.header[2:])
		f.broken = length>>63 != 0
	}
	if opcode == opcodeClose {
		f.closed = true
	}
	f.rest = length
	f.have = 0
	return true
}

// appendControl appends a control frame.
func appendControl(dst []byte, opcode byte, payload []byte, masked bool) []byte {
	dst = append(dst, finalBit|opcode, byte(len(payload)))
	if !masked {
		return append(dst, payload...)
	}
	dst[len(dst)-1] |= maskBit
	var key [maskSize]byte
	_, _ = rand.Read(key[:]) // it cannot fail
	dst = append(dst, key[:]...)
	for i, b := range payload {
		dst = append(dst, b^key[i%maskSize])
	}
	return dst
}

// appendClose appends a Close frame.
func appendClose(dst []byte, masked bool) []byte {
	var code [2]byte
	binary.BigEndian.PutUint16(code[:], goingAway)
	return appendControl(dst, opcodeClose, code[:], masked)
}
