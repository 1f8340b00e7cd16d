// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// unit is what lifetimes are given in.
type unit struct {
	size time.Duration // 0: each says its own
	name string        // in messages
}

func unitOf(name string) (unit, error) {
	switch name {
	case "s":
		return unit{time.Second, "seconds"}, nil
	case "", "m":
		return unit{time.Minute, "minutes"}, nil
	case "ms":
		return unit{time.Millisecond, "milliseconds"}, nil
	case "suffix":
		return unit{0, "seconds, minutes, hours or days, as in 90s, 10m, 2h or 7d"}, nil
	}
	return unit{}, fmt.Errorf("unit %q is unknown (have s, m, ms, suffix)", name)
}

// suffixes are the units that a lifetime may say, the largest first.
var suffixes = [...]struct {
	letter byte
	size   time.Duration
}{{'d', day}, {'h', time.Hour}, {'m', time.Minute}, {'s', time.Second}}

// parse reads a lifetime. It is not ok unless it is a number in digits alone;
// one that is too large for a Duration is the largest.
func (u unit) parse(value string) (d time.Duration, ok bool) {
	size := u.size
	if size == 0 && value != "" {
		last := len(value) - 1
		for _, s := range suffixes {
			if value[last] == s.letter {
				size, value = s.size, value[:last]
				break
			}
		}
	}
	if size == 0 || value == "" {
		return 0, false
	}
	for i := range len(value) {
		if value[i] < '0' || value[i] > '9' {
			return 0, false
		}
	}
	n, ok := decimal(value, math.MaxInt64/int64(size))
	if !ok {
		return math.MaxInt64, true
	}
	return time.Duration(n) * size, true
}

// append writes a lifetime; a part of a unit counts as one.
func (u unit) append(b []byte, d time.Duration) []byte {
	size, letter := u.size, byte(0)
	if size == 0 {
		size, letter = time.Second, 's'
		for _, s := range suffixes {
			if d%s.size == 0 {
				size, letter = s.size, s.letter
				break
			}
		}
	}
	b = strconv.AppendInt(b, int64((d-1)/size)+1, 10)
	if letter != 0 {
		b = append(b, letter)
	}
	return b
}

// text is a lifetime in messages.
func (u unit) text(d time.Duration) string {
	switch {
	case u.size == 0:
		return string(u.append(nil, d))
	case d%u.size != 0:
		return d.String()
	}
	return string(u.append(nil, d)) + " " + u.name
}
