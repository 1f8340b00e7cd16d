// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package exits is the ways out of a forward proxy: the modules sticky.exits.*, the
// options that all of them have, and a provider's gateway, which is an exit with
// sessions of its own.
package exits

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
)

// namespace is where kinds of exits are registered as Caddy modules. A
// kind's name is the scheme of its URLs.
const namespace = "sticky.exits"

// Exit is a way out: a Caddy module in the namespace sticky.exits, which others
// can add to. One that embeds Options has the options of all exits; its Provision
// calls Compile, which reads them.
type Exit interface {
	// Identity names the exit across reloads and restarts: its URL without a
	// password.
	Identity() string

	// Connect opens a connection to host:port through the exit. If the exit
	// failed, its error is a *proxystatus.ExitError, such as
	// proxystatus.ExitFailure makes. Any other error is a failure of the
	// destination and says nothing about the exit.
	Connect(ctx context.Context, d destination.Destination) (net.Conn, error)
}

// Load loads an exit's module.
func Load(ctx caddy.Context, raw json.RawMessage) (Exit, error) {
	var kind struct {
		Exit string `json:"exit"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, err
	}
	if err := checkScheme(kind.Exit); err != nil {
		return nil, err
	}
	one := struct {
		Raw json.RawMessage `caddy:"namespace=sticky.exits inline_key=exit"`
	}{raw}
	mod, err := ctx.LoadModule(&one, "Raw")
	if err != nil {
		return nil, err
	}
	exit, ok := mod.(Exit)
	if !ok {
		return nil, fmt.Errorf("%T is not an exit", mod)
	}
	return exit, nil
}

// checkScheme refuses an exit of a kind that does not exist.
func checkScheme(scheme string) error {
	if _, err := caddy.GetModule(namespace + "." + scheme); err == nil && scheme != "" {
		return nil
	}
	var have []string
	for _, mod := range caddy.GetModules(namespace) {
		have = append(have, mod.ID.Name())
	}
	if strings.IndexFunc(scheme, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) >= 0 {
		// It may be anything, and there may be a password in it.
		return fmt.Errorf("its URL does not begin with an exit scheme (have %s)", strings.Join(have, ", "))
	}
	return fmt.Errorf("%q is not an exit scheme (have %s)", scheme, strings.Join(have, ", "))
}

// OptionsOf returns the options that all exits have; zero ones for an exit without
// them.
func OptionsOf(e Exit) *Options {
	if with, ok := e.(interface{ options() *Options }); ok {
		return with.options()
	}
	return new(Options)
}

// CredentialsOf returns the credentials of a gateway, nil for all other exits.
func CredentialsOf(e Exit) *Credentials {
	if with, ok := e.(interface{ template() *Credentials }); ok {
		return with.template()
	}
	return nil
}

// Prepare lets a transport send requests in absolute form through an exit.
func Prepare(t *http.Transport, e Exit) {
	if own, ok := e.(interface{ transport(t *http.Transport) }); ok {
		own.transport(t)
		return
	}
	t.DialContext = dialParsed(e)
}

// RoundTrip sends a request in absolute form through an exit, with a transport that
// was prepared for it.
func RoundTrip(e Exit, t *http.Transport, r *http.Request) (*http.Response, error) {
	if proxy, ok := e.(interface {
		roundTrip(t *http.Transport, r *http.Request) (*http.Response, error)
	}); ok {
		return proxy.roundTrip(t, r)
	}
	return t.RoundTrip(r)
}

// ProxyAddress returns where an exit that is another proxy listens, as host:port.
func ProxyAddress(e Exit) (address string, ok bool) {
	if proxy, ok := e.(interface{ proxyAddress() string }); ok {
		return proxy.proxyAddress(), true
	}
	return "", false
}
