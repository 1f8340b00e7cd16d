// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"maps"
	"slices"
)

// argErr returns Caddy's error for a line with the wrong number of arguments, of
// which this is the last one that Caddy read.
func argErr(argument string) string {
	return fmt.Sprintf("wrong argument count or unexpected line ending after '%s'", argument)
}

// optionBlocks returns the table: each block of this project, in each place
// where a Caddyfile may have it.
func optionBlocks() []optionBlock {
	var (
		global    = []string{""}
		wrappers  = []string{"", "servers", "listener_wrappers"}
		site      = []string{":8080"}
		balancer  = []string{":8080", "reverse_proxy app1:8080 app2:8080"}
		transport = []string{":8080", "reverse_proxy https://api.example", "transport http"}

		app    = inside(global, "sticky")
		policy = inside(balancer, "lb_policy sticky")
		proxy  = inside(site, "sticky_proxy")
		net    = inside(transport, "network_proxy sticky")
	)
	blocks := []optionBlock{
		{path: global, options: map[string]optionCase{
			"sticky": {kind: kindFlag, block: "sticky", surplus: argErr("surplus"), repeated: "the global option sticky is given twice"},
		}},
		{path: wrappers, options: map[string]optionCase{
			"idle_timeout":  {kind: kindDuration, valid: "2m", repeatable: true, block: "idle_timeout", surplus: `idle_timeout: surplus argument "surplus"`},
			"sticky_socks5": {kind: kindFlag, repeatable: true, block: "sticky_socks5", surplus: `sticky_socks5: surplus argument "surplus"`},
		}},
		{path: site, options: map[string]optionCase{
			"sticky_proxy":       {kind: kindFlag, valid: "berlin", repeatable: true, block: "sticky_proxy", surplus: argErr("surplus")},
			"websocket_timeouts": {kind: kindFlag, repeatable: true, block: "websocket_timeouts", surplus: `websocket_timeouts: surplus argument "surplus"`},
		}},
		{path: balancer, options: map[string]optionCase{
			"lb_policy sticky": {kind: kindFlag, valid: "shop", block: "lb_policy sticky", surplus: argErr("surplus"), repeated: "load balancing selection policy already specified"},
		}},
		{path: transport, options: map[string]optionCase{
			"network_proxy sticky": {kind: kindFlag, valid: "outbound", block: "network_proxy sticky", surplus: argErr("surplus"), repeatable: true},
		}},

		{what: "sticky", path: app, options: map[string]optionCase{
			"store": {kind: kindText, valid: "memory", repeatable: true, block: "store memory", surplus: argErr("surplus"), malformed: map[string]string{
				"paper": "module not registered: sticky.stores.paper",
			}},
			"cookie_keys":  {kind: kindList, valid: "0123456789abcdef fedcba9876543210"},
			"key_rotation": {kind: kindDuration, valid: "24h"},
		}},
		{what: "store memory", module: "sticky.stores.memory", path: inside(app, "store memory"), options: map[string]optionCase{
			"name":         {kind: kindText, valid: "visitors"},
			"max_sessions": {kind: kindNumber, valid: "1000"},
			"on_full":      {kind: kindText, valid: "hash"},
			"persist":      {kind: kindText, valid: "1s"},
		}},
		{what: "store redis", module: "sticky.stores.redis", path: inside(app, "store redis localhost"), options: map[string]optionCase{
			"name":     {kind: kindText, valid: "visitors"},
			"username": {kind: kindText, valid: "caddy"},
			"password": {kind: kindText, valid: password},
			"database": {kind: kindText, valid: "3", malformed: map[string]string{
				"three": `database "three" is not a whole number`,
				"1.5":   `database "1.5" is not a whole number`,
			}},
			"prefix":   {kind: kindText, valid: "shop:"},
			"tls":      {kind: kindFlag, valid: "ca.pem redis.example"},
			"sentinel": {kind: kindText, valid: "main"},
			"timeout":  {kind: kindDuration, valid: "100ms"},
			"on_error": {kind: kindText, valid: "refuse"},
		}},

		{what: "idle_timeout", module: "caddy.listeners.idle_timeout", path: inside(wrappers, "idle_timeout 2m"), options: map[string]optionCase{
			"requests":     {kind: kindText, valid: "exempt"},
			"max_lifetime": {kind: kindDuration, valid: "1h"},
			"max_requests": {kind: kindNumber, valid: "1000"},
			"keepalive":    keepaliveOption(),
		}},
		{what: "sticky_socks5", module: "caddy.listeners.sticky_socks5", path: inside(wrappers, "sticky_socks5"), options: map[string]optionCase{
			"auth": {kind: kindText, valid: "required"},
		}},
		{what: "websocket_timeouts", module: "http.handlers.websocket_timeouts", path: inside(site, "websocket_timeouts"), options: map[string]optionCase{
			"idle": {kind: kindDuration, valid: "10m"},
			"ping": {kind: kindDuration, valid: "30s"},
		}},

		{what: "lb_policy sticky", module: "http.reverse_proxy.selection_policies.sticky", path: policy, options: with(sourceOptions(), map[string]optionCase{
			"app_cookie": {kind: kindText, valid: "session", repeatable: true, block: "app_cookie", missing: "app_cookie needs an argument", surplus: `app_cookie: surplus argument "surplus"`},
			"cookie":     {kind: kindFlag, valid: "visitor", repeatable: true, block: "cookie", surplus: argErr("surplus")},

			"ttl":          {kind: kindAnyDuration, valid: "1m"},
			"max_idle":     {kind: kindDuration, valid: "5m"},
			"mode":         {kind: kindText, valid: "flex"},
			"max_errors":   {kind: kindNumber, valid: "3"},
			"on_full":      {kind: kindText, valid: "wait"},
			"max_sessions": {kind: kindNumber, valid: "100"},
			"new_sessions": {kind: kindText, valid: "10/1m"},
			"drain":        {kind: kindList, valid: "app1:8080 app2:8080", missing: argErr("drain")},
			"fallback": {kind: kindText, valid: "least_conn", block: "lb_policy sticky", surplus: argErr("surplus"), malformed: map[string]string{
				"luck": "module not registered: http.reverse_proxy.selection_policies.luck",
			}},
			"store": {kind: kindText, valid: "visitors"},
		})},
		{what: "app_cookie", module: "sticky.sources.app_cookie", path: inside(policy, "app_cookie session")},
		{what: "cookie", module: "sticky.sources.cookie", path: inside(policy, "cookie"), options: map[string]optionCase{
			"domain":             {kind: kindText, valid: "example.com"},
			"path":               {kind: kindText, valid: "/shop"},
			"same_site":          {kind: kindText, valid: "lax"},
			"secure":             {kind: kindSwitch, valid: "on"},
			"http_only":          {kind: kindSwitch, valid: "off"},
			"partitioned":        {kind: kindFlag},
			"max_age":            {kind: kindDuration, valid: "24h"},
			"from_cookie_policy": {kind: kindText, valid: "lb secret"},
		}},

		{what: "network_proxy sticky", module: "caddy.network_proxy.sticky", path: net, options: with(sourceOptions(), map[string]optionCase{
			"exit":       exitOption(),
			"exits_file": {kind: kindText, valid: "exits.txt"},
			"ttl":        {kind: kindAnyDuration, valid: "30m"},
			"max_idle":   {kind: kindDuration, valid: "5m"},
			"mode":       {kind: kindText, valid: "norotate"},
			"fallback":   {kind: kindText, valid: "hash"},
			"store":      {kind: kindText, valid: "visitors"},
		})},

		{what: "sticky_proxy", module: "http.handlers.sticky_proxy", path: proxy, options: map[string]optionCase{
			"account":                  accountOption(),
			"accounts_file":            {kind: kindText, valid: "accounts.htpasswd"},
			"max_sessions_per_account": {kind: kindNumber, valid: "10"},
			"open":                     {kind: kindFlag},
			"credentials": {
				kind: kindText, valid: "massive", block: "credentials",
				missing: "credentials takes one argument, the name of a preset or a template",
				surplus: "credentials takes one argument, the name of a preset or a template",
			},
			"new_sessions":     {kind: kindText, valid: "10/1m"},
			"exit":             exitOption(),
			"exits_file":       {kind: kindText, valid: "exits.txt"},
			"ttl":              {kind: kindAnyDuration, valid: "30m"},
			"min_ttl":          {kind: kindAnyDuration, valid: "5m"},
			"max_ttl":          {kind: kindAnyDuration, valid: "24h"},
			"max_idle":         {kind: kindAnyDuration, valid: "5m"},
			"mode":             {kind: kindText, valid: "flex"},
			"max_errors":       {kind: kindNumber, valid: "3"},
			"fallback":         {kind: kindText, valid: "hash"},
			"idle_timeout":     {kind: kindDuration, valid: "2m"},
			"response_timeout": {kind: kindDuration, valid: "5s"},
			"dial_timeout":     {kind: kindDuration, valid: "5s"},
			"ports":            {kind: kindList, valid: "80 443"},
			"allow":            {kind: kindList, valid: "10.0.0.0/8 example.com"},
			"deny":             {kind: kindList, valid: "10.0.0.0/8 example.com"},
			"resolver":         {kind: kindText, valid: "192.0.2.53"},
			"via":              {kind: kindText, valid: "off"},
			"session_headers":  {kind: kindFlag},
			"store":            {kind: kindText, valid: "visitors"},
		}},
		{what: "account", path: inside(proxy, "account alice "+hash), options: map[string]optionCase{
			"max_sessions": {kind: kindNumber, valid: "10"},
			"tags":         tagsOption(),
			"allow":        {kind: kindList, valid: "10.0.0.0/8 example.com"},
			"deny":         {kind: kindList, valid: "10.0.0.0/8 example.com"},
		}},
		{what: "credentials", path: inside(proxy, "credentials massive"), options: credentialsOptions()},
	}
	for _, path := range [][]string{policy, net} {
		blocks = append(blocks,
			optionBlock{what: "header", module: "sticky.sources.header", path: inside(path, "header X-Session")},
			optionBlock{what: "query", module: "sticky.sources.query", path: inside(path, "query user")},
			optionBlock{what: "client_ip", module: "sticky.sources.client_ip", path: inside(path, "client_ip")},
			optionBlock{what: "jwt", module: "sticky.sources.jwt", path: inside(path, "jwt sub")},
			optionBlock{what: "key", module: "sticky.sources.key", path: inside(path, "key {query.user}")},
			optionBlock{what: "credentials", module: "sticky.sources.credentials", path: inside(path, "credentials massive"), options: credentialsOptions()},
		)
	}
	for _, path := range [][]string{proxy, net} {
		for _, scheme := range []string{"direct", "http", "https", "socks5"} {
			blocks = append(blocks, optionBlock{what: "exit", path: inside(path, "exit "+scheme+"://"), options: exitOptions(scheme)})
		}
	}
	return blocks
}

