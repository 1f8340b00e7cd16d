// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package websocket

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// wsFrame is a frame as the peers of the tests write and read it.
type wsFrame struct {
	first   byte // FIN, RSV, opcode
	masked  bool
	payload string
}

const (
	text         = finalBit | opcodeText
	binaryPart   = opcodeBinary // not the last
	continuation = opcodeContinuation
	lastPart     = finalBit | opcodeContinuation
	closeFrame   = finalBit | opcodeClose
	pingFrame    = finalBit | opcodePing
	pongFrame    = finalBit | opcodePong
)

// closing1001 is the payload of a Close frame with this status.
const closing1001 = "\x03\xe9"

func (f wsFrame) bytes() []byte {
	b := []byte{f.first}
	var mask byte
	if f.masked {
		mask = maskBit
	}
	switch n := len(f.payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n <= math.MaxUint16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if !f.masked {
		return append(b, f.payload...)
	}
	key := []byte{1, 2, 3, 4}
	b = append(b, key...)
	for i := range len(f.payload) {
		b = append(b, f.payload[i]^key[i%4])
	}
	return b
}

// boundaries returns where the parser sees them, if it gets the bytes in pieces
// of the given sizes, round robin.
func boundaries(data []byte, masked bool, sizes []byte) (at []int, end frames) {
	f := frames{masked: masked}
	for offset, i := 0, 0; offset < len(data); i++ {
		piece := data[offset:min(offset+int(sizes[i%len(sizes)])+1, len(data))]
		for len(piece) > 0 {
			n := f.next(piece)
			piece = piece[n:]
			offset += n
			if f.boundary() {
				at = append(at, offset)
			}
		}
	}
	f.header = [maxHeaderSize]byte{} // leftovers mean nothing
	return at, f
}

// expectedBoundaries reads whole frames by the letter of RFC 6455 §5.2.
func expectedBoundaries(data []byte, masked bool) (at []int, broken bool) {
	for offset := uint64(0); ; at = append(at, int(offset)) {
		left := data[offset:]
		if len(left) == 0 {
			return at, false
		}
		opcode := left[0] & 0xf
		control := opcode >= 8
		if opcode > 2 && opcode < 8 || opcode > 10 || control && left[0]&0x80 == 0 {
			return at, true
		}
		if len(left) < 2 {
			return at, false
		}
		if left[1]&0x80 != 0 != masked || control && left[1]&0x7f > 125 {
			return at, true
		}
		size := uint64(2)
		if masked {
			size += 4
		}
		length := uint64(left[1] & 0x7f)
		switch length {
		case 126:
			size += 2
		case 127:
			size += 8
		}
		if uint64(len(left)) < size {
			return at, false
		}
		switch length {
		case 126:
			length = uint64(binary.BigEndian.Uint16(left[2:]))
		case 127:
			length = binary.BigEndian.Uint64(left[2:])
			if length>>63 != 0 {
				return at, true
			}
		}
		if uint64(len(left))-size < length {
			return at, false
		}
		offset += size + length
	}
}

func someFrames(masked bool, long int) []byte {
	return bytes.Join([][]byte{
		wsFrame{text, masked, "hello"}.bytes(),
		wsFrame{binaryPart, masked, strings.Repeat("a", 126)}.bytes(),
		wsFrame{pingFrame, masked, ""}.bytes(),
		wsFrame{continuation, masked, strings.Repeat("b", long)}.bytes(),
		wsFrame{lastPart, masked, ""}.bytes(),
		wsFrame{text | 0x70, masked, "compressed"}.bytes(),
		wsFrame{closeFrame, masked, closing1001}.bytes(),
	}, nil)
}

func TestFramesAreToldApart(t *testing.T) {
	for _, masked := range []bool{false, true} {
		for _, sizes := range [][]byte{{0}, {1}, {6}, {255}, {0, 1, 2, 3, 200}} {
			data := someFrames(masked, 70_000)
			got, end := boundaries(data, masked, sizes)
			want, broken := expectedBoundaries(data, masked)
			require.Equal(t, want, got)
			require.Len(t, got, 7)
			require.False(t, broken || end.broken)
			require.True(t, end.closed)
		}
	}
}

func TestFramesThatBreakTheRulesEndTheParsing(t *testing.T) {
	for name, data := range map[string]string{
		"reserved opcode":         "\x83\x00",
		"reserved control opcode": "\x8b\x00",
		"fragmented control":      "\x09\x00",
		"long control":            "\x89\x7e\x00\x80",
		"masked":                  "\x81\x80\x00\x00\x00\x00",
		"length below zero":       "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
		"no frames at all":        "SSH-2.0-OpenSSH",
	} {
		t.Run(name, func(t *testing.T) {
			at, end := boundaries([]byte(data+"\x81\x00\x81\x00"), false, []byte{0})
			require.True(t, end.broken)
			require.Empty(t, at)
			require.False(t, end.boundary())
		})
	}
	var unmasked frames
	unmasked.masked = true
	unmasked.advance([]byte("\x81\x02hi"))
	require.True(t, unmasked.broken)
}

func TestOurFramesAreFrames(t *testing.T) {
	for _, masked := range []bool{false, true} {
		for _, data := range [][]byte{
			appendClose(nil, masked),
			appendControl(nil, opcodePing, []byte("0123456789abcdef"), masked),
		} {
			at, broken := expectedBoundaries(data, masked)
			require.Equal(t, []int{len(data)}, at)
			require.False(t, broken)
		}
	}
	require.Equal(t, wsFrame{closeFrame, false, closing1001}.bytes(), appendClose(nil, false))
}

func FuzzFrames(f *testing.F) {
	f.Add(someFrames(false, 300), false, []byte{0})
	f.Add(someFrames(true, 300), true, []byte{3, 200})
	f.Add([]byte("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff\x00"), false, []byte{255})
	f.Fuzz(func(t *testing.T, data []byte, masked bool, sizes []byte) {
		if len(sizes) == 0 {
			return
		}
		got, end := boundaries(data, masked, sizes)
		want, broken := expectedBoundaries(data, masked)
		require.Equal(t, want, got)
		require.Equal(t, broken, end.broken)
		_, whole := boundaries(data, masked, []byte{255})
		require.Equal(t, whole, end)
	})
}

// laneOfTest is a lane between two peers, of which the one it comes from was
// asked by three Pings.
func laneOfTest(masked bool) *lane {
	l := &lane{
		frames: frames{masked: masked}, from: new(wsPeer), to: new(wsPeer),
		broken: new(atomic.Bool), now: func() int64 { return 0 },
	}
	l.from.init(!masked)
	l.to.init(masked)
	l.from.sent.Store(3)
	return l
}

func (l *lane) pong(n uint64) []byte {
	payload := binary.BigEndian.AppendUint64(bytes.Clone(l.from.nonce[:]), n)
	return wsFrame{pongFrame, l.frames.masked, string(payload)}.bytes()
}

func TestPongsToUsAreTakenOutOnce(t *testing.T) {
	for _, masked := range []bool{false, true} {
		for size := 1; size < 200; size++ {
			l := laneOfTest(masked)
			foreign := wsFrame{pongFrame, masked, "0123456789abcdef"}.bytes()
			short := wsFrame{pongFrame, masked, ""}.bytes()
			hello := wsFrame{text, masked, "hello"}.bytes()
			in := bytes.Join([][]byte{short, l.pong(1), hello, foreign, l.pong(3), l.pong(2), l.pong(4), l.pong(3), hello}, nil)
			want := bytes.Join([][]byte{short, hello, foreign, l.pong(2), l.pong(4), l.pong(3), hello}, nil)
			var out []byte
			for len(in) > 0 {
				n := min(size, len(in))
				out = l.weave(out, in[:n])
				in = in[n:]
			}
			require.Equal(t, want, l.release(out))
			require.EqualValues(t, 3, l.from.answered)
		}
	}
}

// Whatever comes in, goes out: but for Pongs to us, with our frames at
// boundaries only, however the bytes are split and in one buffer as well.
func FuzzLane(f *testing.F) {
	f.Add(someFrames(true, 300), true, []byte{0}, byte(3))
	f.Add(someFrames(false, 300), false, []byte{60, 7}, byte(0))
	f.Add([]byte("\x8a"), false, []byte{0}, byte(1))
	f.Add([]byte("\x81\x01a\x8a\x10PONG1111________\x81\x00\x8a\x10PONG22"), false, []byte{9}, byte(0))
	f.Fuzz(func(t *testing.T, data []byte, masked bool, sizes []byte, every byte) {
		if len(sizes) == 0 || len(data) > 1<<16 {
			return
		}
		l := laneOfTest(masked)
		// The fuzzer cannot know the nonce.
		for i, mark := range []string{"PONG1111________", "PONG22"} {
			data = bytes.ReplaceAll(data, []byte(mark), append(bytes.Clone(l.from.nonce[:]), 0, 0, 0, 0, 0, 0, 0, byte(i+1)))
		}
		reference := laneOfTest(masked)
		*reference.from = wsPeer{nonce: l.from.nonce}
		reference.from.sent.Store(3)
		want := reference.release(reference.weave(nil, data))

		var out []byte
		var buf [reserve + 256]byte
		for offset, i := 0, 0; offset < len(data); i++ {
			n := copy(buf[reserve:], data[offset:min(offset+int(sizes[i%len(sizes)])+1, len(data))])
			if every > 0 && i%int(every) == 0 {
				l.to.wanted.Or(wantPing)
			}
			out = append(out, l.weave(buf[:0], buf[reserve:reserve+n])...)
			offset += n
		}
		out = l.release(out)
		pings := int(l.to.sent.Load())

		// Our Pings are found at boundaries, and nowhere else.
		var kept []byte
		for len(out) > 0 {
			at, _ := expectedBoundaries(out, masked)
			end := len(out)
			if len(at) > 0 {
				end = at[0]
			}
			frame := out[:end]
			if pings > 0 && out[0] == pingFrame && isOurs(frame, l) {
				pings--
			} else {
				kept = append(kept, frame...)
			}
			out = out[end:]
		}
		require.Zero(t, pings)
		require.Equal(t, string(want), string(kept))
		if every == 0 && reference.from.answered == 0 {
			require.Equal(t, string(data), string(kept))
		}
	})
}

func isOurs(frame []byte, l *lane) bool {
	payload := bytes.Clone(frame[2:])
	if l.to.masked {
		if len(payload) < maskSize {
			return false
		}
		for i := range payload[maskSize:] {
			payload[maskSize+i] ^= payload[i%maskSize]
		}
		payload = payload[maskSize:]
	}
	return bytes.HasPrefix(payload, l.to.nonce[:])
}
