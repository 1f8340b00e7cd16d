// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/selection/source"
)

// token makes a JWT of claims, unsigned: nobody looks at the signature.
func token(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + ".c2lnbmF0dXJl"
}

// claimIn returns the session id of a request with this token.
func claimIn(t *testing.T, name, token string) string {
	t.Helper()
	src := ready(t, &source.JWT{Claim: name})
	r := request(nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return src.SessionID(r)
}

func TestClaimNamesTheSession(t *testing.T) {
	const claims = `{
		"sub": "alice", "escaped": "al\u0069ce \"b\"", "tenant": 42, "float": 1.50, "admin": true, "guest": false,
		"realm": {"sub": "nested"}, "aud": ["a"], "nothing": null, "empty": "",
		"https://example.com/team": "red", "Sub": "other", "twice": "first", "twice": "last"
	}`
	for name, want := range map[string]string{
		"sub":                      "alice",
		"escaped":                  `alice "b"`,
		"tenant":                   "42",
		"float":                    "1.50",
		"admin":                    "true",
		"guest":                    "false",
		"https://example.com/team": "red",
		"Sub":                      "other",
		"twice":                    "last",
		"SUB":                      "",
		"realm":                    "",
		"realm.sub":                "",
		"aud":                      "",
		"nothing":                  "",
		"empty":                    "",
		"absent":                   "",
	} {
		require.Equal(t, want, claimIn(t, name, token(claims)), name)
	}
}

func TestWhatIsNoTokenNamesNoSession(t *testing.T) {
	good := token(`{"sub":"alice"}`)
	parts := strings.Split(good, ".")
	long := token(`{"sub":"alice","pad":"` + strings.Repeat("x", 20_000) + `"}`)
	for name, bad := range map[string]string{
		"nothing":       "",
		"one part":      parts[1],
		"two parts":     parts[0] + "." + parts[1],
		"four parts":    good + ".",
		"encrypted":     good + ".a.b",
		"no payload":    parts[0] + ".." + parts[2],
		"not base64url": parts[0] + ".{}." + parts[2],
		"padded":        parts[0] + "." + base64.URLEncoding.EncodeToString([]byte(`{"sub":"alice"} `)) + "." + parts[2],
		"not JSON":      token(`sub=alice`),
		"cut off":       token(`{"sub":"alice"`),
		"two objects":   token(`{"sub":"alice"}{}`),
		"an array":      token(`["sub","alice"]`),
		"a string":      token(`"sub"`),
		"null":          token(`null`),
		"too long":      long,
	} {
		require.Empty(t, claimIn(t, "sub", bad), name)
	}
	require.Equal(t, "alice", claimIn(t, "sub", good))
	require.Equal(t, "alice", claimIn(t, "sub", parts[0]+"."+parts[1]+"."), "nobody looks at the signature")
}

func TestTokenIsWhereTheSourceLooks(t *testing.T) {
	alice, bob := token(`{"sub":"alice"}`), token(`{"sub":"bob"}`)
	for _, test := range []struct {
		name   string
		src    source.JWT
		header []string // name, value, …
		want   string
	}{
		{"no header", source.JWT{}, nil, ""},
		{"bearer", source.JWT{}, []string{"Authorization", "Bearer " + alice}, "alice"},
		{"bearer in another case", source.JWT{}, []string{"Authorization", "bearer   " + alice}, "alice"},
		{"another scheme", source.JWT{}, []string{"Authorization", "Basic " + alice}, ""},
		{"the scheme alone", source.JWT{}, []string{"Authorization", "Bearer"}, ""},
		{"the first of two", source.JWT{}, []string{"Authorization", "Bearer " + alice, "Authorization", "Bearer " + bob}, "alice"},
		{"a header of its own", source.JWT{Header: "x-token"}, []string{"X-Token", alice, "Authorization", "Bearer " + bob}, "alice"},
		{"a header of its own with a scheme", source.JWT{Header: "X-Token"}, []string{"X-Token", "Bearer " + alice}, "alice"},
		{"a cookie", source.JWT{Cookie: "token"}, []string{"Cookie", "theme=dark; token=" + alice, "Authorization", "Bearer " + bob}, "alice"},
		{"the first of two cookies", source.JWT{Cookie: "token"}, []string{"Cookie", "token=" + alice + "; token=" + bob}, "alice"},
		{"no such cookie", source.JWT{Cookie: "token"}, []string{"Cookie", "Token=" + alice}, ""},
		{"no cookies", source.JWT{Cookie: "token"}, nil, ""},
	} {
		test.src.Claim = "sub"
		src := ready(t, &test.src)
		r := request(nil)
		for i := 0; i < len(test.header); i += 2 {
			r.Header.Add(test.header[i], test.header[i+1])
		}
		require.Equal(t, test.want, src.SessionID(r), test.name)
	}
}

func TestTokenIsSomewhere(t *testing.T) {
	for _, bad := range []source.JWT{
		{}, {Header: "X-Token"}, {Claim: "sub", Header: "X-Token", Cookie: "token"},
		{Claim: "sub", Header: "X Token"}, {Claim: "sub", Cookie: "to;ken"},
	} {
		require.ErrorContains(t, set(&bad), "source jwt: ")
	}
}

// A token names the session that its claim says, decoded in another way.
func FuzzJWT(f *testing.F) {
	for _, seed := range []string{
		`{"sub":"alice"}`, `{"sub":1e400}`, `{"sub":true,"sub":null}`, `{"sub":{"sub":"a"}}`, `{"s\u0075b":"\ud800"}`,
		`[]`, `null`, ``, ` {} `, `{"sub":"` + "\xff" + `"}`, `{"sub":[]}{}`, `{"Sub":"alice"}`,
	} {
		f.Add("a", seed, "c", true)
		f.Add("a.b", seed, "", false)
	}
	f.Fuzz(func(t *testing.T, head, payload, signature string, encoded bool) {
		if encoded {
			payload = base64.RawURLEncoding.EncodeToString([]byte(payload))
		}
		token := head + "." + payload + "." + signature
		r := request(nil)
		r.Header["Authorization"] = []string{token}
		got := (&source.JWT{Claim: "sub", Header: "Authorization"}).SessionID(r)
		require.Equal(t, subject(token), got)
	})
}

// subject is the claim sub of a token.
func subject(token string) string {
	if len(token) > 7 && strings.EqualFold(token[:7], "Bearer ") {
		token = token[7:]
	}
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 || strings.ContainsRune(strings.Join(parts, ""), ' ') || len(strings.Join(parts, ".")) > 16384 || strings.Contains(parts[1], "=") {
		return ""
	}
	unbroken := strings.NewReplacer("\r", "", "\n", "").Replace(parts[1])
	text, err := base64.URLEncoding.DecodeString(unbroken + strings.Repeat("=", (4-len(unbroken)%4)%4))
	if err != nil {
		return ""
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var claims map[string]any
	if decoder.Decode(&claims) != nil || decoder.More() || strings.TrimSpace(string(text[decoder.InputOffset():])) != "" {
		return ""
	}
	switch value := claims["sub"].(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	case bool:
		return map[bool]string{true: "true", false: "false"}[value]
	}
	return ""
}

func BenchmarkJWT(b *testing.B) {
	src := &source.JWT{Claim: "sub", Header: "Authorization"}
	r := request(nil)
	r.Header.Set("Authorization", "Bearer "+token(`{"iss":"https://id.example.com/","sub":"auth0|5f7c8ec7c33c6c004bbafe82","aud":["https://api.example.com"],
		"iat":1311281970,"exp":1311367970,"azp":"my_client_id","scope":"openid profile email","name":"Alice Example","email":"alice@example.com","sid":"08a5019c"}`))
	b.ReportAllocs()
	for b.Loop() {
		_ = src.SessionID(r)
	}
}
