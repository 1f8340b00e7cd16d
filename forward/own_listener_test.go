// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// C5: such an exit would send each request back to its proxy.
func TestExitThatIsAListenerOfTheServerIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ listen, exit, label string }{
		"every address, IPv4":         {`":8080"`, "http://127.0.0.1:8080", ""},
		"every address, IPv6":         {`":8080"`, "http://[::1]:8080", ""},
		"every address, another one":  {`":8080"`, "http://127.0.0.9:8080", ""},
		"every address, localhost":    {`":8080"`, "http://localhost:8080", ""},
		"every address, unspecified":  {`":8080"`, "http://0.0.0.0:8080", ""},
		"every address, mapped":       {`":8080"`, "http://[::ffff:127.0.0.1]:8080", "http://127.0.0.1:8080"},
		"every address, odd spelling": {`":8080"`, "http://2130706433:8080", "http://127.0.0.1:8080"},
		"0.0.0.0":                     {`"0.0.0.0:8080"`, "http://127.0.0.1:8080", ""},
		"[::]":                        {`"[::]:8080"`, "http://127.0.0.1:8080", ""},
		"one address":                 {`"127.0.0.1:8080"`, "http://127.0.0.1:8080", ""},
		"one address, localhost":      {`"127.0.0.1:8080"`, "http://localhost:8080", ""},
		"one address, unspecified":    {`"127.0.0.1:8080"`, "http://0.0.0.0:8080", ""},
		"localhost":                   {`"localhost:8080"`, "http://127.0.0.1:8080", ""},
		"localhost, IPv6":             {`"tcp6/localhost:8080"`, "http://[::1]:8080", ""},
		"an address of another net":   {`"10.0.0.1:8080"`, "http://10.0.0.1:8080", ""},
		"a port range":                {`"127.0.0.1:8000-8999"`, "http://127.0.0.1:8080", ""},
		"the second listener":         {`"127.0.0.1:80", "127.0.0.1:8080"`, "http://127.0.0.1:8080", ""},
		"a network":                   {`"tcp4/127.0.0.1:8080"`, "http://127.0.0.1:8080", ""},
		"IPv6 only":                   {`"tcp6/:8080"`, "http://[::1]:8080", ""},
		"port 80":                     {`":80"`, "http://127.0.0.1", "http://127.0.0.1:80"},
		"https":                       {`":443"`, "https://127.0.0.1", "https://127.0.0.1:443"},
		"socks5":                      {`":1080"`, "socks5://127.0.0.1", "socks5://127.0.0.1:1080"},
		"a password":                  {`":8080"`, "http://me:s3cret@127.0.0.1:8080", "http://me@127.0.0.1:8080"},
		"a gateway":                   {`":8080"`, "http://me-{session}:s3cret@127.0.0.1:8080", "http://me-{session}@127.0.0.1:8080"},
	} {
		t.Run(name, func(t *testing.T) {
			err := validate(t, jsonServer(fmt.Sprintf(`"listen": [%s], "routes": [{"handle": [%s]}]`, c.listen, proxyWith(t, c.exit))))
			label := c.label
			if label == "" {
				label = c.exit
			}
			require.ErrorContains(t, err, "exit 2: "+label+" is the listener ")
			require.ErrorContains(t, err, "of this server, so requests would come back to it: give the exit the address of another proxy")
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
}

func TestExitThatIsNoListenerOfTheServerIsLegal(t *testing.T) {
	for name, c := range map[string]struct{ fields, exit string }{
		"another port":               {`"listen": [":8080"]`, "http://127.0.0.1:8081"},
		"another address":            {`"listen": ["127.0.0.1:8080"]`, "http://127.0.0.2:8080"},
		"localhost, which is IPv4":   {`"listen": ["localhost:8080"]`, "http://[::1]:8080"},
		"an address of another net":  {`"listen": ["127.0.0.1:8080"]`, "http://10.0.0.1:8080"},
		"another machine":            {`"listen": [":8080"]`, "http://192.0.2.1:8080"},
		"a name":                     {`"listen": [":8080"]`, "http://proxy.example:8080"},
		"a name of the same":         {`"listen": ["proxy.example:8080"]`, "http://proxy.example:8080"},
		"beside a port range":        {`"listen": ["127.0.0.1:8000-8079"]`, "http://127.0.0.1:8080"},
		"UDP":                        {`"listen": ["udp/:8080"]`, "http://127.0.0.1:8080"},
		"a socket":                   {`"listen": ["unix//run/proxy.sock"]`, "http://127.0.0.1:8080"},
		"a descriptor":               {`"listen": ["fd/3"]`, "http://127.0.0.1:8080"},
		"IPv4 only":                  {`"listen": ["tcp4/:8080"]`, "http://[::1]:8080"},
		"IPv6 only":                  {`"listen": ["tcp6/:8080"]`, "http://127.0.0.1:8080"},
		"HTTP/3 only":                {`"listen": [":8080"], "protocols": ["h3"]`, "http://127.0.0.1:8080"},
		"HTTP/3 only, by a listener": {`"listen": [":8080", ":8081"], "listen_protocols": [["h3"], null]`, "http://127.0.0.1:8080"},
		"an address of this machine": {`"listen": [":8080"]`, "direct://127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, validate(t, jsonServer(fmt.Sprintf(`%s, "routes": [{"handle": [%s]}]`, c.fields, proxyWith(t, c.exit)))))
		})
	}
}

// proxyWith is the JSON of a proxy whose second exit is this one.
func proxyWith(t *testing.T, exit string) string {
	t.Helper()
	scheme, _, ok := strings.Cut(exit, "://")
	require.True(t, ok)
	return fmt.Sprintf(`{"handler": "sticky_proxy", "open": true, "exits": [{"exit": "http", "url": "http://192.0.2.7"}, {"exit": %q, "url": %q}]}`, scheme, exit)
}

func TestExitAtAnAddressOfThisMachineIsAListenerForAllAddresses(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, addr := range addrs {
		network, ok := addr.(*net.IPNet)
		if !ok || network.IP.IsLoopback() || network.IP.IsLinkLocalUnicast() {
			continue
		}
		own := net.JoinHostPort(network.IP.String(), "8080")
		require.ErrorContains(t, validate(t, ":8080 {\nsticky_proxy {\nopen\nexit http://"+own+"\n}\n}"),
			"exit 1: http://"+own+" is the listener :8080 of this server")
		require.NoError(t, validate(t, ":8080 {\nbind 127.0.0.1\nsticky_proxy {\nopen\nexit http://"+own+"\n}\n}"))
		return
	}
	t.Skip("skipped: needs an address that is not a loopback one")
}

// Whichever site holds the proxy: the listener belongs to all sites of a server.
func TestListenerOfASiteOfTheSameServerIsRefused(t *testing.T) {
	proxy := "sticky_proxy {\nopen\nexit http://127.0.0.1:%d\n}\n"
	sites := "http://:8080 {\n" + proxy + "}\nhttp://other.example:8080 {\nrespond hello\n}\nhttp://:8081 {\nrespond hello\n}"
	require.ErrorContains(t, validate(t, fmt.Sprintf(sites, 8080)), "is the listener :8080 of this server")
	require.NoError(t, validate(t, fmt.Sprintf(sites, 8081)), "another server of the process is a legal exit")
}

func TestLineOfTheExitsFileThatIsAListenerIsLeftOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exits")
	require.NoError(t, os.WriteFile(file, []byte("http://192.0.2.7:8080\nhttp://me:s3cret@127.0.0.1:8080\n"), 0o600))
	require.NoError(t, validate(t, ":8080 {\nsticky_proxy {\nopen\nexits_file "+file+"\n}\n}"))
	lines := proxytest.Captured.Lines("line of the exits file left out")
	require.Len(t, lines, 1)
	require.Equal(t, "2", lines[0].Text("line"))
	require.Contains(t, lines[0].Text("error"), "http://me@127.0.0.1:8080 is the listener :8080 of this server")
	require.NotContains(t, proxytest.Captured.String(), "s3cret")
}
