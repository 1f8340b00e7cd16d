// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// said is what a client sends: user and password.
type said struct{ username, password string }

// speech is a dialect by examples.
type speech struct {
	limits   Limits
	accepted []struct {
		said
		want Credentials
	}
	refused []struct {
		said
		want string // part of the reason
	}
}

type (
	yes = []struct {
		said
		want Credentials
	}
	no = []struct {
		said
		want string
	}
)

var speeches = map[string]speech{
	"massive": {
		limits: minutes(1, 240, 15),
		accepted: yes{
			{said{"alice-session-abc-sessionttl-30", "P"}, Credentials{Account: "alice", Password: "P", Session: "abc", TTL: 30 * time.Minute}},
			{said{"alice-country-us-sessionmode-flex-sessionerr-3-session-a-b", "P"}, Credentials{Account: "alice", Password: "P", Session: "a-b", Mode: "flex", MaxErrors: 3, Tags: Tags{{"country", "us"}}}},
			{said{"alice?session=abc&sessionttl=240", "P-session-x"}, Credentials{Account: "alice", Password: "P-session-x", Session: "abc", TTL: 4 * time.Hour}},
		},
		refused: no{
			{said{"alice-session-abc-sessionttl-241", "P"}, "sessionttl is 241 minutes, it must be within 1 minutes and 240 minutes"},
			{said{"alice?session=abc&zip=1", "P"}, "parameter 2 after ? is not one of session,"},
			{said{"alice-session-" + strings.Repeat("x", 256), "P"}, "session is longer than 255 characters"},
		},
	},
	"brightdata": {
		limits: untilIdle(5 * time.Minute),
		accepted: yes{
			{said{"brd-customer-C-zone-Z-session-x1", "P"}, Credentials{Account: "brd-customer-C-zone-Z", Password: "P", Session: "x1"}},
			{said{"brd-customer-C-zone-Z-session-x1-const", "P"}, Credentials{Account: "brd-customer-C-zone-Z", Password: "P", Session: "x1", Mode: "norotate"}},
			{said{"brd-customer-C-zone-Z-const-country-us-session-x1", "P"}, Credentials{Account: "brd-customer-C-zone-Z", Password: "P", Session: "x1", Mode: "norotate", Tags: Tags{{"country", "us"}}}},
		},
		refused: no{
			{said{"brd-customer-C-zone-Z-session-x_1", "P"}, "session holds a character that is not one of A-Za-z0-9"},
			{said{"brd-customer-C-zone-Z-session-x1-const-30", "P"}, "const is followed by something that is no parameter"},
			{said{"brd-customer-C-zone-Z-const-const", "P"}, "const is repeated"},
		},
	},
	"oxylabs": {
		limits: Limits{TTL: 10 * time.Minute, MinTTL: time.Minute, MaxTTL: 24 * time.Hour, MaxIdle: time.Minute},
		accepted: yes{
			{said{"customer-U-cc-DE-sessid-x-sesstime-10", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 10 * time.Minute, Tags: Tags{{"country", "DE"}}}},
			{said{"customer-U-sessid_oneip-x", "P"}, Credentials{Account: "U", Password: "P", Session: "x", Mode: "norotate"}},
			{said{"customer-U-cc-US-st-us_california-city-los_angeles", "P"}, Credentials{Account: "U", Password: "P", Tags: Tags{{"city", "los_angeles"}, {"country", "US"}, {"state", "us_california"}}}},
		},
		refused: no{
			{said{"U-cc-DE-sessid-x", "P"}, "the username does not begin with customer-"},
			{said{"customer-U-sessid-x-sesstime-1441", "P"}, "sesstime is 1441 minutes"},
			{said{"customer-U-sessid-x-sessid_oneip-y", "P"}, "sessid_oneip gives a second session id"},
		},
	},
	"decodo": {
		limits: minutes(1, 1440, 10),
		accepted: yes{
			{said{"user-U-session-x-sessionduration-90", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 90 * time.Minute}},
			{said{"user-U-country-us-city-new_york-session-a.b", "P"}, Credentials{Account: "U", Password: "P", Session: "a.b", Tags: Tags{{"city", "new_york"}, {"country", "us"}}}},
			{said{"user-U-1", "P"}, Credentials{Account: "U-1", Password: "P"}},
		},
		refused: no{
			{said{"user-U-session-x-sessionduration-0", "P"}, `sessionduration "0" is not a usable number of minutes`},
			{said{"user-U-session-x-sessionduration-1441", "P"}, "sessionduration is 1441 minutes"},
			{said{"user--session-x", "P"}, "the account is empty"},
		},
	},
	"iproyal": {
		limits: Limits{TTL: 15 * time.Minute, MinTTL: time.Second, MaxTTL: 7 * 24 * time.Hour},
		accepted: yes{
			{said{"U", "P_country-br_session-sgn34f3e_lifetime-10m"}, Credentials{Account: "U", Password: "P", Session: "sgn34f3e", TTL: 10 * time.Minute, Tags: Tags{{"country", "br"}}}},
			{said{"U-session-x", "P:_x_session-abcd1234_lifetime-7d_killswitch-1"}, Credentials{Account: "U-session-x", Password: "P:_x", Session: "abcd1234", TTL: 7 * 24 * time.Hour, Mode: "norotate", Gone: true}},
			{said{"U", "_lifetime-90s_session-abcd1234_killswitch-0"}, Credentials{Account: "U", Session: "abcd1234", TTL: 90 * time.Second}},
		},
		refused: no{
			{said{"U", "P_session-sgn34f3"}, "session has 7 characters: give it 8 to 8"},
			{said{"U", "P_session-sgn34f3e_lifetime-1h30m"}, `lifetime "1h30m" is not a usable number`},
			{said{"U", "P_session-sgn34f3e_lifetime-8d"}, "lifetime is 8d, it must be within 1s and 7d"},
			{said{"U", "P_killswitch-yes"}, `killswitch "yes" is neither 0 nor 1`},
			{said{"U:x", "P"}, "the account holds a colon"},
		},
	},
	"evomi": {
		limits: minutes(1, 120, 15),
		accepted: yes{
			{said{"U", "P_session-abc123_lifetime-60"}, Credentials{Account: "U", Password: "P", Session: "abc123", TTL: time.Hour}},
			{said{"U", "P_country-DE_hardsession-abc123"}, Credentials{Account: "U", Password: "P", Session: "abc123", Mode: "norotate", Tags: Tags{{"country", "DE"}}}},
			{said{"U", "P"}, Credentials{Account: "U", Password: "P"}},
		},
		refused: no{
			{said{"U", "P_session-abc12"}, "session has 5 characters: give it 6 to 10"},
			{said{"U", "P_session-abc12345678"}, "session has 11 characters"},
			{said{"U", "P_session-abc123_lifetime-121"}, "lifetime is 121 minutes"},
			{said{"U", "P_session-abc123_hardsession-abc123"}, "hardsession gives a second session id"},
		},
	},
	"geonode": {
		limits: minutes(3, 1440, 10),
		accepted: yes{
			{said{"U-session-x-lifetime-30", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 30 * time.Minute}},
			{said{"U-type-residential-country-us-session-a_1", "P"}, Credentials{Account: "U-type-residential", Password: "P", Session: "a_1", Tags: Tags{{"country", "us"}}}},
			{said{"U-lifetime-3-session-" + strings.Repeat("x", 25), "P"}, Credentials{Account: "U", Password: "P", Session: strings.Repeat("x", 25), TTL: 3 * time.Minute}},
		},
		refused: no{
			{said{"U-session-" + strings.Repeat("x", 26), "P"}, "session has 26 characters: give it 1 to 25"},
			{said{"U-session-a.b", "P"}, "session holds a character that is not one of A-Za-z0-9_"},
			{said{"U-session-x-lifetime-2", "P"}, "lifetime is 2 minutes, it must be within 3 minutes and 1440 minutes"},
		},
	},
	"soax": {
		limits: Limits{TTL: 6 * time.Minute, MinTTL: 10 * time.Second, MaxTTL: time.Hour, Mode: "norotate"},
		accepted: yes{
			{
				said{"package-U-sessionid-x-sessionlength-3600-bindttl-1200-idlettl-900", "P"},
				Credentials{Account: "U", Password: "P", Session: "x", TTL: time.Hour, Bind: 20 * time.Minute, MaxIdle: 15 * time.Minute},
			},
			{said{"package-1234-country-us-region-new+york-sessionid-x", "P"}, Credentials{Account: "1234", Password: "P", Session: "x", Tags: Tags{{"country", "us"}, {"region", "new+york"}}}},
			{said{"package-1234", "P"}, Credentials{Account: "1234", Password: "P"}},
		},
		refused: no{
			{said{"package-U-sessionid-x-sessionlength-9", "P"}, "sessionlength is 9 seconds, it must be within 10 seconds and 3600 seconds"},
			{said{"package-U-sessionid-x-bindttl-0", "P"}, `bindttl "0" is not a usable number of seconds`},
			{said{"1234-sessionid-x", "P"}, "the username does not begin with package-"},
		},
	},
	"dataimpulse": {
		limits: minutes(1, 120, 30),
		accepted: yes{
			{said{"U__cr.us;sessid.x;sessttl.60", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: time.Hour, Tags: Tags{{"country", "us"}}}},
			{said{"U_1__sessid.a.b", "P"}, Credentials{Account: "U_1", Password: "P", Session: "a.b"}},
			{said{"U__sessttl.1", "P"}, Credentials{Account: "U", Password: "P", TTL: time.Minute}},
		},
		refused: no{
			{said{"U__cr.us;sessid.x;mood.good", "P"}, "parameter 3 after __ is not one of cr,"},
			{said{"U__sessid.x;sessttl.121", "P"}, "sessttl is 121 minutes"},
			{said{"U__sessid.x;", "P"}, "parameter 2 after __ is not one of cr,"},
		},
	},
	"okeyproxy": {
		limits: minutes(1, 10080, 15),
		accepted: yes{
			{said{"customer-U-country-SG-session-x-time-17", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 17 * time.Minute, Tags: Tags{{"country", "SG"}}}},
			{said{"customer-U-session-x-time-10080", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 168 * time.Hour}},
			{said{"customer-customer-U", "P"}, Credentials{Account: "customer-U", Password: "P"}},
		},
		refused: no{
			{said{"customer-U-session-x-time-10081", "P"}, "time is 10081 minutes"},
			{said{"customer-U-session-x-time-17m", "P"}, `time "17m" is not a usable number of minutes`},
			{said{"customer-U-session-", "P"}, "session is empty"},
		},
	},
	"illusory": {
		limits: minutes(3, 1440, 15),
		accepted: yes{
			{said{"U-session-x-sesstime-30", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 30 * time.Minute}},
			{said{"U-session-x-sesstime-0", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 3 * time.Minute}},
			{said{"U-session-x-sesstime-99999999999999999999999", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 24 * time.Hour}},
		},
		refused: no{
			{said{"U-session-x-sesstime--5", "P"}, `sesstime "-5" is not a usable number of minutes`},
			{said{"U-session-x-sesstime-", "P"}, `sesstime "" is not a usable number of minutes`},
			{said{"U-session-x-session-y", "P"}, "session is repeated"},
		},
	},
	"scrapeops": {
		limits: untilIdle(10 * time.Minute),
		accepted: yes{
			{said{"U.sticky_session=7", "P"}, Credentials{Account: "U", Password: "P", Session: "7"}},
			{said{"U.country=us.sticky_session=10000", "P"}, Credentials{Account: "U", Password: "P", Session: "10000", Tags: Tags{{"country", "us"}}}},
			{said{"U.sticky_session=0", "P"}, Credentials{Account: "U", Password: "P", Session: "0"}},
		},
		refused: no{
			{said{"U.sticky_session=10001", "P"}, "sticky_session is not a number from 0 to 10000"},
			{said{"U.sticky_session=abc", "P"}, "sticky_session is not a number from 0 to 10000"},
			{said{"U.sticky_session=07", "P"}, "sticky_session is not a number from 0 to 10000"},
		},
	},
	"apify": {
		limits: untilIdle(10 * time.Minute),
		accepted: yes{
			{said{"groups-G,session-x,country-US", "P"}, Credentials{Password: "P", Session: "x", Tags: Tags{{"country", "US"}, {"groups", "G"}}}},
			{said{"session-a.b_c~1", "P"}, Credentials{Password: "P", Session: "a.b_c~1"}},
			{said{"auto", "P"}, Credentials{Password: "P"}},
		},
		refused: no{
			{said{"alice", "P"}, "parameter 1 is not one of groups, session, country, auto"},
			{said{"session-" + strings.Repeat("x", 51), "P"}, "session has 51 characters: give it 1 to 50"},
			{said{"session-a+b", "P"}, "session holds a character that is not one of 0-9a-zA-Z._~"},
		},
	},
	"thordata": {
		limits: minutes(1, 90, 10),
		accepted: yes{
			{said{"td-customer-U-country-US-sessid-x-sesstime-10", "P"}, Credentials{Account: "U", Password: "P", Session: "x", TTL: 10 * time.Minute, Tags: Tags{{"country", "US"}}}},
			{said{"td-customer-U-sesstime-90-sessid-X1", "P"}, Credentials{Account: "U", Password: "P", Session: "X1", TTL: 90 * time.Minute}},
			{said{"td-customer-U-2", "P"}, Credentials{Account: "U-2", Password: "P"}},
		},
		refused: no{
			{said{"td-customer-U-sessid-x-sesstime-91", "P"}, "sesstime is 91 minutes"},
			{said{"td-customer-U-sessid-x y", "P"}, "sessid holds a character that is not one of A-Za-z0-9"},
			{said{"customer-U-sessid-x", "P"}, "the username does not begin with td-customer-"},
		},
	},
}

