// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sticky

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"
)

const (
	// hash is that of the password secret.
	hash = "$2a$10$xjAxB6Y67jcnSvv7mbOsYOb2/5YzUbLfV04moY7NDVmaQ3KcigZ2W"

	// password is the one in all exits' URLs. No error may repeat it.
	password = "hunter2"
)

// fixture is a file in testdata/adapt, written as Caddy's own are: a Caddyfile,
// a line of ten hyphens, and what becomes of it. That is either the JSON, which
// begins with a brace, or a part of the error.
type fixture struct {
	name      string
	caddyfile string
	expected  string
}

func (f fixture) isRefused() bool { return !strings.HasPrefix(f.expected, "{") }

func fixtures(t *testing.T) []fixture {
	t.Helper()
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	list := make([]fixture, 0, len(files))
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		text := strings.ReplaceAll(string(data), "\r\n", "\n")
		caddyfile, expected, ok := strings.Cut(text, "\n----------\n")
		require.True(t, ok, "%s has no line of ten hyphens", file)
		expected = strings.TrimSpace(expected)
		require.NotEmpty(t, expected, "%s expects nothing", file)
		list = append(list, fixture{
			name:      strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"),
			caddyfile: caddyfile + "\n",
			expected:  expected,
		})
	}
	return list
}

func adapt(caddyfile string) ([]byte, []caddyconfig.Warning, error) {
	return caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
}

// validate does what caddy validate does with a configuration, and leaves no
// trace: no admin API, no storage but a temporary one, no logs.
func validate(t *testing.T, config []byte) error {
	t.Helper()
	var cfg caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &cfg); err != nil {
		return err
	}
	cfg.Admin = &caddy.AdminConfig{Disabled: true}
	cfg.StorageRaw = caddyconfig.JSON(map[string]string{"module": "file_system", "root": t.TempDir()}, nil)
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}},
	}}
	return caddy.Validate(&cfg)
}

func TestAdaptFixtures(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			config, warnings, err := adapt(f.caddyfile)
			if f.isRefused() {
				require.ErrorContains(t, err, f.expected)
				require.NotContains(t, err.Error(), password)
				return
			}
			require.NoError(t, err)
			require.Empty(t, warnings)
			var indented bytes.Buffer
			require.NoError(t, json.Indent(&indented, config, "", "\t"))
			require.Equal(t, f.expected, indented.String())
		})
	}
}

// The JSON of a Caddyfile means something by itself: whoever sends it to the
// admin API gets what the Caddyfile says.
func TestSameMeaningFromJSON(t *testing.T) {
	t.Setenv("PARIS_PASSWORD", password)
	t.Setenv("GATEWAY_PASSWORD", password)
	for _, f := range fixtures(t) {
		if f.isRefused() {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			require.NoError(t, validate(t, []byte(f.expected)))
		})
	}
	examples, err := filepath.Glob("testdata/examples/*.caddyfile")
	require.NoError(t, err)
	require.NotEmpty(t, examples)
	for _, example := range examples {
		t.Run(filepath.Base(example), func(t *testing.T) {
			caddyfile, err := os.ReadFile(example)
			require.NoError(t, err)
			config, warnings, err := adapt(string(caddyfile))
			require.NoError(t, err)
			require.Empty(t, warnings)
			require.NoError(t, validate(t, config))
		})
	}
}

// balancer is a Caddyfile with one load balancer, whose policy has these
// options.
func balancer(options ...string) string {
	return ":8080 {\n reverse_proxy app1:8080 app2:8080 {\n lb_policy sticky {\n" +
		strings.Join(options, "\n") + "\n}\n}\n}\n"
}

// proxy is a Caddyfile with one forward proxy, which has these options.
func proxy(options ...string) string {
	return ":8080 {\n sticky_proxy {\n" + strings.Join(options, "\n") + "\n}\n}\n"
}

// openProxy is a proxy that lacks nothing.
func openProxy(options ...string) string {
	return proxy(append([]string{"open", "exit direct://"}, options...)...)
}

// exit is a proxy with one exit.
func exit(url string) string { return proxy("open", "exit "+url) }

// global is a Caddyfile with the global option sticky.
func global(options ...string) string {
	return "{\n sticky {\n" + strings.Join(options, "\n") + "\n}\n}\n"
}

// two is a Caddyfile with two load balancers, in this order.
func two(policy, upstreams, otherPolicy, otherUpstreams string) string {
	return ":8080 {\n reverse_proxy /shop " + upstreams + " {\n lb_policy sticky " + policy + "\n}\n" +
		"reverse_proxy " + otherUpstreams + " {\n lb_policy sticky " + otherPolicy + "\n}\n}\n"
}

// twoDynamic is a Caddyfile with two load balancers whose upstreams are found
// by name.
func twoDynamic(policy, host, otherPolicy, otherHost string) string {
	return ":8080 {\n reverse_proxy /shop {\n dynamic a " + host + " 80\n lb_policy sticky " + policy + "\n}\n" +
		"reverse_proxy {\n dynamic a " + otherHost + " 80\n lb_policy sticky " + otherPolicy + "\n}\n}\n"
}

// twoProxies is a Caddyfile with two forward proxies, in this order.
func twoProxies(name, exit, otherName, otherExit string) string {
	return ":8080 {\n @office remote_ip 192.0.2.0/24\n sticky_proxy @office " + name + " {\n open\n exit " + exit + "\n}\n" +
		"sticky_proxy " + otherName + " {\n open\n exit " + otherExit + "\n}\n}\n"
}

