// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package token signs the sessions that clients carry in cookies, and reads them.
//
// A Token is a binding that is in no store or that outlives it. Keys seals and
// opens tokens; the keys are given, or generated and kept in Caddy's storage. A
// value that is not a valid token has a Rejection.
//
// The package knows no cookies and no stores: a token is a string.
package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"strings"
	"sync"
	"time"

	"github.com/caddy-sticky/caddy-sticky/internal/closedset"
)

// Prefix begins every sealed token: it tells our values from others that
// stand in a cookie of the same name, and says how to read them.
const Prefix = "s1."

// A sealed token is the prefix and, in base64 without padding, these fields in
// big-endian order:
//
//	 4 bytes  id of the key that sealed it
//	 4 bytes  digest of the scope, to tell another policy's token from a forged one
//	16 bytes  session id
//	 8 bytes  keyed hash of the target
//	 8 bytes  created, nanoseconds since 1970
//	 8 bytes  expires, nanoseconds since 1970
//	 4 bytes  last seen, sixteenths of a second since created
//	16 bytes  HMAC-SHA-256 of the scope and all of the above, truncated
const (
	tokenBody   = 4 + 4 + 16 + 8 + 8 + 8 + 4
	tokenMAC    = 16
	tokenBytes  = tokenBody + tokenMAC
	tokenLength = len(Prefix) + (tokenBytes*8+5)/6
)

// tokenTick is the resolution of Token.Seen: eight years of it fit.
const tokenTick = time.Second / 16

// tokenSkew is how far ahead the clock of the machine that sealed a token may
// be.
const tokenSkew = time.Minute

// Token is a session that a client carries: a binding that is in no table, or
// that outlives it.
type Token struct {
	// ID is the session id.
	ID [16]byte

	// Target is the keyed hash of the target's identity.
	Target TargetHash

	// Created and Expires bound the session's life, as in Session.
	Created, Expires time.Time

	// Seen is when the session was last known to be used, to a sixteenth of a
	// second.
	Seen time.Time

	key keyID // that sealed it
}

// TargetHash stands for a target: nobody without the key can tell which one.
type TargetHash [8]byte

type keyID [4]byte

// Rejection is why a value is not a valid token. A closed set: it labels
// metrics. The empty one is no rejection.
type Rejection string

// The rejections; Rejections says what they mean.
const (
	RejectGarbage   Rejection = "garbage"
	RejectTruncated Rejection = "truncated"
	RejectOversized Rejection = "oversized"
	RejectKey       Rejection = "key"
	RejectPolicy    Rejection = "policy"
	RejectForged    Rejection = "forged"
	RejectExpired   Rejection = "expired"
	RejectFuture    Rejection = "future"
)

// Rejections are all rejections.
var Rejections = [...]closedset.Member[Rejection]{
	{Name: RejectGarbage, Meaning: "it is not what the policy makes: another program set it, or it was changed"},
	{Name: RejectTruncated, Meaning: "it is too short"},
	{Name: RejectOversized, Meaning: "it is too long"},
	{Name: RejectKey, Meaning: "it was signed with a key that this Caddy does not have, or no longer accepts"},
	{Name: RejectPolicy, Meaning: "it was signed for a policy of another name"},
	{Name: RejectForged, Meaning: "its signature is wrong"},
	{Name: RejectExpired, Meaning: "its session is over"},
	{Name: RejectFuture, Meaning: "its session begins later: the clocks of two machines differ"},
}

// tokenKey seals tokens and names targets.
type tokenKey struct {
	id      keyID
	secret  []byte // of any length
	created time.Time
	signs   time.Time // when it is used for new tokens

	mac, target []byte // derived
	names       *targetNames
	signers     sync.Pool // of *signer
}

// derive readies the key for use.
func (k *tokenKey) derive() {
	derived := func(purpose string) []byte {
		mac := hmac.New(sha256.New, k.secret)
		mac.Write([]byte("caddy-sticky " + purpose))
		return mac.Sum(nil)
	}
	k.mac, k.target = derived("token"), derived("target")
	k.names = newTargetNames(k.target)
}

