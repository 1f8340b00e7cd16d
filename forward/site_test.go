// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// validate provisions a Caddyfile or JSON as caddy validate does, without listening.
func validate(t *testing.T, config string) error {
	t.Helper()
	data := []byte(config)
	if !strings.HasPrefix(config, `{"`) {
		var err error
		data, _, err = caddyconfig.GetAdapter("caddyfile").Adapt(data, nil)
		require.NoError(t, err)
	}
	var cfg caddy.Config
	require.NoError(t, json.Unmarshal(data, &cfg))
	cfg.Admin = &caddy.AdminConfig{Disabled: true}
	cfg.StorageRaw = caddyconfig.JSON(map[string]string{"module": "file_system", "root": t.TempDir()}, nil)
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "sticky_test"}`), EncoderRaw: json.RawMessage(`{"format": "json"}`)}},
	}}
	proxytest.Captured.Reset()
	return caddy.Validate(&cfg)
}

// hostWarning is what the warning about host matchers says.
type hostWarning struct {
	Level     string   `json:"level"`
	Proxy     string   `json:"proxy"`
	Hosts     []string `json:"hosts"`
	Addresses string   `json:"addresses"`
}

func hostWarnings(t *testing.T) []hostWarning {
	t.Helper()
	var list []hostWarning
	for _, line := range proxytest.Captured.Lines("only requests for these hosts reach sticky_proxy, but clients send it requests for all hosts: " +
		"add the bare port to the addresses of its site, and put no host matcher before it") {
		var w hostWarning
		require.NoError(t, json.Unmarshal(caddyconfig.JSON(line, nil), &w))
		require.Equal(t, "warn", w.Level)
		list = append(list, w)
	}
	return list
}

const (
	openBlock = "{\nopen\nexit direct://\n}\n"
	openProxy = "sticky_proxy " + openBlock
)

// C10: a site by its name gets no request of a proxy's clients.
func TestHostMatchersBeforeTheProxyAreWarnedOf(t *testing.T) {
	for name, c := range map[string]struct {
		caddyfile string
		hosts     string // of the warning, none: no warning
		addresses string
	}{
		"one name": {
			"proxy.example {\n" + openProxy + "}", "proxy.example", ":443, proxy.example:443",
		},
		"one name with a port": {
			"proxy.example:8080 {\n" + openProxy + "}", "proxy.example", ":8080, proxy.example:8080",
		},
		"one name without TLS": {
			"http://proxy.example:8080 {\n" + openProxy + "}", "proxy.example", "http://:8080, http://proxy.example:8080",
		},
		"an address as name": {
			"http://[::1]:8080 {\n" + openProxy + "}", "::1", "http://:8080, http://[::1]:8080",
		},
		"two names": {
			"a.example:8080, b.example:8080 {\n" + openProxy + "}", "a.example b.example", ":8080, a.example:8080",
		},
		"a name beside another site": {
			"proxy.example:8080 {\n" + openProxy + "}\nother.example:8080 {\nrespond hello\n}", "proxy.example", ":8080, proxy.example:8080",
		},
		"a name beside a bare port without a proxy": {
			"http://proxy.example:8080 {\n" + openProxy + "}\n:8080 {\nrespond hello\n}", "proxy.example", "http://:8080, http://proxy.example:8080",
		},
		"two sites with a name each": {
			"a.example:8080 {\n" + openProxy + "}\nb.example:8080 {\n" + openProxy + "}", "a.example b.example", ":8080, a.example:8080",
		},
		"two proxies of one site": {
			"a.example:8080 {\nhandle /a {\n" + openProxy + "}\nhandle {\n" + openProxy + "}\n}", "a.example", ":8080, a.example:8080",
		},
		"a name in a handle": {
			":8080 {\n@name host proxy.example\nhandle @name {\n" + openProxy + "}\n}", "proxy.example", "http://:8080, http://proxy.example:8080",
		},
		"a handle in a name": {
			"proxy.example:8080 {\nhandle {\nroute {\n" + openProxy + "}\n}\n}", "proxy.example", ":8080, proxy.example:8080",
		},
		"a name before the proxy": {
			":8080 {\n@name host proxy.example\nsticky_proxy @name " + openBlock + "}", "proxy.example", "http://:8080, http://proxy.example:8080",
		},
		"a name before the proxy beside another site": {
			"http://:8080 {\n@name host proxy.example\nsticky_proxy @name " + openBlock + "}\nhttp://x.example:8080 {\nrespond hello\n}",
			"proxy.example", "http://:8080, http://proxy.example:8080",
		},
		"a name with a path": {
			":8080 {\n@name {\nhost proxy.example\npath /x*\n}\nsticky_proxy @name " + openBlock + "}", "proxy.example", "http://:8080, http://proxy.example:8080",
		},
		"a named route": {
			"&(proxy) {\n" + openProxy + "}\nproxy.example:8080 {\ninvoke proxy\n}", "proxy.example", ":8080, proxy.example:8080",
		},
		"a socket": {
			"http://proxy.example {\nbind unix//run/proxy.sock\n" + openProxy + "}", "proxy.example", "http://:80, http://proxy.example:80",
		},

		"a bare port":                       {":8080 {\n" + openProxy + "}", "", ""},
		"a bare port beside a name":         {":8080, proxy.example:8080 {\n" + openProxy + "}", "", ""},
		"a bare port beside another site":   {":8080 {\n" + openProxy + "}\nother.example:8080 {\nrespond hello\n}", "", ""},
		"a path":                            {":8080 {\nsticky_proxy /x* " + openBlock + "}", "", ""},
		"a name or a path":                  {":8080 {\n@name expression `host('a.example') || path('/x')`\nsticky_proxy @name " + openBlock + "}", "", ""},
		"all but a name":                    {":8080 {\n@name not host proxy.example\nsticky_proxy @name " + openBlock + "}", "", ""},
		"another proxy on a bare port":      {"proxy.example:8080 {\n" + openProxy + "}\n:8080 {\n" + openProxy + "}", "", ""},
		"another proxy before a name":       {":8080 {\n" + openProxy + "@name host proxy.example\nhandle @name {\n" + openProxy + "}\n}", "", ""},
		"a name for another handler":        {":8080 {\n@name host proxy.example\nrespond @name hello\n" + openProxy + "}", "", ""},
		"a named route beside a bare route": {"&(proxy) {\n" + openProxy + "}\nproxy.example:8080 {\ninvoke proxy\n}\n:8080 {\ninvoke proxy\n}", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, validate(t, c.caddyfile))
			warnings := hostWarnings(t)
			if c.hosts == "" {
				require.Empty(t, warnings)
				return
			}
			require.Len(t, warnings, 1)
			require.ElementsMatch(t, strings.Fields(c.hosts), warnings[0].Hosts)
			require.Equal(t, "default", warnings[0].Proxy)
			require.Equal(t, c.addresses, warnings[0].Addresses)
			require.NoError(t, validate(t, c.addresses+" {\n"+openProxy+"}"))
			require.Empty(t, hostWarnings(t), "the addresses are the cure")
		})
	}
}

// Each server has listeners of its own, and so a warning.
func TestEachServerHasAWarningOfItsOwn(t *testing.T) {
	require.NoError(t, validate(t, "http://a.example:8080, http://b.example:8081 {\n"+openProxy+"}\n:8082 {\n"+openProxy+"}"))
	warnings := hostWarnings(t)
	require.Len(t, warnings, 2)
	require.ElementsMatch(t, []string{"http://:8080, http://a.example:8080", "http://:8081, http://b.example:8081"},
		[]string{warnings[0].Addresses, warnings[1].Addresses})
}

// jsonServer is the JSON of one server with these fields.
func jsonServer(fields string) string {
	return `{"apps": {"http": {"servers": {"proxy": {"automatic_https": {"disable": true}, ` + fields + `}}}}}`
}

func TestHostMatchersInJSONAreWarnedOf(t *testing.T) {
	const proxy = `{"handler": "sticky_proxy", "open": true, "exits": [{"exit": "direct", "url": "direct://"}]}`
	sub := func(routes string) string { return `{"handler": "subroute", "routes": [` + routes + `]}` }
	route := func(match, handle string) string { return `{"match": ` + match + `, "handle": [` + handle + `]}` }
	for name, c := range map[string]struct {
		fields string
		hosts  string
	}{
		"a host":                       {`"routes": [` + route(`[{"host": ["a.example"]}]`, proxy) + `]`, "a.example"},
		"a host for each set":          {`"routes": [` + route(`[{"host": ["a.example"]}, {"host": ["b.example"], "path": ["/b"]}]`, proxy) + `]`, "a.example b.example"},
		"a host for one set of two":    {`"routes": [` + route(`[{"host": ["a.example"]}, {"path": ["/b"]}]`, proxy) + `]`, ""},
		"no matcher":                   {`"routes": [{"handle": [` + proxy + `]}]`, ""},
		"a host in a subroute":         {`"routes": [{"handle": [` + sub(route(`[{"host": ["a.example"]}]`, proxy)) + `]}]`, "a.example"},
		"a subroute later on":          {`"routes": [` + route(`[{"host": ["a.example"]}]`, proxy) + `, {"handle": [` + sub(route(`[{"path": ["/b"]}]`, sub(`{"handle": [`+proxy+`]}`))) + `]}]`, ""},
		"a subroute before":            {`"routes": [{"handle": [` + sub(`{"handle": [`+sub(`{"handle": [`+proxy+`]}`)+`]}`) + `]}, ` + route(`[{"host": ["a.example"]}]`, proxy) + `]`, ""},
		"hosts of two routes":          {`"routes": [` + route(`[{"host": ["a.example"]}]`, sub(`{"handle": [`+proxy+`]}`)) + `, ` + route(`[{"host": ["b.example"]}]`, sub(`{"handle": [`+proxy+`]}`)) + `]`, "a.example b.example"},
		"a named route":                {`"routes": [` + route(`[{"host": ["a.example"]}]`, `{"handler": "invoke", "name": "n"}`) + `], "named_routes": {"n": {"handle": [` + proxy + `]}}`, "a.example"},
		"a named route in a loop":      {`"routes": [` + route(`[{"host": ["a.example"]}]`, `{"handler": "invoke", "name": "n"}`) + `], "named_routes": {"n": {"handle": [{"handler": "invoke", "name": "n"}, ` + proxy + `]}}`, "a.example"},
		"a named route without a host": {`"routes": [{"handle": [{"handler": "invoke", "name": "n"}]}], "named_routes": {"n": {"handle": [` + proxy + `]}}`, ""},
		"a named route of no route":    {`"routes": [], "named_routes": {"n": {"handle": [` + proxy + `]}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, validate(t, jsonServer(`"listen": [":8080"], `+c.fields)))
			warnings := hostWarnings(t)
			if c.hosts == "" {
				require.Empty(t, warnings)
				return
			}
			require.Len(t, warnings, 1)
			require.ElementsMatch(t, strings.Fields(c.hosts), warnings[0].Hosts)
		})
	}
}
