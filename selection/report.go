// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// PlaceholderPrefix is what the names of all our placeholders begin with.
const PlaceholderPrefix = "http.sticky."

// Report is what the outside may know of a decision: in placeholders and in
// logs, and the same from all doors.
type Report struct {
	Key     sessionstore.Key
	Target  string
	Outcome Outcome
	Reason  Reason
}

// ReportOf makes the report of a decision.
func ReportOf[T Target](key sessionstore.Key, d Decision[T]) Report {
	var none T
	r := Report{Key: key, Outcome: d.Outcome, Reason: d.Reason}
	if d.Target != none {
		r.Target = d.Target.String()
	}
	return r
}

// Placeholder is a caddy.ReplacerFunc: it provides {http.sticky.session},
// .target, .outcome and .reason.
func (r Report) Placeholder(name string) (any, bool) {
	what, ok := strings.CutPrefix(name, PlaceholderPrefix)
	if !ok {
		return nil, false
	}
	switch what {
	case "session":
		return HashKey(r.Key), true
	case "target":
		return r.Target, true
	case "outcome":
		return string(r.Outcome), true
	case "reason":
		return string(r.Reason), true
	}
	return nil, false
}

// Fields are the report's fields in a log.
func (r Report) Fields() []zap.Field {
	return []zap.Field{
		zap.String("session", HashKey(r.Key)),
		zap.String("target", r.Target),
		zap.String("outcome", string(r.Outcome)),
		zap.String("reason", string(r.Reason)),
	}
}

// logSecret keys the hashes in logs: ids that can be guessed, such as client
// addresses, must not be found by trying.
var logSecret = func() []byte {
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // never fails
	return secret
}()

// HashKey returns a short name for a session that is fit for logs: the same for
// the same key within this process, and empty for the zero key.
func HashKey(key sessionstore.Key) string {
	if key.IsZero() {
		return ""
	}
	mac := hmac.New(sha256.New, logSecret)
	mac.Write(key[:])
	return hex.EncodeToString(mac.Sum(nil)[:8])
}