// Three of what each preset takes, and what it must refuse.
func TestPresets(t *testing.T) {
	require.Len(t, Presets(), 14)
	for _, name := range Presets() {
		t.Run(name, func(t *testing.T) {
			s, ok := speeches[name]
			require.True(t, ok, "no examples")
			require.Len(t, s.accepted, 3)
			require.GreaterOrEqual(t, len(s.refused), 3)
			g := compile(t, Config{Preset: name})
			require.Equal(t, s.limits, g.Limits())
			require.Equal(t, name != "apify", g.HasAccount())
			require.Equal(t, name == "iproyal" || name == "evomi", g.InPassword())
			for _, a := range s.accepted {
				got, err := g.Read(a.username, a.password, "")
				require.NoError(t, err, "%s:%s", a.username, a.password)
				require.Equal(t, a.want, got, "%s:%s", a.username, a.password)

				// What it says comes through its canonical form.
				canonical := g.Format(got)
				again, err := g.Parse(canonical)
				require.NoError(t, err, canonical)
				if g.InPassword() {
					again.Account = got.Account
				} else {
					again.Password = got.Password
				}
				require.Equal(t, got, again, canonical)
				require.Equal(t, canonical, g.Format(again))
			}
			for _, r := range s.refused {
				got, err := g.Read(r.username, r.password, "")
				require.ErrorIs(t, err, ErrMalformed, "%s:%s", r.username, r.password)
				require.Contains(t, err.Error(), r.want)
				require.Zero(t, got)
			}
		})
	}
}

