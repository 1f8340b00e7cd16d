// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxQuoted is how much of a refused value goes into a reason, in bytes.
const maxQuoted = 32

func malformed(format string, args ...any) error {
	return &Error{Reason: fmt.Sprintf(format, args...)}
}

func checkAccountText(account string) error {
	switch {
	case account == "":
		return malformed("the account is empty: write it before the parameters")
	case !utf8.ValidString(account):
		return malformed("the account is not valid UTF-8: send the username in UTF-8")
	case strings.Contains(account, ":"):
		return malformed("the account holds a colon, which ends a username: leave it out")
	case hasControl(account):
		return malformed("the account holds a control character: leave it out")
	}
	return nil
}

func checkText(name, value string) error {
	switch {
	case value == "":
		return malformed("%s is empty: give it 1 to %d characters, or leave it out", name, maxValue)
	case !utf8.ValidString(value):
		return malformed("%s is not valid UTF-8: send the username in UTF-8", name)
	case runes(value) > maxValue:
		return malformed("%s is longer than %d characters: shorten it", name, maxValue)
	case hasControl(value):
		return malformed("%s holds a control character: leave it out", name)
	}
	return nil
}

func runes(s string) int { return utf8.RuneCountInString(s) }

func hasControl(s string) bool { return strings.IndexFunc(s, unicode.IsControl) >= 0 }

// clip bounds what of a refused value is repeated.
func clip(value string) string { return value[:min(len(value), maxQuoted)] }

// decimal reads a number up to highest that is written in digits alone.
func decimal(s string, highest int64) (n int64, ok bool) {
	for i := range len(s) {
		digit := int64(s[i]) - '0'
		if digit < 0 || digit > 9 || n > (highest-digit)/10 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, s != ""
}

// unescape decodes percent escapes. Without any, the result is s itself.
func unescape(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		high, low := unhex(s[i+1]), unhex(s[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		b = append(b, byte(high<<4|low))
		i += 2
	}
	return string(b), true
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}
