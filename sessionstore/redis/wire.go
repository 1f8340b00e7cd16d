// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// A session is one string at the server, so that it changes as one. Its head is
// of fixed width, so that scripts find its parts, and in decimal digits, so that
// they compare times exactly: Lua's numbers do not hold nanoseconds.
//
//	1      S, or T for a tombstone
//	2..20  created (of a tombstone: when the session ended)
//	21..39 expires
//	40..58 end: the earlier one of expires and of when it is idle
//	59..77 last used
//	78..87 max_idle in milliseconds
//	88..97 max_errors
//	98..107 errors
//	108..112 length of the scope
//	113..  scope, a zero byte, target
const wireHead = 112

// redisTags spreads sessions over a cluster. All keys of one tag are in one slot,
// so that a session and what counts it change together. A power of two.
const redisTags = 32

var errWire = errors.New("a value at the server is not a session")

// names are the names of the server's keys, by tag.
type names struct {
	sessions [redisTags]string // a session's key is this and its own name
	ends     [redisTags]string // sorted set: sessions that are counted, by their end
	counts   [redisTags]string // hash: scope and target to the number of sessions
}

func newNames(prefix string) *names {
	n := new(names)
	for tag := range redisTags {
		n.sessions[tag] = fmt.Sprintf("%ss{%02x}", prefix, tag)
		n.ends[tag] = fmt.Sprintf("%se{%02x}", prefix, tag)
		n.counts[tag] = fmt.Sprintf("%sc{%02x}", prefix, tag)
	}
	return n
}

func tagOf(key sessionstore.Key) int { return int(key[0]) % redisTags }

func ownName(key sessionstore.Key) string { return base64.RawURLEncoding.EncodeToString(key[:]) }

func (n *names) of(key sessionstore.Key) string { return n.sessions[tagOf(key)] + ownName(key) }

// keyOf is of backwards.
func (n *names) keyOf(name string) (key sessionstore.Key, ok bool) {
	if len(name) < 22 {
		return key, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(name[len(name)-22:])
	if err != nil {
		return key, false
	}
	key = sessionstore.Key(raw)
	return key, n.of(key) == name
}

// nanos is a time as it is written: between 1970 and 2262, and no time is 0.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero() || t.Unix() < 0:
		return 0
	case t.Unix() >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return t.UnixNano()
}

func digits(n int64) string { return fmt.Sprintf("%019d", n) }

func field(scope, target string) string { return scope + "\x00" + target }

func endOf(s sessionstore.Session) int64 {
	if s.MaxIdle <= 0 {
		return nanos(s.Expires)
	}
	return min(nanos(s.Expires), nanos(s.LastUsed.Add(s.MaxIdle)))
}

// encode writes a session.
func encode(s sessionstore.Session) string {
	return fmt.Sprintf("S%019d%019d%019d%019d%010d%010d%010d%05d%s",
		nanos(s.Created), nanos(s.Expires), endOf(s), nanos(s.LastUsed),
		s.MaxIdle.Milliseconds(), s.MaxErrors, s.Errors, len(s.Scope), field(s.Scope, s.Target))
}

// tidy brings what a caller gave into the ranges that are stored.
func tidy(s sessionstore.Session) sessionstore.Session {
	s.Created, s.Expires = time.Unix(0, nanos(s.Created)), time.Unix(0, nanos(s.Expires))
	s.LastUsed = time.Unix(0, max(nanos(s.LastUsed), nanos(s.Created)))
	s.MaxIdle = min(max(s.MaxIdle.Truncate(time.Millisecond), 0), math.MaxUint32*time.Millisecond)
	s.MaxErrors = min(max(s.MaxErrors, 0), math.MaxInt32)
	s.Errors = min(max(s.Errors, 0), math.MaxInt32)
	s.Carried, s.Ended = false, time.Time{}
	return s
}

// decode reads what encode or a script wrote. Others may write to the server as
// well.
func decode(key sessionstore.Key, v string) (sessionstore.Session, error) {
	if len(v) < wireHead || (v[0] != 'S' && v[0] != 'T') {
		return sessionstore.Session{}, errWire
	}
	var failed error
	number := func(from, to int) int64 {
		n, err := strconv.ParseUint(v[from-1:to], 10, 63)
		if err != nil {
			failed = errWire
		}
		return int64(n)
	}
	created, expires, used := number(2, 20), number(21, 39), number(59, 77)
	idle, maxErrors, errs, split := number(78, 87), number(88, 97), number(98, 107), int(number(108, 112))
	if failed != nil {
		return sessionstore.Session{}, failed
	}
	if v[0] == 'T' {
		return sessionstore.Session{Key: key, Ended: time.Unix(0, created), Expires: time.Unix(0, expires)}, nil
	}
	rest := v[wireHead:]
	if split >= len(rest) || rest[split] != 0 {
		return sessionstore.Session{}, errWire
	}
	return sessionstore.Session{
		Key: key, Scope: strings.Clone(rest[:split]), Target: strings.Clone(rest[split+1:]),
		Created: time.Unix(0, created), Expires: time.Unix(0, expires), LastUsed: time.Unix(0, used),
		MaxIdle: time.Duration(idle) * time.Millisecond, MaxErrors: int(maxErrors), Errors: int(errs),
	}, nil
}

// forgottenAt is when the server forgets even where a session was.
func forgottenAt(s sessionstore.Session) time.Time {
	if s.Target == "" {
		return s.Expires
	}
	remains := min(s.Expires.Sub(s.Created), sessionstore.RemainsLimit)
	if until := nanos(s.Expires); until < math.MaxInt64-int64(remains) {
		return time.Unix(0, until+int64(max(remains, 0)))
	}
	return s.Expires
}