// Each of these adapts: that it means nothing is found where JSON comes by too.
func TestConfigurationsThatHaveNoMeaningAreRefused(t *testing.T) {
	const byHeader = "{\n header X-Session\n}"
	account := "account alice " + hash
	credentials := "user:" + password + "@"
	for name, c := range map[string]struct {
		caddyfile string
		want      string
	}{
		"policy name":                         {two("sh/op", "a", "forum", "b"), `policy: "sh/op" is not a name: use letters, digits, hyphens, underscores and dots`},
		"policy ttl 0":                        {balancer("ttl 0"), `policy "default": ttl is 0s, it must be positive`},
		"policy ttl negative":                 {balancer("ttl -1m"), `policy "default": ttl is -1m0s, it must be positive`},
		"cookie_keys short":                   {global("cookie_keys secret"), `cookie_keys: key 1 has 6 bytes, it must have at least 16 (openssl rand -base64 32 makes one)`},
		"cookie_keys twice the same":          {global("cookie_keys 0123456789abcdef 0123456789abcdef"), `cookie_keys: key 2 is given twice`},
		"cookie_keys that nobody set":         {global("cookie_keys {env.STICKY_NOBODY_SET_THIS}"), `cookie_keys: key 1: `},
		"cookie_keys and key_rotation":        {global("cookie_keys 0123456789abcdef", "key_rotation 24h"), `key_rotation has no meaning for cookie_keys that are given: leave one of them out`},
		"key_rotation short":                  {global("key_rotation 10ms"), `key_rotation is 10ms, it must be at least 1s`},
		"app_cookie name":                     {balancer(`app_cookie "a b"`), `source app_cookie: "a b" is not a cookie name`},
		"credentials of nobody":               {balancer("credentials nobody"), `credentials: preset "nobody" is unknown (have `},
		"drain of nobody":                     {balancer("drain app9:8080"), `policy "default": drain: app9:8080 is not among the upstreams (have app1:8080, app2:8080)`},
		"policy mode":                         {balancer("mode sticky"), `policy "default": mode "sticky" is unknown (have strict, flex, norotate)`},
		"policy mode in capitals":             {balancer("mode STRICT"), `mode "STRICT" is unknown (have strict, flex, norotate)`},
		"policy on_full":                      {balancer("on_full refuse"), `policy "default": on_full "refuse" is unknown (have spill, wait, move)`},
		"policy store":                        {balancer("store visitors"), `policy "default": no session store is named "visitors"`},
		"policy store among others":           {global("store memory {", "name a", "}", "store memory {", "name b", "}") + balancer("store c"), `policy "default": no session store is named "c" (have a, b, default)`},
		"cookie name with a space":            {balancer(`cookie "my cookie"`), `source cookie: "my cookie" is not a cookie name (letters, digits and`},
		"cookie name with a semicolon":        {balancer(`cookie "a;b"`), `source cookie: "a;b" is not a cookie name`},
		"cookie name that is not ASCII":       {balancer("cookie größe"), `source cookie: "größe" is not a cookie name`},
		"cookie __Host- not Secure":           {balancer("cookie __Host-visitor {", "secure off", "}"), `source cookie: the prefix __Host- of "__Host-visitor" takes a cookie that is Secure: leave secure off out`},
		"cookie __Host- with a domain":        {balancer("cookie __Host-visitor {", "domain example.com", "}"), `source cookie: the prefix __Host- of "__Host-visitor" takes a cookie without a domain: leave domain out, or use __Secure-`},
		"cookie __Host- with a path":          {balancer("cookie __host-visitor {", "path /shop", "}"), `source cookie: the prefix __Host- of "__host-visitor" takes a cookie with the path /: leave path out, or use __Secure-`},
		"cookie __Secure- not Secure":         {balancer("cookie __secure-visitor {", "secure off", "}"), `source cookie: the prefix __Secure- of "__secure-visitor" takes a cookie that is Secure: leave secure off out`},
		"cookie __Http- for scripts":          {balancer("cookie __Http-visitor {", "http_only off", "}"), `source cookie: the prefix __Http- of "__Http-visitor" takes a cookie that is HttpOnly: leave http_only off out`},
		"cookie same_site":                    {balancer("cookie {", "same_site loose", "}"), `source cookie: same_site "loose" is unknown (have lax, strict, none)`},
		"cookie same_site none, not Secure":   {balancer("cookie {", "same_site none", "secure off", "}"), `source cookie: same_site none and secure off: browsers take such a cookie only if it is Secure`},
		"cookie partitioned, not Secure":      {balancer("cookie {", "partitioned", "secure off", "}"), `source cookie: partitioned and secure off: browsers take such a cookie only if it is Secure`},
		"cookie secure":                       {balancer("cookie {", "secure yes", "}"), `source cookie: secure is "yes", it must be auto, on or off`},
		"cookie http_only":                    {balancer("cookie {", "http_only auto", "}"), `source cookie: http_only is "auto", it must be on or off`},
		"cookie max_age":                      {balancer("cookie {", "max_age 10ms", "}"), `source cookie: max_age is 10ms, it must be at least 1s`},
		"cookie path without a slash":         {balancer("cookie {", "path shop", "}"), `source cookie: path "shop" does not begin with a slash`},
		"cookie path with a semicolon":        {balancer("cookie {", `path "/a;b"`, "}"), `source cookie: path "/a;b" holds what no cookie's path can`},
		"cookie domain that is an address":    {balancer("cookie {", "domain 192.0.2.1", "}"), `source cookie: domain 192.0.2.1 is an address: leave it out, the cookie is for the site's host then`},
		"cookie domain with a port":           {balancer("cookie {", "domain example.com:443", "}"), `source cookie: domain "example.com:443" is not the name of a host, such as example.com`},
		"cookie policy without a name":        {balancer("cookie {", `from_cookie_policy "a b" secret`, "}"), `source cookie: from_cookie_policy: "a b" is not a cookie name`},
		"query twice":                         {balancer("query user", "query user"), `policy "default": source query user is given twice`},
		"jwt twice":                           {balancer("jwt sub", "jwt sub header authorization"), `policy "default": source jwt sub header Authorization is given twice`},
		"jwt in a header that no request has": {balancer(`jwt sub header "a b"`), `source jwt: "a b" is not the name of a header field`},
		"jwt in a cookie that no request has": {balancer(`jwt sub cookie "a b"`), `source jwt: "a b" is not a cookie name`},
		"cookie twice":                        {balancer("cookie", "cookie"), `policy "default": source cookie sticky_default is given twice`},
		"cookie twice, once by its name":      {balancer("cookie sticky_default", "cookie"), `source cookie sticky_default is given twice`},
		"header twice":                        {balancer("header X-Session", "header x-session"), `policy "default": source header X-Session is given twice`},
		"header that no request has":          {balancer(`header "a b"`), `source header: "a b" is not the name of a header field`},
		"client_ip twice":                     {balancer("client_ip 24", "client_ip 16"), `policy "default": source client_ip is given twice`},
		"client_ip IPv4 prefix":               {balancer("client_ip 33"), `source client_ip: IPv4 prefix 33 is not within 1 to 32`},
		"client_ip IPv6 prefix":               {balancer("client_ip 24 129"), `source client_ip: IPv6 prefix 129 is not within 1 to 128`},
		"key without a placeholder":           {balancer(`key fixed`), `source key: "fixed" has no placeholder, such as {http.request.uri.query.user}: all clients would share a session`},
		"policy in itself":                    {balancer("fallback sticky"), `policy "default" is its own fallback: give the inner one another name`},
		"new_sessions without a time":         {balancer("new_sessions 10"), `policy "default": new_sessions: "10" is not a rate: write a number and a time, such as 10/1m`},
		"one name, two sets of upstreams": {
			two("shop", "a:80 b:80", "shop", "c:80"),
			`policy "shop" is used with different targets (a:80 b:80; c:80): give each set of upstreams a policy name of its own (lb_policy sticky <name>)`,
		},
		"one name, two dynamic sources": {
			twoDynamic("shop", "shop.example", "shop", "forum.example"),
			`policy "shop" is used with different targets`,
		},
		"no name, two sets of upstreams, by header": {
			two(byHeader, "a:80", byHeader, "b:80"),
			`policy "default" is used with different targets (a:80; b:80): give each set of upstreams a policy name of its own (lb_policy sticky <name>)`,
		},
		"no name, two sets of upstreams, the first by header": {
			two(byHeader, "a:80", "", "b:80"),
			`policy "default" is used with different targets`,
		},
		"no name, two sets of upstreams, one by header": {
			two("", "a:80", byHeader, "b:80"),
			`policy "default" is used with different targets (a:80; b:80): give each set of upstreams a policy name of its own`,
		},

		"store on_full":               {global("store memory {", "on_full spill", "}"), `store memory "default": on_full "spill" is unknown (have refuse, hash)`},
		"store persist":               {global("store memory {", "persist never", "}"), `store memory "default": persist "never" is neither a duration (like 1s) nor off`},
		"store persist zero":          {global("store memory {", "persist 0s", "}"), `store memory "default": persist 0s is too short: 100ms is the least, off writes nothing`},
		"store persist negative":      {global("store memory {", "persist -1s", "}"), `store memory "default": persist -1s is too short: 100ms is the least`},
		"store persist too short":     {global("store memory {", "persist 10ms", "}"), `store memory "default": persist 10ms is too short: 100ms is the least`},
		"two stores of one name":      {global("store memory {", "name a", "}", "store memory {", "name a", "}"), `two session stores are named "a": give each a name of its own`},
		"two stores without name":     {global("store memory", "store memory"), `two session stores are named "default": give each a name of its own`},
		"two stores, one default":     {global("store memory", "store memory {", "name default", "}"), `two session stores are named "default": give each a name of its own`},
		"store redis without address": {global("store redis"), `store redis "default": it has no address: give one such as localhost:6379`},
		"store redis address":         {global("store redis :6379"), `store redis "default": ":6379" is not an address (like localhost:6379)`},
		"store redis on_error":        {global("store redis localhost {", "on_error spill", "}"), `store redis "default": on_error "spill" is unknown (have hash, refuse)`},
		"store redis prefix":          {global("store redis localhost {", "prefix {a}", "}"), `store redis "default": prefix "{a}" has other characters than letters, digits and - _ . : /`},
		"store redis database":        {global("store redis a:1 b:1 {", "database 1", "}"), `store redis "default": database is 1, a cluster has only 0`},
		"store redis username":        {global("store redis localhost {", "username caddy", "}"), `store redis "default": username caddy has no password`},
		"store redis password":        {global("store redis localhost {", "password {env.STICKY_TEST_NOTHING}", "}"), `store redis "default": password: `},
		"store redis tls":             {global("store redis localhost {", "tls /nowhere/ca.pem", "}"), `store redis "default": tls: open /nowhere/ca.pem`},

		// F5: the first two.
		"no accounts":                            {proxy("exit direct://"), `sticky_proxy "default": it has no accounts: add some (account <name> <password hash>), or say open to let anybody use it`},
		"exit rate":                              {exit("direct:// {\n rate 10\n}"), `sticky_proxy "default": exit 1: `},
		"exit check that is no URL":              {exit("direct:// {\n check example.com 1s\n}"), `check: its URL must be one of http or https, such as https://example.com/`},
		"exit check too often":                   {exit("direct:// {\n check http://example.com/ 1ms\n}"), `check: the interval is 1ms, it must be at least 100ms`},
		"exit interface that is not there":       {exit("direct:// {\n interface nowhere0\n}"), `exit 1: `},
		"exit tls_trust that is not there":       {exit("https://berlin.exits.example {\n tls_trust nowhere.pem\n}"), `tls_trust: open nowhere.pem`},
		"exit tls_trust and tls_insecure":        {exit("https://berlin.exits.example {\n tls_trust ca.pem\n tls_insecure\n}"), `tls_insecure accepts any certificate, so tls_trust has no meaning: leave one of them out`},
		"exits_file that is not there":           {openProxy("exits_file nowhere.txt"), `exits_file: open nowhere.txt`},
		"accounts and open":                      {openProxy(account), `sticky_proxy "default": it is open and has accounts: leave out one of them`},
		"account twice":                          {proxy(account, account, "exit direct://"), `account "alice" is given twice`},
		"account without a name":                 {proxy(`account "" `+hash, "exit direct://"), `account "": the name is empty: give it one`},
		"account without a hash":                 {proxy(`account alice ""`, "exit direct://"), `account "alice" has no password hash: make one with caddy hash-password`},
		"account, hash not set":                  {proxy(`account alice {env.STICKY_TEST_NOT_SET}`, "exit direct://"), `account "alice": evaluated placeholder {env.STICKY_TEST_NOT_SET} is empty`},
		"account with a password":                {proxy("account alice "+password, "exit direct://"), `account "alice": the password is not a hash: make one with caddy hash-password`},
		"account with a password that is base64": {proxy("account alice c2VjcmV0", "exit direct://"), `account "alice": the password is not a bcrypt or argon2id hash: make one with caddy hash-password`},
		"account with half a hash":               {proxy("account alice "+hash[:40], "exit direct://"), `account "alice": the password is not a bcrypt or argon2id hash: make one with caddy hash-password`},
		"account with an old hash":               {proxy("account alice $1$salt$hash", "exit direct://"), `account "alice": the password is not a bcrypt or argon2id hash: make one with caddy hash-password`},
		"account and hash swapped":               {proxy("account "+hash+" alice", "exit direct://"), `account 1: its name looks like a password hash: the name comes first`},
		"account with a hash of no cost":         {proxy("account alice $2a$99$"+strings.Repeat("a", 53), "exit direct://"), `account "alice": the password is not a bcrypt or argon2id hash`},
		"account with a hash of no kind":         {proxy("account alice $argon2id$a$b$c$d", "exit direct://"), `account "alice": the password is not a bcrypt or argon2id hash`},
		"account cut by a key":                   {proxy("account alice-session-x "+hash, "exit direct://"), `account "alice-session-x": a client's username would be cut at "-session-x", which begins a parameter: rename the account`},
		"account that ends like a key":           {proxy("account alice-session "+hash, "exit direct://"), `account "alice-session": a client's username would be cut at "-session", which begins a parameter: rename the account`},
		"account cut by the other form":          {proxy("account alice?session=x "+hash, "exit direct://"), `account "alice?session=x": a client's username would be cut at "?session=x", which begins a parameter: rename the account`},
		"account with a colon":                   {proxy("account alice:x "+hash, "exit direct://"), `account "alice:x": the name holds a colon, which ends a username: rename the account`},
		"account too long":                       {proxy("account "+strings.Repeat("a", 256)+" "+hash, "exit direct://"), `the name is 256 bytes long: shorten it to at most 255`},
		"credentials":                            {openProxy("credentials mssive"), `sticky_proxy "default": credentials: preset "mssive" is unknown (have massive, brightdata, oxylabs, decodo, iproyal, evomi, geonode, soax, dataimpulse, okeyproxy, illusory, scrapeops, apify, thordata)`},

		"credentials template":                    {openProxy("credentials <account>"), `sticky_proxy "default": credentials: the template has no <session>: add one, as in [-session-<session>]`},
		"credentials template in braces":          {openProxy("credentials <account>[-s<session>]"), `credentials: template "<account>[-s<session>]": nothing separates "s" from its value`},
		"credentials field":                       {openProxy("credentials massive {\nfield cookie\n}"), `credentials: field "cookie" is unknown (have username, password, header <name>)`},
		"credentials header":                      {openProxy("credentials massive {\nfield header a/b\n}"), `credentials: "a/b" is not the name of a header field`},
		"credentials unit":                        {openProxy("credentials massive {\nunit h\n}"), `credentials: unit "h" is unknown (have s, m, ms, suffix)`},
		"credentials bounds":                      {openProxy("credentials massive {\nbounds bend\n}"), `credentials: bounds "bend" is unknown (have reject, clamp)`},
		"credentials id":                          {openProxy("credentials massive {\nid a-z 5 1\n}"), `credentials: id from 5 to 1 characters: write a smallest and a largest length from 1 to 255`},
		"credentials alias":                       {openProxy("credentials massive {\nalias pinned often\n}"), `credentials: alias "pinned": mode "often" is unknown (have strict, flex, norotate)`},
		"credentials identity":                    {openProxy("credentials massive {\nidentity asn isp asn\n}"), `credentials: identity "asn" is given twice`},
		"credentials in an open proxy's password": {openProxy("credentials iproyal"), `its credentials are in the password, which nobody needs: leave out open`},
		"credentials without an account, two accounts": {
			proxy(account, "account bob "+hash, "exit direct://", "credentials apify"),
			`its credentials name no account: give it exactly one account, and no accounts_file`,
		},
		"account cut by another preset": {proxy("account alice__cr.us "+hash, "exit direct://", "credentials dataimpulse"), `account "alice__cr.us": a client's username would be cut at "__cr.us", which begins a parameter: rename the account`},
		"account, allow":                {proxy(account+" {\nallow 10.0.0.1/8\n}", "exit direct://"), `account "alice": allow "10.0.0.1/8": its address has bits outside of the prefix: write 10.0.0.0/8, or 10.0.0.1 alone`},
		"account, deny":                 {proxy(account+" {\ndeny example.com:80\n}", "exit direct://"), `account "alice": deny "example.com:80": a deny is for every port`},
		"account, tags":                 {proxy(account+" {\ntags country \"\"\n}", "exit direct://"), `account "alice": tags need a key and at least one value`},
		"accounts file that is missing": {proxy("accounts_file /nowhere/users", "exit direct://"), `sticky_proxy "default": accounts_file: open /nowhere/users: no such file or directory`},
		"accounts file and open":        {openProxy("accounts_file testdata/users.htpasswd"), `it is open and has accounts: leave out one of them`},
		"new_sessions":                  {openProxy("new_sessions 10"), `sticky_proxy "default": new_sessions "10" is not a rate: write a number and a time, such as 10/1m`},
		"max_idle negative":             {openProxy("max_idle -1s"), `sticky_proxy "default": max_idle is -1s, it must not be negative`},

		"proxy ttl 0":                  {openProxy("ttl 0"), `sticky_proxy "default": ttl is 0s, it must be positive`},
		"proxy ttl negative":           {openProxy("ttl -1m"), `sticky_proxy "default": ttl is -1m0s, it must be positive`},
		"proxy ttl above max_ttl":      {openProxy("ttl 5h"), `sticky_proxy "default": ttl is 5h0m0s, above max_ttl of 4h0m0s: raise max_ttl`},
		"proxy max_ttl below ttl":      {openProxy("max_ttl 10m"), `sticky_proxy "default": ttl is 15m0s, above max_ttl of 10m0s`},
		"proxy max_ttl below min_ttl":  {openProxy("max_ttl 30s"), `sticky_proxy "default": max_ttl is 30s, below min_ttl of 1m0s`},
		"proxy max_ttl 0":              {openProxy("max_ttl 0"), `sticky_proxy "default": max_ttl is 0s`},
		"proxy min_ttl 0":              {openProxy("min_ttl 0"), `sticky_proxy "default": min_ttl is 0s, it must be positive`},
		"proxy min_ttl negative":       {openProxy("min_ttl -1m"), `sticky_proxy "default": min_ttl is -1m0s, it must be positive`},
		"proxy mode":                   {openProxy("mode sticky"), `sticky_proxy "default": mode "sticky" is unknown (have strict, flex, norotate)`},
		"proxy fallback":               {openProxy("fallback least_conn"), `sticky_proxy "default": fallback "least_conn" is unknown (have random, round_robin, least_sessions, hash)`},
		"proxy resolver":               {openProxy("resolver dns.example"), `sticky_proxy "default": resolver "dns.example" is not an IP address, with a port or without, such as 192.0.2.53 or [2001:db8::53]:5353`},
		"proxy via":                    {openProxy("via no"), `sticky_proxy "default": via is "no", it must be on or off`},
		"proxy store":                  {openProxy("store visitors"), `sticky_proxy "default": no session store is named "visitors"`},
		"ports word":                   {openProxy("ports https"), `ports "https": port "https" is not a number from 1 to 65535: write a port, or a range such as 8000-8999`},
		"ports 0":                      {openProxy("ports 0"), `ports "0": port "0" is not a number from 1 to 65535`},
		"ports too high":               {openProxy("ports 80 65536"), `ports "65536": port "65536" is not a number from 1 to 65535`},
		"ports with a comma":           {openProxy("ports 80,443"), `ports "80,443": port "80,443" is not a number from 1 to 65535`},
		"ports backwards":              {openProxy("ports 8999-8000"), `ports "8999-8000": the range ends before it begins: write 8000-8999`},
		"ports half a range":           {openProxy("ports 8000-"), `ports "8000-": port "" is not a number from 1 to 65535: write a port, or a range such as 8000-8999`},
		"allow everything":             {openProxy("allow *"), `allow "*": the public internet is allowed anyway, and other ranges only by name: list those`},
		"allow a URL":                  {openProxy("allow http://example.com"), `allow "http://example.com": an entry is not a URL: write its host, or host:port`},
		"allow bits outside a prefix":  {openProxy("allow 10.0.0.1/8"), `allow "10.0.0.1/8": its address has bits outside of the prefix: write 10.0.0.0/8, or 10.0.0.1 alone`},
		"allow a prefix too long":      {openProxy("allow 10.0.0.0/99"), `allow "10.0.0.0/99": it is not a CIDR: write one such as 10.0.0.0/8`},
		"allow a port that is none":    {openProxy("allow example.com:99999"), `allow "example.com:99999": port "99999" is not a number from 1 to 65535`},
		"allow a pattern":              {openProxy("allow exam*.com"), `allow "exam*.com": host "exam*.com" is neither a name nor an address: write an address, a CIDR, a host name or *.suffix`},
		"allow an empty entry":         {openProxy(`allow ""`), `allow "": the entry is empty: leave it out`},
		"deny a port":                  {openProxy("deny example.com:80"), `deny "example.com:80": a deny is for every port: leave the port out`},
		"deny an address that is none": {openProxy("deny 300.1.1.1"), `deny "300.1.1.1": host "300.1.1.1" ends like an IPv4 address but is none`},

		"no exits": {proxy("open"), `sticky_proxy "default": it has no exits: add some, such as exit socks5://berlin.exits.example:1080`},
		"same exit twice": {
			proxy("open", "exit direct://203.0.113.7", "exit direct://203.0.113.7"),
			`exit direct://203.0.113.7 is given twice`,
		},
		"same exit twice, once with its port": {
			proxy("open", "exit socks5://berlin.exits.example", "exit socks5://berlin.exits.example:1080/"),
			`exit socks5://berlin.exits.example:1080 is given twice`,
		},
		"same exit twice, with two passwords": {
			proxy("open", "exit http://"+credentials+"berlin.exits.example", "exit http://user:other@berlin.exits.example"),
			`exit http://user@berlin.exits.example:80 is given twice`,
		},
		"same exit twice, once mapped": {
			proxy("open", "exit direct://203.0.113.7", "exit direct://[::ffff:203.0.113.7]"),
			`exit direct://203.0.113.7 is given twice`,
		},
		"one proxy name, two sets of exits": {
			twoProxies("berlin", "direct://203.0.113.7", "berlin", "direct://203.0.113.8"),
			`sticky_proxy "berlin": its name is used with different targets (direct://203.0.113.7; direct://203.0.113.8): give each set of exits a proxy name of its own (sticky_proxy <name>)`,
		},
		"no proxy name, two sets of exits": {
			twoProxies("", "http://"+credentials+"berlin.exits.example", "", "http://"+credentials+"paris.exits.example"),
			`sticky_proxy "default": its name is used with different targets (http://user@berlin.exits.example:80; http://user@paris.exits.example:80): give each set of exits a proxy name of its own`,
		},
		"direct with a name":            {exit("direct://eth0"), `exit 1: loading module 'direct': provision sticky.exits.direct: its URL is direct:// and an IP address of this machine, without a port`},
		"direct with a port":            {exit("direct://203.0.113.7:80"), `its URL is direct:// and an IP address of this machine, without a port`},
		"direct with a path":            {exit("direct://203.0.113.7/"), `its URL is direct:// and an IP address of this machine, without a port`},
		"second exit":                   {openProxy("exit direct://eth0"), `exit 2: loading module 'direct'`},
		"exit with a path":              {exit("http://" + credentials + "berlin.exits.example:3128/proxy"), `exit 1: loading module 'http': provision sticky.exits.http: its URL has something behind the host`},
		"exit with a query":             {exit("socks5://" + credentials + "berlin.exits.example?x"), `its URL has something behind the host`},
		"exit with a fragment":          {exit("http://" + credentials + "berlin.exits.example#x"), `its URL has something behind the host`},
		"exit without a host":           {exit("http://" + credentials), `its URL has no usable host`},
		"exit without all":              {exit("socks5://"), `its URL has no usable host`},
		"exit with a port alone":        {exit("http://" + credentials + ":3128"), `its URL has no usable host`},
		"exit with a word for a port":   {exit("http://" + credentials + "berlin.exits.example:proxy"), `its URL has no usable host`},
		"exit with two ports":           {exit("http://" + credentials + "berlin.exits.example:3128:1"), `its URL has no usable host`},
		"exit, space in the host":       {exit(`"http://` + credentials + `berlin exits"`), `its URL has no usable host`},
		"exit, bracket left open":       {exit("http://" + credentials + "[2001:db8::7"), `its URL has no usable host`},
		"direct, with a user":           {exit("direct://user:" + password + "@203.0.113.7"), `its URL is direct:// and an IP address of this machine`},
		"direct, not set":               {exit("direct://{env.STICKY_TEST_NOT_SET}"), `evaluated placeholder {env.STICKY_TEST_NOT_SET} is empty`},
		"direct, bracket left open":     {exit("direct://[2001:db8::7"), `an IPv6 address in brackets`},
		"direct, unspecified":           {exit("direct://0.0.0.0"), `an unspecified address is no source`},
		"exit with a port that is none": {exit("http://berlin.exits.example:99999"), `port "99999" is not a number from 1 to 65535`},
		"same exit in capitals":         {proxy("open", "exit http://berlin.exits.example", "exit HTTP://BERLIN.exits.example."), `exit http://berlin.exits.example:80 is given twice`},
		"exit, escape in the password":  {exit("http://user:" + password + "%zz@berlin.exits.example"), `the user information in its URL has a bad percent escape`},
		"socks5 without a password":     {exit("socks5://user@berlin.exits.example"), `a SOCKS5 user and password have 1 to 255 bytes each (RFC 1929)`},
		"socks5 without a user":         {exit("socks5://:" + password + "@berlin.exits.example"), `a SOCKS5 user and password have 1 to 255 bytes each (RFC 1929)`},
		"socks5, password too long":     {exit("socks5://user:" + strings.Repeat(password, 37) + "@berlin.exits.example"), `a SOCKS5 user and password have 1 to 255 bytes each (RFC 1929)`},
	} {
		t.Run(name, func(t *testing.T) {
			config, _, err := adapt(c.caddyfile)
			require.NoError(t, err, "it does not adapt")
			err = validate(t, config)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), password)
		})
	}
}