func TestConfigurationOverridesItsPreset(t *testing.T) {
	empty := ""
	for name, tt := range map[string]struct {
		cfg                        Config
		username, password, header string
		want                       Credentials
	}{
		"unit":              {Config{Unit: "s"}, "U-session-x-sessionttl-90", "P", "", Credentials{Account: "U", Password: "P", Session: "x", TTL: 90 * time.Second}},
		"unit suffix":       {Config{Unit: "suffix"}, "U-session-x-sessionttl-2h", "P", "", Credentials{Account: "U", Password: "P", Session: "x", TTL: 2 * time.Hour}},
		"bounds":            {Config{Bounds: "clamp"}, "U-session-x-sessionttl-999", "P", "", Credentials{Account: "U", Password: "P", Session: "x", TTL: 4 * time.Hour}},
		"id":                {Config{Preset: "iproyal", ID: &ID{"a-z", 1, 3}}, "U", "P_session-ab", "", Credentials{Account: "U", Password: "P", Session: "ab"}},
		"account prefix":    {Config{AccountPrefix: new("corp/")}, "corp/U-session-x", "P", "", Credentials{Account: "U", Password: "P", Session: "x"}},
		"no account prefix": {Config{Preset: "oxylabs", AccountPrefix: &empty}, "U-sessid-x", "P", "", Credentials{Account: "U", Password: "P", Session: "x"}},
		"alias":             {Config{Aliases: []Alias{{"pinned", "norotate"}}}, "U-pinned-x", "P", "", Credentials{Account: "U", Password: "P", Session: "x", Mode: "norotate"}},
		"identity":          {Config{Identity: []string{"asn"}}, "U-asn-3320-session-x", "P", "", Credentials{Account: "U", Password: "P", Session: "x", Tags: Tags{{"asn", "3320"}}}},
		"identity, query":   {Config{Identity: []string{"asn"}}, "U?asn=3320&session=x", "P", "", Credentials{Account: "U", Password: "P", Session: "x", Tags: Tags{{"asn", "3320"}}}},
		"field password":    {Config{Field: Password}, "U-session-y", "P-session-x", "", Credentials{Account: "U-session-y", Password: "P", Session: "x"}},
		"field header":      {Config{Field: Header, Header: "X-S"}, "U", "P", "session-x-y-sessionttl-3", Credentials{Account: "U", Password: "P", Session: "x-y", TTL: 3 * time.Minute}},
		"no header":         {Config{Field: Header, Header: "X-S"}, "U", "P", "", Credentials{Account: "U", Password: "P"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := compile(t, tt.cfg).Read(tt.username, tt.password, tt.header)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

// What the dialects are made of is enough for those that have no preset.
func TestTemplates(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg                        Config
		username, password, header string
		want                       Credentials
	}{
		"suffix": {
			Config{Template: "<account>[+sticky=<ttl>][+session_id=<session>]", Unit: "suffix"},
			"U+sticky=60s+session_id=x", "P", "", Credentials{Account: "U", Password: "P", Session: "x", TTL: time.Minute},
		},
		"milliseconds": {
			Config{Template: "<account>[,session_<session>][,rotateTimeout_<milliseconds>]"},
			"U,session_1,rotateTimeout_90000", "P", "", Credentials{Account: "U", Password: "P", Session: "1", TTL: 90 * time.Second},
		},
		"header":         {Config{Template: "<session>", Field: Header, Header: "X-Session"}, "U", "P", "x y:z", Credentials{Account: "U", Password: "P", Session: "x y:z"}},
		"id without key": {Config{Template: "<account>[.<session>]"}, "Platform.Account.1", "P", "", Credentials{Account: "Platform", Password: "P", Session: "Account.1"}},
		"no brackets":    {Config{Template: "<account>.<session>"}, "Platform", "P", "", Credentials{Account: "Platform", Password: "P"}},
		"prefix":         {Config{Template: "corp-<account>-sid-<session>"}, "corp-U-sid-x", "P", "", Credentials{Account: "U", Password: "P", Session: "x"}},
		"flag": {
			Config{Template: "<account>[-sid-<session>][-pin][-fast]", Aliases: []Alias{{"pin", "norotate"}}},
			"U-fast-pin-sid-x", "P", "", Credentials{Account: "U", Password: "P", Session: "x", Mode: "norotate"},
		},
		"password": {Config{Template: "<password>[_s-<session>]"}, "U", "P_s-1", "", Credentials{Account: "U", Password: "P", Session: "1"}},
		"start of its own": {
			Config{Template: "<account>[;;s=<session>][;t=<seconds>]"}, "U;;t=60;s=a;b", "P", "",
			Credentials{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := compile(t, tt.cfg).Read(tt.username, tt.password, tt.header)
			if tt.want == (Credentials{}) {
				require.ErrorIs(t, err, ErrMalformed)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestConfigurationsWithoutMeaningAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  Config
		want string
	}{
		"unknown preset":      {Config{Preset: "x"}, `credentials: preset "x" is unknown (have massive, brightdata, oxylabs,`},
		"both":                {Config{Preset: "massive", Template: "<account>-s-<session>"}, "there is a preset and a template"},
		"field":               {Config{Field: "cookie"}, `field "cookie" is unknown (have username, password, header <name>)`},
		"header without name": {Config{Field: Header}, `"" is not the name of a header field`},
		"header with space":   {Config{Field: Header, Header: "a b"}, `"a b" is not the name of a header field`},
		"header alone":        {Config{Header: "X"}, `header "X" is given but field is username`},
		"unit":                {Config{Unit: "hours"}, `unit "hours" is unknown (have s, m, ms, suffix)`},
		"bounds":              {Config{Bounds: "bend"}, `bounds "bend" is unknown (have reject, clamp)`},
		"prefix and password": {Config{Preset: "iproyal", AccountPrefix: new("x")}, "account_prefix is for parameters in the username"},
		"prefix with a colon": {Config{AccountPrefix: new("a:b")}, "holds a colon or a control character"},
		"id characters":       {Config{ID: &ID{"z-a", 1, 2}}, `id characters "z-a": write ASCII characters`},
		"id without":          {Config{ID: &ID{"", 1, 2}}, "id needs characters"},
		"id lengths":          {Config{ID: &ID{"a-z", 3, 2}}, "id from 3 to 2 characters"},
		"id too long":         {Config{ID: &ID{"any", 1, 256}}, "id from 1 to 256 characters"},
		"id number":           {Config{ID: &ID{"number", 7, 6}}, "id number from 7 to 6"},
		"alias mode":          {Config{Aliases: []Alias{{"a", "loose"}}}, `alias "a": mode "loose" is unknown (have strict, flex, norotate)`},
		"alias of a tag":      {Config{Aliases: []Alias{{"country", "strict"}}}, `alias "country": that key is neither the session's nor a flag`},
		"alias with dash":     {Config{Aliases: []Alias{{"a-b", "strict"}}}, `key "a-b" holds a separator`},
		"identity twice":      {Config{Identity: []string{"a", "a"}}, `identity "a" is given twice`},
		"identity is a key":   {Config{Identity: []string{"session"}}, `key "session" is given twice`},
		"too many tags":       {Config{Identity: strings.Split("abcdefg", "")}, "there are 9 tags: at most 8"},
		"no session":          {Config{Template: "<account>[-country-<country>]"}, "the template has no <session>"},
		"no parameter":        {Config{Template: "<account>"}, "the template has no <session>"},
		"two separators":      {Config{Template: "<account>[-a-<session>][-b-<ttl>][+c-<mode>]"}, `"c" is separated by "+" and others by "-"`},
		"two assigns":         {Config{Template: "<account>[-a-<session>][-b=<ttl>]"}, `the value of "b" is separated by "=" and others by "-"`},
		"no assign":           {Config{Template: "<account>[-a<session>]"}, `nothing separates "a" from its value`},
		"no separator":        {Config{Template: "<account>[a-<session>]"}, `nothing separates "a" from what is before it`},
		"key twice":           {Config{Template: "<account>[-a-<session>][-a-<ttl>]"}, `key "a" is given twice`},
		"key with separator":  {Config{Template: "<account>[-a-b-<session>]"}, `key "a-b" holds a separator`},
		"bracket":             {Config{Template: "<account>[-a-<session>"}, "write each parameter in brackets"},
		"after a bracket":     {Config{Template: "<account>[-a-<session>]x"}, "write each parameter in brackets"},
		"word":                {Config{Template: "<account>[-a-<ses sion>]"}, `value "ses sion": use letters`},
		"two words":           {Config{Template: "<account>[-a-<session><ttl>]"}, "does not end with one value in angle brackets"},
		"percent":             {Config{Template: "<account>[%a%<session>]"}, `"a" is not separated by punctuation`},
		"colon":               {Config{Template: "<account>[:a=<session>]"}, "a colon ends a username"},
		"keyless ttl":         {Config{Template: "<account>[.<ttl>]"}, "only a session id may stand without a key"},
		"keyless and more":    {Config{Template: "<account>[.<session>][.t=<ttl>]"}, "the value of \"t\" is separated by"},
		"password first":      {Config{Template: "[a-<session>]", Field: Password}, "it reads the password and has none"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tt.cfg.Compile()
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// A configured account must be told from its parameters in every dialect.
func TestAccountsThatWouldBeCutAreRefused(t *testing.T) {
	for preset, name := range map[string]string{
		"massive": "a-session-b", "brightdata": "zone-const", "oxylabs": "U-sessid_oneip-1", "dataimpulse": "a__cr.b",
		"scrapeops": "a.country=b", "thordata": "a-sessid-b",
	} {
		require.ErrorContains(t, compile(t, Config{Preset: preset}).CheckAccount(name), "would be cut at", preset)
	}
	require.ErrorContains(t, compile(t, Config{Template: "<account>.<session>"}).CheckAccount("a.b"), `would be cut at ".b"`)
	for _, preset := range []string{"iproyal", "evomi", "apify"} {
		require.NoError(t, compile(t, Config{Preset: preset}).CheckAccount("a-session-b_session-c,country-d"), preset)
	}
}