// inside returns the path of a block in the block that path opens.
func inside(path []string, line string) []string { return slices.Concat(path, []string{line}) }

// with returns the options of both maps.
func with(options, others map[string]optionCase) map[string]optionCase {
	maps.Copy(options, others)
	return options
}

// sourceOptions returns the sources that lb_policy and network_proxy share.
func sourceOptions() map[string]optionCase {
	const unknownPlace = `jwt: "query" is not where a token is (have header <name>, cookie <name>)`
	return map[string]optionCase{
		"header": {kind: kindText, valid: "X-Session", repeatable: true, block: "header", missing: "header needs an argument", surplus: `header: surplus argument "surplus"`, malformed: map[string]string{
			`""`: "header needs an argument",
		}},
		"query": {kind: kindText, valid: "user", repeatable: true, block: "query", missing: "query needs an argument", surplus: `query: surplus argument "surplus"`, malformed: map[string]string{
			`""`: "query needs an argument",
		}},
		"client_ip": {kind: kindFlag, valid: "24 56", repeatable: true, block: "client_ip", surplus: `client_ip: surplus argument "surplus"`, malformed: map[string]string{
			"/24":   `client_ip: "/24" is not a prefix length`,
			"24 /8": `client_ip: "/8" is not a prefix length`,
			"0":     `client_ip: "0" is not a prefix length`,
			"24 0":  `client_ip: "0" is not a prefix length`,
			"-1":    `client_ip: "-1" is not a prefix length`,
			"24 -1": `client_ip: "-1" is not a prefix length`,
		}},
		"jwt": {kind: kindText, valid: "sub header X-Token", repeatable: true, block: "jwt", missing: "jwt needs an argument", surplus: `jwt: surplus argument "surplus"`, malformed: map[string]string{
			`""`:              "jwt needs an argument",
			"sub header":      "option header needs an argument",
			`sub header ""`:   "option header needs an argument",
			"sub cookie":      "option cookie needs an argument",
			"sub query token": unknownPlace,
		}},
		"key": {kind: kindText, valid: "{query.user}", repeatable: true, block: "key", missing: "key needs an argument", surplus: `key: surplus argument "surplus"`, malformed: map[string]string{
			`""`: "key needs an argument",

			"{query.user} {query.shop}": `key: surplus argument "{http.request.uri.query.shop}"`,
		}},
		"credentials": {kind: kindFlag, valid: "massive", repeatable: true, block: "credentials", surplus: argErr("surplus")},
	}
}