// millis is a time as the server takes it: rounded up.
func millis(t time.Time) string { return strconv.FormatInt(nanos(t)/int64(time.Millisecond)+1, 10) }

// scriptHead is common to all scripts. Keys: the session, the ends and the
// counts of its tag. Argument 1 is the session's own name, 2 is now.
//
// A script that writes sets the session first: a server that is out of memory
// refuses the first write of a script or none, so that nothing is half done.
//
// A script that wrote the session reads it again: that is how the server knows to
// tell this connection when another one changes it.
//
// The counts have a version in their field of no name. All answers have the
// form {done, session, version, field, count, field, count}: whoever gets two
// of them in the wrong order knows which is newer.
//
//nolint:dupword // Lua
const scriptHead = `
local session, ends, counts = KEYS[1], KEYS[2], KEYS[3]
local name, now = ARGV[1], ARGV[2]
local v = redis.call('GET', session)
local function tail(v) return string.sub(v, 113) end
local function target(v) return string.sub(v, 114 + tonumber(string.sub(v, 108, 112))) end
local function live(v) return now < string.sub(v, 40, 58) end
local function count(v)
	if live(v) and redis.call('ZADD', ends, tonumber(string.sub(v, 40, 52)) + 1, name .. tail(v)) == 1 then
		redis.call('HINCRBY', counts, tail(v), 1)
	end
end
local function uncount(v)
	if redis.call('ZREM', ends, name .. tail(v)) == 1 and redis.call('HINCRBY', counts, tail(v), -1) <= 0 then
		redis.call('HDEL', counts, tail(v))
	end
end
local function changed(v, a, b)
	redis.call('GET', session)
	local answer = {1, v, redis.call('HINCRBY', counts, '', 1)}
	for _, w in ipairs({a, b}) do
		if w and string.sub(w, 1, 1) == 'S' then
			answer[#answer + 1] = tail(w)
			answer[#answer + 1] = tonumber(redis.call('HGET', counts, tail(w)) or 0)
		end
	end
	return answer
end
`

var (
	// claimScript: 3 is the session, 4 when it is forgotten, in milliseconds.
	claimScript = rueidis.NewLuaScript(scriptHead + `
if v and live(v) and (string.sub(v, 1, 1) == 'S' or string.sub(ARGV[3], 2, 20) <= string.sub(v, 2, 20)) then
	return {0, v}
end
redis.call('SET', session, ARGV[3], 'PXAT', ARGV[4])
if v then uncount(v) end
count(ARGV[3])
return changed(ARGV[3], ARGV[3], v)
`)

	// replaceScript: 3 and 4 as in claimScript, 5 and 6 are when the old session
	// was created and its target.
	replaceScript = rueidis.NewLuaScript(scriptHead + `
if not v then return {0} end
if string.sub(v, 1, 1) ~= 'S' or string.sub(v, 2, 20) ~= ARGV[5] or target(v) ~= ARGV[6] then
	return {0, v}
end
redis.call('SET', session, ARGV[3], 'PXAT', ARGV[4])
uncount(v)
count(ARGV[3])
return changed(ARGV[3], ARGV[3], v)
`)

	// touchScript: 3 and 4 are when the session was created and its target, 5
	// what is done to its errors, 6 when it is idle.
	//nolint:dupword // Lua
	touchScript = rueidis.NewLuaScript(scriptHead + `
if not v then return {0} end
if string.sub(v, 1, 1) ~= 'S' or string.sub(v, 2, 20) ~= ARGV[3] or target(v) ~= ARGV[4] then
	return {0, v}
end
local errors, used = tonumber(string.sub(v, 98, 107)), string.sub(v, 59, 77)
if ARGV[5] == 'failed' then errors = math.min(errors + 1, 2147483647) end
if ARGV[5] == 'succeeded' then errors = 0 end
if ARGV[6] == '' and errors == tonumber(string.sub(v, 98, 107)) then return {1, v} end
if now > used then used = now end
local over = string.sub(v, 40, 58)
if ARGV[6] ~= '' then
	if ARGV[6] > over then over = ARGV[6] end
	if string.sub(v, 21, 39) < over then over = string.sub(v, 21, 39) end
end
local w = string.sub(v, 1, 39) .. over .. used .. string.sub(v, 78, 97) .. string.format('%010d', errors) .. string.sub(v, 108)
redis.call('SET', session, w, 'KEEPTTL')
if ARGV[6] ~= '' then count(w) end
redis.call('GET', session)
return {1, w}
`)

	// endScript: 3 is until when.
	endScript = rueidis.NewLuaScript(scriptHead + `
local expires = ARGV[3]
if v and string.sub(v, 21, 39) > expires then expires = string.sub(v, 21, 39) end
if expires <= now then return {0, v} end
local ended = now
if v and string.sub(v, 2, 20) > ended then ended = string.sub(v, 2, 20) end
local w = 'T' .. ended .. expires .. expires .. string.rep('0', 19 + 35)
redis.call('SET', session, w, 'PXAT', string.format('%d', tonumber(string.sub(expires, 1, 13)) + 1))
if v then uncount(v) end
return changed(w, v)
`)

	// sweepScript takes sessions that are over out of the counts and lists these.
	// Keys: the ends and the counts. Arguments: now in milliseconds, how many at
	// most.
	//nolint:dupword // Lua
	sweepScript = rueidis.NewLuaScript(`
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(over) do
	local tail = string.sub(member, 23)
	redis.call('ZREM', KEYS[1], member)
	if redis.call('HINCRBY', KEYS[2], tail, -1) <= 0 then redis.call('HDEL', KEYS[2], tail) end
end
if #over > 0 then redis.call('HINCRBY', KEYS[2], '', 1) end
return redis.call('HGETALL', KEYS[2])
`)
)
