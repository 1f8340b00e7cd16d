// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package credential

import "time"

// dialect is a way to write credentials under a name.
type dialect struct {
	name      string
	templates []string // the first one is canonical
	field     Field
	unit      string
	id        ID
	limits    Limits
	clamp     bool
	aliases   []Alias
}

var (
	anyID        = ID{Characters: "any", Min: 1, Max: maxValue}
	alphanumeric = ID{Characters: "A-Za-z0-9", Min: 1, Max: maxValue}
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// minutes are limits in minutes: the shortest and longest lifetime, and the one
// of a session whose client does not say.
func minutes(shortest, longest, otherwise int) Limits {
	return Limits{
		TTL:    time.Duration(otherwise) * time.Minute,
		MinTTL: time.Duration(shortest) * time.Minute,
		MaxTTL: time.Duration(longest) * time.Minute,
	}
}

// untilIdle are the limits of dialects whose sessions end by not being used. The
// lifetime bounds what nobody leaves idle.
func untilIdle(idle time.Duration) Limits {
	return Limits{TTL: week, MinTTL: time.Minute, MaxTTL: week, MaxIdle: idle}
}

// ownDialect is what a configuration's own template starts from.
var ownDialect = dialect{field: Username, unit: "m", id: anyID, limits: minutes(1, 240, 15)}

// presets are the dialects of providers, by their public documentation. Where
// it gives no lifetime for a session that asks for none, it is 15 minutes.
var presets = []dialect{
	{
		name: "massive",
		templates: []string{
			"<account>[-session-<session>][-sessionttl-<minutes>][-sessionmode-<mode>][-sessionerr-<errors>][-country-<country>][-city-<city>]",
			"<account>[?session=<session>][&sessionttl=<minutes>][&sessionmode=<mode>][&sessionerr=<errors>][&country=<country>][&city=<city>]",
		},
		field: Username, id: anyID, limits: minutes(1, 240, 15),
	},
	{
		// The account is all that is before the first parameter.
		name:      "brightdata",
		templates: []string{"<account>[-session-<session>][-country-<country>][-state-<state>][-city-<city>][-asn-<asn>][-zip-<zip>][-const]"},
		field:     Username, id: alphanumeric, limits: untilIdle(5 * time.Minute),
		aliases: []Alias{{"const", "norotate"}},
	},
	{
		name:      "oxylabs",
		templates: []string{"customer-<account>[-cc-<country>][-st-<state>][-city-<city>][-sessid-<session>][-sesstime-<minutes>]"},
		field:     Username, id: alphanumeric,
		limits:  Limits{TTL: 10 * time.Minute, MinTTL: time.Minute, MaxTTL: day, MaxIdle: time.Minute},
		aliases: []Alias{{"sessid_oneip", "norotate"}},
	},
	{
		name:      "decodo",
		templates: []string{"user-<account>[-country-<country>][-state-<state>][-city-<city>][-session-<session>][-sessionduration-<minutes>]"},
		field:     Username, id: anyID, limits: minutes(1, 1440, 10),
	},
	{
		name:      "iproyal",
		templates: []string{"<password>[_country-<country>][_state-<state>][_city-<city>][_session-<session>][_lifetime-<ttl>][_killswitch-<killswitch>]"},
		field:     Password, unit: "suffix", id: ID{Characters: "A-Za-z0-9", Min: 8, Max: 8},
		limits: Limits{TTL: 15 * time.Minute, MinTTL: time.Second, MaxTTL: week},
	},
	{
		name:      "evomi",
		templates: []string{"<password>[_country-<country>][_region-<region>][_city-<city>][_session-<session>][_lifetime-<minutes>]"},
		field:     Password, id: ID{Characters: "A-Za-z0-9", Min: 6, Max: 10}, limits: minutes(1, 120, 15),
		aliases: []Alias{{"hardsession", "norotate"}},
	},
	{
		name:      "geonode",
		templates: []string{"<account>[-country-<country>][-state-<state>][-city-<city>][-asn-<asn>][-session-<session>][-lifetime-<minutes>]"},
		field:     Username, id: ID{Characters: "A-Za-z0-9_", Min: 1, Max: 25}, limits: minutes(3, 1440, 10),
	},
	{
		name:      "soax",
		templates: []string{"package-<account>[-country-<country>][-region-<region>][-city-<city>][-isp-<isp>][-sessionid-<session>][-sessionlength-<seconds>][-bindttl-<bind>][-idlettl-<idle>]"},
		field:     Username, id: anyID,
		limits: Limits{TTL: 6 * time.Minute, MinTTL: 10 * time.Second, MaxTTL: time.Hour, Mode: "norotate"},
	},
	{
		name:      "dataimpulse",
		templates: []string{"<account>[__cr.<country>][;state.<state>][;city.<city>][;zip.<zip>][;asn.<asn>][;sessid.<session>][;sessttl.<minutes>]"},
		field:     Username, id: anyID, limits: minutes(1, 120, 30),
	},
	{
		name:      "okeyproxy",
		templates: []string{"customer-<account>[-country-<country>][-state-<state>][-city-<city>][-session-<session>][-time-<minutes>]"},
		field:     Username, id: anyID, limits: minutes(1, 168*60, 15),
	},
	{
		name:      "illusory",
		templates: []string{"<account>[-country-<country>][-city-<city>][-session-<session>][-sesstime-<minutes>]"},
		field:     Username, id: anyID, limits: minutes(3, 1440, 15), clamp: true,
	},
	{
		name:      "scrapeops",
		templates: []string{"<account>[.country=<country>][.sticky_session=<session>]"},
		field:     Username, id: ID{Characters: "number", Min: 0, Max: 10000}, limits: untilIdle(10 * time.Minute),
	},
	{
		// No account: the proxy's only one is meant. The flag says that there are
		// no parameters.
		name:      "apify",
		templates: []string{"[groups-<groups>][,session-<session>][,country-<country>][,auto]"},
		field:     Username, id: ID{Characters: "0-9a-zA-Z._~", Min: 1, Max: 50}, limits: untilIdle(10 * time.Minute),
	},
	{
		name:      "thordata",
		templates: []string{"td-customer-<account>[-country-<country>][-state-<state>][-city-<city>][-sessid-<session>][-sesstime-<minutes>]"},
		field:     Username, id: alphanumeric, limits: minutes(1, 90, 10),
	},
}

// Presets returns the names of the presets.
func Presets() []string {
	names := make([]string, len(presets))
	for i := range presets {
		names[i] = presets[i].name
	}
	return names
}