func credentialsOptions() map[string]optionCase {
	const (
		needsID    = "id takes the characters, a smallest and a largest length, such as id A-Za-z0-9 1 25"
		needsAlias = "alias takes a key and a mode, such as alias pinned norotate"
	)
	return map[string]optionCase{
		"field": {kind: kindText, valid: "header X-Session", malformed: map[string]string{
			"header":    "option header needs an argument",
			`header ""`: "option header needs an argument",

			"username surplus": `credentials: surplus argument "surplus" of option field`,
		}},
		"account_prefix": {kind: kindText, valid: `""`, missing: `option account_prefix needs an argument, "" for none`},
		"unit":           {kind: kindText, valid: "s"},
		"bounds":         {kind: kindText, valid: "clamp"},
		"id": {kind: kindText, valid: "A-Za-z0-9 1 25", missing: needsID, malformed: map[string]string{
			"any":       needsID,
			"any 1":     needsID,
			"any one 5": `id: "one" is not a whole number`,
			"any 1 5.5": `id: "5.5" is not a whole number`,
		}},
		"alias": {kind: kindText, valid: "pinned norotate", repeatable: true, missing: needsAlias, malformed: map[string]string{
			"pinned": needsAlias,
		}},
		"identity": {kind: kindList, valid: "country asn"},
	}
}