// What a Caddyfile cannot say is refused with the same care.
func TestJSONThatHasNoMeaningIsRefused(t *testing.T) {
	handle := func(handler string) string {
		return `{"apps": {"http": {"servers": {"srv0": {"listen": [":8080"], "routes": [{"handle": [` + handler + `]}]}}}}}`
	}
	policy := func(options string) string {
		return handle(`{"handler": "reverse_proxy", "upstreams": [{"dial": "app1:8080"}],
			"load_balancing": {"selection_policy": {"policy": "sticky", ` + options + `}}}`)
	}
	proxy := func(options string) string {
		return handle(`{"handler": "sticky_proxy", "open": true, ` + options + `}`)
	}
	direct := func(options string) string {
		return proxy(`"exits": [{"exit": "direct", "url": "direct://"}], ` + options)
	}
	exits := func(exit string) string { return proxy(`"exits": [` + exit + `]`) }
	url := `"url": "http://user:` + password + `@berlin.exits.example"`
	listener := func(wrapper string) string {
		return `{"apps": {"http": {"servers": {"srv0": {"listen": [":8080"], "listener_wrappers": [` + wrapper + `]}}}}}`
	}
	for name, c := range map[string]struct{ config, want string }{
		"policy unknown field":    {policy(`"mood": "strict"`), `unknown field "mood"`},
		"policy max_errors":       {policy(`"max_errors": -1`), `policy "default": max_errors is -1, it must be positive`},
		"policy ttl 0":            {policy(`"ttl": 0`), `policy "default": ttl is 0s, it must be positive`},
		"source without its kind": {policy(`"sources": [{}]`), `policy "default": loading sources: position 0: module name not specified with key 'source'`},
		"source unknown":          {policy(`"sources": [{"source": "moon"}]`), `unknown module: sticky.sources.moon`},
		"source header, no name":  {policy(`"sources": [{"source": "header"}]`), `source header: "" is not the name of a header field`},
		"source query, no name":   {policy(`"sources": [{"source": "query"}]`), `source query: it needs the name of a parameter`},
		"source jwt, no claim":    {policy(`"sources": [{"source": "jwt"}]`), `source jwt: it needs the name of a claim, such as sub`},
		"source jwt, two places":  {policy(`"sources": [{"source": "jwt", "claim": "sub", "header": "x-token", "cookie": "t"}]`), `source jwt: the token is in the header X-Token or in the cookie t: leave one of them out`},
		"source cookie, max_age":  {policy(`"sources": [{"source": "cookie", "max_age": -1}]`), `source cookie: max_age is -1ns, it must be at least 1s`},
		"cookie policy, no name":  {policy(`"sources": [{"source": "cookie", "from_cookie_policy": {}}]`), `source cookie: from_cookie_policy needs the name of the cookie`},
		"source key, no text":     {policy(`"sources": [{"source": "key"}]`), `source key: "" has no placeholder`},
		"source client_ip":        {policy(`"sources": [{"source": "client_ip", "v4_prefix": -1}]`), `source client_ip: IPv4 prefix -1 is not within 1 to 32`},
		"no sources, two sets of upstreams": {
			`{"apps": {"http": {"servers": {"srv0": {"listen": [":8080"], "routes": [{"handle": [
				{"handler": "reverse_proxy", "upstreams": [{"dial": "a:80"}], "load_balancing": {"selection_policy": {"policy": "sticky", "name": "x", "sources": []}}},
				{"handler": "reverse_proxy", "upstreams": [{"dial": "b:80"}], "load_balancing": {"selection_policy": {"policy": "sticky", "name": "x", "sources": []}}}
			]}]}}}}}`, `policy "x" is used with different targets (a:80; b:80)`,
		},
		"fallback unknown":          {policy(`"fallback": {"policy": "luck"}`), `policy "default": loading fallback policy: loading module 'luck': unknown module`},
		"store max_sessions":        {`{"apps": {"sticky": {"stores": [{"store": "memory", "max_sessions": -1}]}}}`, `store memory "default": max_sessions is -1, it must be positive`},
		"store redis timeout":       {`{"apps": {"sticky": {"stores": [{"store": "redis", "addresses": ["a"], "timeout": -1}]}}}`, `store redis "default": timeout is -1ns, it must be positive`},
		"store unknown":             {`{"apps": {"sticky": {"stores": [{"store": "paper"}]}}}`, `unknown module: sticky.stores.paper`},
		"proxy unknown field":       {direct(`"mood": "strict"`), `unknown field "mood"`},
		"max_sessions_per_account":  {direct(`"max_sessions_per_account": -1`), `sticky_proxy "default": max_sessions_per_account is -1, it must be positive`},
		"credentials of two kinds":  {direct(`"credentials": {"preset": "massive", "template": "<session>"}`), `credentials: there is a preset and a template: leave out one of them`},
		"account max_sessions":      {handle(`{"handler": "sticky_proxy", "accounts": [{"name": "a", "password": "` + hash + `", "max_sessions": -1}]}`), `account "a": max_sessions is -1, it must be positive`},
		"proxy max_errors":          {direct(`"max_errors": -1`), `sticky_proxy "default": max_errors is -1, it must be positive`},
		"proxy response_timeout":    {direct(`"response_timeout": 300`), `sticky_proxy "default": response_timeout is 300ns, it must be off or at least 1ms: a number in JSON is nanoseconds, write "5m"`},
		"proxy response_timeout -1": {direct(`"response_timeout": "-1s"`), `sticky_proxy "default": response_timeout is -1s, it must be off or at least 1ms: a number in JSON is nanoseconds, write "5m"`},
		"proxy idle_timeout":        {direct(`"idle_timeout": "-1s"`), `sticky_proxy "default": idle_timeout is -1s, it must be positive`},
		"proxy dial_timeout":        {direct(`"dial_timeout": "-1s"`), `sticky_proxy "default": dial_timeout is -1s, it must be positive`},
		"proxy ttl 0":               {direct(`"ttl": 0`), `sticky_proxy "default": ttl is 0s, it must be positive`},
		"proxy without exits":       {proxy(`"exits": []`), `sticky_proxy "default": it has no exits: add some`},
		"exit without its kind":     {exits(`{` + url + `}`), `exit 1: "" is not an exit scheme (have direct, http, https, socks5)`},
		"exit unknown":              {exits(`{"exit": "ftp", ` + url + `}`), `exit 1: "ftp" is not an exit scheme (have direct, http, https, socks5)`},
		"exit of another kind":      {exits(`{"exit": "socks5", ` + url + `}`), `its URL must begin with socks5://`},
		"exit unknown field":        {exits(`{"exit": "http", "wait": 2, ` + url + `}`), `unknown field "wait"`},
		"exit with a line break":    {exits(`{"exit": "http", "url": "http://user:` + password + `@berlin.exits.example\n"}`), `its URL has no usable host`},
		"account with a line break": {handle(`{"handler": "sticky_proxy", "accounts": [{"name": "a\nb", "password": "` + hash + `"}]}`), `account "a\nb": the name holds a control character: rename the account`},
		"idle_timeout without one":  {listener(`{"wrapper": "idle_timeout"}`), `idle_timeout is 0s, it must be positive, such as 2m`},
		"websocket_timeouts empty":  {handle(`{"handler": "websocket_timeouts"}`), `websocket_timeouts does nothing: say idle, such as 10m, or ping, such as 30s, or both`},
		"websocket_timeouts idle":   {handle(`{"handler": "websocket_timeouts", "idle": "-1s", "ping": "1s"}`), `websocket_timeouts: idle is -1s, it must be positive, such as 10m`},
		"websocket_timeouts ping":   {handle(`{"handler": "websocket_timeouts", "idle": "1s", "ping": "-1s"}`), `websocket_timeouts: ping is -1s, it must be positive, such as 30s`},
		"sticky_socks5 auth":        {listener(`{"wrapper": "sticky_socks5", "auth": "optional"}`), `sticky_socks5: auth "optional" is unknown (have required, none)`},
		"idle_timeout negative":     {listener(`{"wrapper": "idle_timeout", "timeout": "-1s"}`), `idle_timeout is -1s, it must be positive, such as 2m`},
		"idle_timeout requests":     {listener(`{"wrapper": "idle_timeout", "timeout": "2m", "requests": "counted"}`), `requests is "counted", it can only be exempt`},
		"idle_timeout max_lifetime": {listener(`{"wrapper": "idle_timeout", "timeout": "2m", "max_lifetime": "-1s"}`), `max_lifetime is -1s, it must be positive`},
		"idle_timeout max_requests": {listener(`{"wrapper": "idle_timeout", "timeout": "2m", "max_requests": -1}`), `max_requests is -1, it must be positive`},
		"idle_timeout keepalive":    {listener(`{"wrapper": "idle_timeout", "timeout": "2m", "keepalive": {"idle": "1m", "count": 4}}`), `keepalive's interval is 0s, it must be at least 1s`},
		"idle_timeout keepalives":   {listener(`{"wrapper": "idle_timeout", "timeout": "2m", "keepalive": {"idle": "1m", "interval": "15s", "count": 128}}`), `keepalive's count is 128, it must be 1 to 127`},
	} {
		t.Run(name, func(t *testing.T) {
			err := validate(t, []byte(c.config))
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), password)
		})
	}
}
