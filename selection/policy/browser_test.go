// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
)

const (
	// page asks for another one by a script before it is done.
	page = `<script>let x = new XMLHttpRequest(); x.open("GET", "/shop/again", false); x.send()</script>`

	// frame has the page in it, which is on another site.
	frame = `<script>document.write("<iframe src='https://shop.example.com:" + location.port + "/shop'></iframe>")</script>`
)

// browse opens a page in Chromium, for which all hosts are this machine.
func browse(t *testing.T, page string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	arguments := []string{
		"--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--user-data-dir=" + t.TempDir(),
		"--host-resolver-rules=MAP * 127.0.0.1", "--ignore-certificate-errors", "--dump-dom", page,
	}
	if os.Geteuid() == 0 {
		arguments = append([]string{"--no-sandbox"}, arguments...)
	}
	output, err := exec.CommandContext(ctx, peer.Need(t, "chromium"), arguments...).CombinedOutput()
	require.NoError(t, err, "%s", output)
}

// shop runs a Caddy with a shop, and on another host a page with the shop in a
// frame. It returns the port. What the browser brings is told to the
// application in a header of another name.
func shop(t *testing.T, scheme, options string, apps []*app) string {
	t.Helper()
	text, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `{
	admin off
	persist_config off
	auto_https disable_redirects
	skip_install_trust
	storage_clean_interval off
	local_certs
	storage file_system %s
	log {
		output discard
	}
}
%[2]s://shop.example.com:0, %[2]s://portal.example.org:0 {
	bind 127.0.0.1
	handle /portal {
		header Content-Type text/html
		respond %[3]q
	}
	handle {
		reverse_proxy %[4]s {
			lb_policy sticky shop {
				%[5]s
			}
			header_up X-Brought {http.request.header.Cookie}
		}
	}
}
`, t.TempDir(), scheme, frame, upstreams(apps...), options), nil)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(text, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	module, err := caddy.ActiveContext().App("http")
	require.NoError(t, err)
	var address string
	for _, server := range module.(*caddyhttp.App).Servers {
		address = server.Listeners()[0].Addr().String()
	}
	for _, host := range []string{"shop.example.com", "portal.example.org"} {
		if scheme == "https" {
			until(t, func() bool { // it has its certificate
				conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, ServerName: host})
				if err == nil {
					_ = conn.Close()
				}
				return err == nil
			})
		}
	}
	return address[strings.LastIndexByte(address, ':')+1:]
}

func TestBrowserTakesTheCookieAndBringsIt(t *testing.T) {
	peer.Need(t, "chromium")
	const embedded = "cookie {\nsame_site none\npartitioned\n}"
	for _, test := range []struct {
		name, options string
		page          string // PORT stands for the port
		want          string // the cookie's name, empty: the browser has none
	}{
		{"default", "", "http://shop.example.com:PORT/shop", "sticky_shop"},
		{"default over TLS", "", "https://shop.example.com:PORT/shop", "sticky_shop"},
		{"all for scripts", "cookie {\nmax_age 1h\nhttp_only off\nsame_site strict\nsecure off\n}", "http://shop.example.com:PORT/shop", "sticky_shop"},
		{"domain and path", "cookie {\ndomain example.com\npath /shop\n}", "http://shop.example.com:PORT/shop", "sticky_shop"},
		{"domain of others", "cookie {\ndomain example.org\n}", "http://shop.example.com:PORT/shop", ""},
		{"secure without TLS", "cookie {\nsecure\n}", "http://shop.example.com:PORT/shop", ""},
		{"__Host- over TLS", "cookie __Host-shop", "https://shop.example.com:PORT/shop", "__Host-shop"},
		{"__Host- without TLS", "cookie __Host-shop", "http://shop.example.com:PORT/shop", ""},
		{"__Host-Http- over TLS", "cookie __Host-Http-shop", "https://shop.example.com:PORT/shop", "__Host-Http-shop"},
		{"__Secure- over TLS", "cookie __Secure-shop {\ndomain example.com\npath /shop\n}", "https://shop.example.com:PORT/shop", "__Secure-shop"},
		{"partitioned over TLS", embedded, "https://shop.example.com:PORT/shop", "sticky_shop"},
		{"partitioned without TLS", embedded, "http://shop.example.com:PORT/shop", "sticky_shop"},
		{"partitioned in a frame", embedded, "https://portal.example.org:PORT/portal", "sticky_shop"},
		{"default in a frame", "", "https://portal.example.org:PORT/portal", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			apps := newApps(t, "a", "b", "c")
			for _, a := range apps {
				a.answers(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "text/html")
					_, _ = io.WriteString(w, page)
				})
			}
			scheme, _, _ := strings.Cut(test.page, ":")
			port := shop(t, scheme, test.options, apps)
			browse(t, strings.Replace(test.page, "PORT", port, 1))

			var brought, answered []string
			for _, a := range apps {
				for _, r := range a.requests() {
					require.Empty(t, r.Header.Get("Cookie"))
					switch r.URL.Path {
					case "/shop/again":
						brought = append(brought, r.Header.Get("X-Brought"))
						fallthrough
					case "/shop":
						answered = append(answered, a.name)
					}
				}
			}
			require.Len(t, brought, 1)
			if test.want == "" {
				require.Empty(t, brought[0])
				return
			}
			require.Regexp(t, "^"+test.want+`=s1\.[A-Za-z0-9_-]+$`, brought[0])
			require.Len(t, answered, 2)
			require.Equal(t, answered[0], answered[1])
		})
	}
}