// signer signs one token after the other. It is pooled: what a hash works with
// would be allocated for each token.
type signer struct {
	mac hash.Hash
	in  []byte
	out []byte
}

// sign returns the MAC of a token's body for a scope.
func (k *tokenKey) sign(scope string, body []byte) [tokenMAC]byte {
	s, _ := k.signers.Get().(*signer)
	if s == nil {
		s = &signer{mac: hmac.New(sha256.New, k.mac)}
	}
	defer k.signers.Put(s)
	s.in = binary.AppendUvarint(s.in[:0], uint64(len(scope)))
	s.in = append(append(s.in, scope...), body...)
	s.mac.Reset()
	s.mac.Write(s.in)
	s.out = s.mac.Sum(s.out[:0])
	return [tokenMAC]byte(s.out)
}

// scopeMark tells the tokens of one scope from those of others. It is no secret.
func scopeMark(scope string) [4]byte {
	sum := sha256.Sum256([]byte(scope))
	return [4]byte(sum[:])
}

// seal writes a token.
func (k *tokenKey) seal(scope string, t Token) string {
	var raw [tokenBytes]byte
	b := append(raw[:0], k.id[:]...)
	mark := scopeMark(scope)
	b = append(b, mark[:]...)
	b = append(b, t.ID[:]...)
	b = append(b, t.Target[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Created.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, uint64(t.Expires.UnixNano()))
	seen := max(t.Seen.Sub(t.Created)/tokenTick, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(min(seen, 1<<32-1)))
	mac := k.sign(scope, b)
	b = append(b, mac[:]...)

	var text [tokenLength]byte
	copy(text[:], Prefix)
	base64.RawURLEncoding.Encode(text[len(Prefix):], b)
	return string(text[:])
}

// decodeToken bounds a value before it looks at it, and returns its bytes.
func decodeToken(value string) (raw [tokenBytes]byte, r Rejection) {
	text, ok := strings.CutPrefix(value, Prefix)
	switch {
	case !ok:
		return raw, RejectGarbage
	case len(value) < tokenLength:
		return raw, RejectTruncated
	case len(value) > tokenLength:
		return raw, RejectOversized
	}
	if strings.ContainsAny(text, "\r\n") { // which base64 passes over
		return raw, RejectGarbage
	}
	if n, err := strictBase64.Decode(raw[:], []byte(text)); err != nil || n != tokenBytes {
		return raw, RejectGarbage
	}
	return raw, ""
}

// strictBase64 takes one spelling of each value only.
var strictBase64 = base64.RawURLEncoding.Strict()

// open reads a token that says it was sealed with this key. A token that is only
// too old is returned along with the rejection: where it was bound to is true.
func (k *tokenKey) open(scope string, raw *[tokenBytes]byte, now time.Time) (Token, Rejection) {
	body := raw[:tokenBody]
	mac := k.sign(scope, body)
	if !hmac.Equal(mac[:], raw[tokenBody:]) {
		if [4]byte(body[4:8]) != scopeMark(scope) {
			return Token{}, RejectPolicy
		}
		return Token{}, RejectForged
	}
	t := Token{
		key:     k.id,
		ID:      [16]byte(body[8:24]),
		Target:  TargetHash(body[24:32]),
		Created: time.Unix(0, int64(binary.BigEndian.Uint64(body[32:40]))),
		Expires: time.Unix(0, int64(binary.BigEndian.Uint64(body[40:48]))),
	}
	t.Seen = t.Created.Add(time.Duration(binary.BigEndian.Uint32(body[48:52])) * tokenTick)
	switch {
	case t.Created.After(now.Add(tokenSkew)):
		return Token{}, RejectFuture
	case !now.Before(t.Expires):
		return t, RejectExpired
	}
	return t, ""
}
