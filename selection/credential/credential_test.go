// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func mustPreset(tb testing.TB) *Grammar {
	tb.Helper()
	return compile(tb, Config{})
}

func compile(tb testing.TB, cfg Config) *Grammar {
	tb.Helper()
	g, err := cfg.Compile()
	require.NoError(tb, err)
	return g
}

func TestParseReadsParameters(t *testing.T) {
	long := strings.Repeat("x", 255)
	wide := strings.Repeat("ä", 200)
	tests := []struct {
		username string
		want     Credentials
	}{
		{"alice", Credentials{Account: "alice"}},
		{"alice-session-abc", Credentials{Account: "alice", Session: "abc"}},
		{"alice-session-abc-sessionttl-30", Credentials{Account: "alice", Session: "abc", TTL: 30 * time.Minute}},
		{"alice-sessionttl-30-session-abc", Credentials{Account: "alice", Session: "abc", TTL: 30 * time.Minute}},
		{"alice-sessionttl-030", Credentials{Account: "alice", TTL: 30 * time.Minute}},
		{"alice-sessionttl-%33%30", Credentials{Account: "alice", TTL: 30 * time.Minute}},
		{"alice-sessionttl-240", Credentials{Account: "alice", TTL: 4 * time.Hour}},
		{"alice-sessionmode-strict", Credentials{Account: "alice", Mode: "strict"}},
		{"alice-sessionmode-flex-sessionerr-1", Credentials{Account: "alice", Mode: "flex", MaxErrors: 1}},
		{"alice-sessionerr-100-sessionmode-norotate", Credentials{Account: "alice", Mode: "norotate", MaxErrors: 100}},
		{"alice-country-de", Credentials{Account: "alice", Tags: Tags{{"country", "de"}}}},
		{"alice-country-de-city-berlin", Credentials{Account: "alice", Tags: Tags{{"city", "berlin"}, {"country", "de"}}}},
		{"alice-city-berlin-session-1-country-de", Credentials{Account: "alice", Session: "1", Tags: Tags{{"city", "berlin"}, {"country", "de"}}}},

		// The separator is part of accounts and values, but before a known key.
		{"alice-session", Credentials{Account: "alice-session"}},
		{"alice-b-session-a-b-c", Credentials{Account: "alice-b", Session: "a-b-c"}},
		{"alice--session--", Credentials{Account: "alice-", Session: "-"}},
		{"alice-session-session-x", Credentials{Account: "alice", Session: "session-x"}},
		{"alice-session-a-session", Credentials{Account: "alice", Session: "a-session"}},
		{"alice-session-abc-region-x", Credentials{Account: "alice", Session: "abc-region-x"}},
		{"alice-Session-abc", Credentials{Account: "alice-Session-abc"}},
		{"alice-sessions-abc", Credentials{Account: "alice-sessions-abc"}},
		{"alice-session-a%2Dsession%2db", Credentials{Account: "alice", Session: "a-session-b"}},
		{"alice-session-a%3Ab%25", Credentials{Account: "alice", Session: "a:b%"}},
		{"al%2Dice-session-a+b c", Credentials{Account: "al%2Dice", Session: "a+b c"}},
		{"alice-session-" + long, Credentials{Account: "alice", Session: long}},
		{"alice-session-" + wide, Credentials{Account: "alice", Session: wide}},
		{"älice-session-%C3%A4", Credentials{Account: "älice", Session: "ä"}},

		// The query form.
		{"alice?session=abc&sessionttl=30", Credentials{Account: "alice", Session: "abc", TTL: 30 * time.Minute}},
		{"alice?city=b&session=a-sessionttl-3=0?", Credentials{Account: "alice", Session: "a-sessionttl-3=0?", Tags: Tags{{"city", "b"}}}},
		{"alice?session=a%26b", Credentials{Account: "alice", Session: "a&b"}},
		{"alice-session?session=a", Credentials{Account: "alice-session", Session: "a"}},
		{"what?", Credentials{Account: "what?"}},
		{"what?x=y", Credentials{Account: "what?x=y"}},
		{"what?session", Credentials{Account: "what?session"}},
		{"what?-session-a?b", Credentials{Account: "what?", Session: "a?b"}},
	}
	g := mustPreset(t)
	for _, tt := range tests {
		t.Run(tt.username, func(t *testing.T) {
			got, err := g.Parse(tt.username)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestParseRefusesWithReason(t *testing.T) {
	const secret = "s3cr3t"
	tests := []struct{ name, username, want string }{
		{"empty", "", "the account is empty: write it before the parameters"},
		{"no account", "-session-s3cr3t", "the account is empty: write it before the parameters"},
		{"no account, query", "?session=s3cr3t", "the account is empty: write it before the parameters"},
		{"too long", "alice-session-s3cr3t" + strings.Repeat("x", 500), "the username is 520 bytes long: shorten it to at most 512"},
		{"account not UTF-8", "\xff", "the account is not valid UTF-8: send the username in UTF-8"},
		{"account with control", "al\nice-session-s3cr3t", "the account holds a control character: leave it out"},
		{"account with colon", "al:ice-session-s3cr3t", "the account holds a colon, which ends a username: leave it out"},

		{"empty session", "alice-session-", "session is empty: give it 1 to 255 characters, or leave it out"},
		{"empty session before ttl", "alice-session--sessionttl-3", "session is empty: give it 1 to 255 characters, or leave it out"},
		{"empty country", "alice?country=", "country is empty: give it 1 to 255 characters, or leave it out"},
		{"long session", "alice-session-s3cr3t" + strings.Repeat("x", 250), "session is longer than 255 characters: shorten it"},
		{"session not UTF-8", "alice-session-s3cr3t%ff", "session is not valid UTF-8: send the username in UTF-8"},
		{"session with control", "alice-session-s3cr3t%0d", "session holds a control character: leave it out"},
		{"session with C1 control", "alice-session-s3cr3t\u0085", "session holds a control character: leave it out"},
		{"session with NUL", "alice-session-s3cr3t\x00", "session holds a control character: leave it out"},
		{"bad escape", "alice-session-s3cr3t%zz", "session holds an invalid percent escape: write a percent sign as %25"},
		{"short escape", "alice-session-s3cr3t%2", "session holds an invalid percent escape: write a percent sign as %25"},
		{"repeated session", "alice-session-s3cr3t-session-s3cr3t", "session is repeated: give it once"},
		{"repeated tag", "alice?city=a&city=b", "city is repeated: give it once"},

		{"ttl zero", "alice-sessionttl-0", `sessionttl "0" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"ttl negative", "alice-session-s3cr3t-sessionttl--3", `sessionttl "-3" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"ttl plus", "alice-sessionttl-+3", `sessionttl "+3" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"ttl space", "alice-sessionttl- 3", `sessionttl " 3" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"ttl empty", "alice-sessionttl-", `sessionttl "" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"ttl unit", "alice-sessionttl-30m", `sessionttl "30m" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"ttl other digits", "alice-sessionttl-३", `sessionttl "३" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"ttl overflows", "alice-sessionttl-153722868", `sessionttl "153722868" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"ttl too long", "alice-sessionttl-241", `sessionttl is 241 minutes, it must be within 1 minutes and 240 minutes`},
		{"ttl is long", "alice-sessionttl-" + strings.Repeat("9", 99), `sessionttl "99999999999999999999999999999999" is not a usable number of minutes: write a decimal number from 1, without a sign`},
		{"mode", "alice-sessionmode-Strict", `sessionmode "Strict" is unknown (have strict, flex, norotate)`},
		{"errors zero", "alice-sessionerr-0", `sessionerr "0" is not a usable number of errors: write a decimal number from 1 to 100`},
		{"errors 101", "alice-sessionerr-101", `sessionerr "101" is not a usable number of errors: write a decimal number from 1 to 100`},

		{"unknown parameter", "alice?session=s3cr3t&s3cr3t=1", "parameter 2 after ? is not one of session, sessionttl, sessionmode, sessionerr, country, city, each with = and a value: correct it, or write & inside a value as %26"},
		{"no value", "alice?session=s3cr3t&session", "parameter 2 after ? is not one of session, sessionttl, sessionmode, sessionerr, country, city, each with = and a value: correct it, or write & inside a value as %26"},
		{"surplus separator", "alice?session=s3cr3t&", "parameter 2 after ? is not one of session, sessionttl, sessionmode, sessionerr, country, city, each with = and a value: correct it, or write & inside a value as %26"},
		{"mixed forms", "alice-session-s3cr3t?sessionttl=30", "the username mixes two ways to write parameters: use one, and write ? inside a value as %3F"},
	}
	g := mustPreset(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := g.Parse(tt.username)
			require.ErrorIs(t, err, ErrMalformed)
			var reason *Error
			require.ErrorAs(t, err, &reason)
			require.Equal(t, tt.want, reason.Reason)
			require.NotContains(t, err.Error(), secret)
			require.Zero(t, got)
		})
	}
}

func TestFormatIsCanonical(t *testing.T) {
	tests := []struct {
		want string
		c    Credentials
	}{
		{"alice", Credentials{Account: "alice"}},
		{
			"alice-session-abc-sessionttl-30-sessionmode-flex-sessionerr-3-country-de-city-berlin",
			Credentials{
				Account: "alice", Session: "abc", TTL: 30 * time.Minute, Mode: "flex", MaxErrors: 3,
				Tags: Tags{{"city", "berlin"}, {"country", "de"}},
			},
		},
		{"a-session-x%2Dsession-sessionttl-1", Credentials{Account: "a", Session: "x-session", TTL: time.Minute}},
		{"a-session-%2Dcity-x", Credentials{Account: "a", Session: "-city-x"}},
		{"a-session-city-x%3Fcity=y?z", Credentials{Account: "a", Session: "city-x?city=y?z"}},
		{"a-session-b%3Ac%25-d", Credentials{Account: "a", Session: "b:c%-d"}},
		{"a-sessionttl-1", Credentials{Account: "a", TTL: time.Second}},
		{"a-sessionttl-2", Credentials{Account: "a", TTL: time.Minute + 1}},
		{"a", Credentials{Account: "a", Tags: Tags{{"asn", "1"}}}},
	}
	g := mustPreset(t)
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			require.Equal(t, tt.want, g.Format(tt.c))
			c, err := g.Parse(tt.want)
			require.NoError(t, err)
			require.Equal(t, tt.want, g.Format(c))
		})
	}
}