func keepaliveOption() optionCase {
	const needsThree = "keepalive needs <idle> <interval> <count>, such as 1m 15s 4"
	return optionCase{kind: kindText, valid: "1m 15s 4", missing: needsThree, surplus: needsThree, malformed: map[string]string{
		"1m":         needsThree,
		"1m 15s":     needsThree,
		"soon 15s 4": `keepalive "soon" is not a duration (like 30s or 15m)`,
		"1m soon 4":  `keepalive "soon" is not a duration (like 30s or 15m)`,
		"1m 15s few": `keepalive "few" is not a whole number`,
	}}
}

func accountOption() optionCase {
	const needsHash = "account takes a name and a password hash: make one with caddy hash-password"
	return optionCase{
		kind: kindText, valid: "alice " + hash, repeatable: true, block: "account",
		missing: needsHash, surplus: needsHash, malformed: map[string]string{"alice": needsHash},
	}
}

func tagsOption() optionCase {
	const needsValue = "tags takes a key and one value or more, such as tags country de fr"
	return optionCase{
		kind: kindList, valid: "country de fr", missing: needsValue, malformed: map[string]string{"country": needsValue},
		repeated: "tags country is given twice: put all its values in one line",
	}
}

func exitOption() optionCase {
	const needsURL = "exit takes one argument, a URL such as direct:// or socks5://berlin.exits.example:1080"
	return optionCase{kind: kindText, valid: "direct://", repeatable: true, block: "exit", missing: needsURL, surplus: needsURL}
}

// exitOptions returns the options of an exit of this scheme.
func exitOptions(scheme string) map[string]optionCase {
	const (
		needsTag   = "tag takes a key and a value, such as tag country de"
		needsCheck = "check takes a URL and an interval, such as check https://example.com/ 30s"
	)
	options := map[string]optionCase{
		"weight":       {kind: kindNumber, valid: "2"},
		"max_sessions": {kind: kindNumber, valid: "10"},
		"rate":         {kind: kindText, valid: "100/1m"},
		"tag": {kind: kindText, valid: "country de", repeatable: true, missing: needsTag, surplus: needsTag, malformed: map[string]string{
			"country": needsTag,
		}},
		"check": {kind: kindText, valid: "https://example.com/ 30s", missing: needsCheck, surplus: needsCheck, malformed: map[string]string{
			"https://example.com/":      needsCheck,
			"https://example.com/ soon": `check: "soon" is not a duration, such as 30s`,
		}},
		"slots": {kind: kindNumber, valid: "3"},
	}
	for name, o := range map[string]struct {
		scheme string
		optionCase
	}{
		"interface":       {"direct", optionCase{kind: kindText, valid: "eth0"}},
		"tls_server_name": {"https", optionCase{kind: kindText, valid: "berlin.exits.example"}},
		"tls_trust":       {"https", optionCase{kind: kindList, valid: "ca.pem other.pem"}},
		"tls_insecure":    {"https", optionCase{kind: kindFlag}},
	} {
		if o.scheme != scheme {
			o.foreign = fmt.Sprintf("option %s is for %s:// exits", name, o.scheme)
		}
		options[name] = o.optionCase
	}
	return options
}
