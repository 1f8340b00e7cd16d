// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package socks5 is a listener wrapper that lets clients of a forward proxy speak
// SOCKS5 on a port that serves HTTP.
package socks5

import (
	"crypto/tls"
	"fmt"
	"net"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	caddy.RegisterModule(new(Listener))
}

// Listener lets clients speak SOCKS5 (RFC 1928) on a port that serves
// HTTP: a request of theirs becomes a CONNECT on the same server, which a
// sticky_proxy answers. It belongs after tls in the list of listener wrappers;
// then SOCKS5 within TLS works as well. Connections that begin otherwise pass
// untouched.
//
// A password is verified when the destination is known: a wrong one is answered
// by reply 2, connection not allowed.
type Listener struct {
	// Whether clients must give a user and a password (RFC 1929): required or
	// none. With none, clients that offer a password are still asked for it,
	// because it may name a session; it makes sense with a proxy that is open.
	// Default: required.
	Auth string `json:"auth,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Listener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.sticky_socks5",
		New: func() caddy.Module { return new(Listener) },
	}
}

// Validate refuses what has no meaning.
func (l *Listener) Validate() error {
	switch l.Auth {
	case "", "required", "none":
		return nil
	}
	return fmt.Errorf("sticky_socks5: auth %q is unknown (have required, none)", l.Auth)
}

// WrapListener implements caddy.ListenerWrapper.
func (l *Listener) WrapListener(ln net.Listener) net.Listener {
	return &socksListener{Listener: ln, open: l.Auth == "none"}
}

// UnmarshalCaddyfile sets up the wrapper from Caddyfile tokens. Syntax:
//
//	sticky_socks5 {
//		auth required|none
//	}
func (l *Listener) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // sticky_socks5
	return directive.Block(d, "sticky_socks5", directive.Options{
		"auth": directive.String(&l.Auth),
	})
}

type socksListener struct {
	net.Listener
	open bool
}

// Accept implements net.Listener. It reads nothing: a client that is slow keeps
// nobody waiting.
func (l *socksListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &socksConn{inner: conn, handshake: socksHandshake{open: l.open}}
	if state, ok := conn.(connectionStater); ok {
		return &socksTLSConn{socksConn: c, state: state}, nil
	}
	return c, nil
}

type connectionStater interface{ ConnectionState() tls.ConnectionState }

// socksTLSConn shows the HTTP server that there is TLS.
type socksTLSConn struct {
	*socksConn
	state connectionStater
}

// ConnectionState returns the state of the TLS connection inside.
func (c *socksTLSConn) ConnectionState() tls.ConnectionState { return c.state.ConnectionState() }

// Interface guards
var (
	_ caddy.Validator       = (*Listener)(nil)
	_ caddy.ListenerWrapper = (*Listener)(nil)
	_ caddyfile.Unmarshaler = (*Listener)(nil)
)