func TestTagsYieldSortedByKey(t *testing.T) {
	c, err := mustPreset(t).Parse("alice-country-de-city-berlin")
	require.NoError(t, err)
	require.Equal(t, "de", c.Tags.Get("country"))
	require.Empty(t, c.Tags.Get("asn"))
	require.Equal(t, map[string]string{"country": "de", "city": "berlin"}, maps.Collect(c.Tags.All()))
	for key := range c.Tags.All() {
		require.Equal(t, "city", key)
		break
	}
}

func TestCheckAccount(t *testing.T) {
	g := mustPreset(t)
	for _, name := range []string{"alice", "al-ice", "alice-", "-", "sessionttl", "session-x", "alice?", "alice?session", "a?x=y", "50%", "ä b", strings.Repeat("x", 255)} {
		require.NoError(t, g.CheckAccount(name), name)
	}
	tests := []struct{ name, want string }{
		{"", `account "": the name is empty: give it one`},
		{"a:b", `account "a:b": the name holds a colon, which ends a username: rename the account`},
		{"a\tb", `account "a\tb": the name holds a control character: rename the account`},
		{"a\xff", `account "a\xff": the name is not valid UTF-8: rename the account`},
		{strings.Repeat("x", 256), `account "` + strings.Repeat("x", 32) + `": the name is 256 bytes long: shorten it to at most 255`},
		{"team-session-a", `account "team-session-a": a client's username would be cut at "-session-a", which begins a parameter: rename the account`},
		{"team-city", `account "team-city": a client's username would be cut at "-city", which begins a parameter: rename the account`},
		{"team?city=x", `account "team?city=x": a client's username would be cut at "?city=x", which begins a parameter: rename the account`},
	}
	for _, tt := range tests {
		require.EqualError(t, g.CheckAccount(tt.name), tt.want)
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	g := mustPreset(t)
	for _, username := range []string{
		"alice",
		"alice-session-abc-sessionttl-30-sessionmode-flex-sessionerr-15-country-de-city-berlin",
		"alice?session=abc&sessionttl=30&sessionmode=flex&sessionerr=15&country=de&city=berlin",
	} {
		got := testing.AllocsPerRun(100, func() {
			c, err := g.Parse(username)
			if err != nil || c.Account != "alice" {
				t.Fatal(c, err)
			}
			for key, value := range c.Tags.All() {
				if key == "" || value == "" {
					t.Fatal(c)
				}
			}
		})
		require.Zero(t, got, username)
	}
}

func BenchmarkParse(b *testing.B) {
	g := mustPreset(b)
	for _, bb := range []struct{ name, username string }{
		{"account", "alice"},
		{"session", "alice-session-0192f5c8a7b3-sessionttl-30"},
		{"everything", "alice-session-abc-sessionttl-30-sessionmode-flex-sessionerr-15-country-de-city-berlin"},
		{"query", "alice?session=0192f5c8a7b3&sessionttl=30"},
		{"escaped", "alice-session-0192%2Df5c8a7b3-sessionttl-30"},
		{"worst", strings.Repeat("-session", 64)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = g.Parse(bb.username)
			}
		})
	}
}
