// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/proxy"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

func init() {
	caddy.RegisterModule(new(SOCKS5))
}

// SOCKS5 is an exit that is a SOCKS5 proxy (RFC 1928, RFC 1929). Names are
// resolved there.
type SOCKS5 struct {
	// The proxy: socks5://[user:password@]host[:port], port 1080 by default.
	// Placeholders such as {env.EXIT_PASSWORD} may be used. Required.
	URL string `json:"url,omitempty"`

	Options

	url *upstreamURL
}

// CaddyModule returns the Caddy module information.
func (*SOCKS5) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  namespace + ".socks5",
		New: func() caddy.Module { return new(SOCKS5) },
	}
}

// Provision reads the URL.
func (e *SOCKS5) Provision(caddy.Context) (err error) {
	if e.url, err = parseURL(e.URL, "socks5", 1080); err != nil {
		return err
	}
	longest := context.WithValue(context.Background(), sessionKey{}, Session{
		id: randomUpstreamID(), ttl: math.MaxInt64 - time.Hour,
	})
	if _, err := e.handshaker(e.url.userFor(longest)); err != nil {
		return err
	}
	return e.Compile()
}

// proxyAddress is where the proxy listens.
func (e *SOCKS5) proxyAddress() string { return e.url.Host }

// handshaker returns what opens connections for a user.
func (e *SOCKS5) handshaker(user *url.Userinfo) (handshaker, error) {
	var auth *proxy.Auth
	if user != nil {
		password, _ := user.Password()
		auth = &proxy.Auth{User: user.Username(), Password: password}
		if len(auth.User) == 0 || len(auth.User) > 255 || len(password) == 0 || len(password) > 255 {
			return nil, errors.New("a SOCKS5 user and password have 1 to 255 bytes each (RFC 1929)")
		}
	}
	dialer, err := proxy.SOCKS5("tcp", e.url.Host, auth, nil)
	if err != nil {
		return nil, err
	}
	h, ok := dialer.(handshaker)
	if !ok {
		return nil, fmt.Errorf("%T does no handshake on a given connection", dialer)
	}
	return h, nil
}

// handshaker is the part of golang.org/x/net's SOCKS dialer that leaves dialling
// to us: so its errors are told from those of the way to the proxy, and the
// connection is not wrapped.
type handshaker interface {
	DialWithConn(ctx context.Context, conn net.Conn, network, address string) (net.Addr, error)
}

// Identity implements Exit.
func (e *SOCKS5) Identity() string { return e.url.identity() }

func (e *SOCKS5) template() *Credentials { return e.url.gateway }

func (e *SOCKS5) proxyURL(s Session) *url.URL { return e.url.in(s) }

// Connect implements Exit.
func (e *SOCKS5) Connect(ctx context.Context, d destination.Destination) (net.Conn, error) {
	h, err := e.handshaker(e.url.userFor(ctx))
	if err != nil {
		return nil, err
	}
	conn, err := dialExit(ctx, e.url.Host)
	if err != nil {
		return nil, err
	}
	if _, err := h.DialWithConn(ctx, conn, "tcp", d.String()); err != nil {
		_ = conn.Close()
		if refusal := socksReply(err); refusal != nil {
			return nil, refusal
		}
		return nil, proxystatus.HandshakeFailure(err)
	}
	return conn, nil
}

// socksReplies are the answers of a SOCKS5 proxy that are about the
// destination (RFC 1928 §6), in the words of golang.org/x/net/internal/socks,
// which exports neither their type nor their numbers.
var socksReplies = map[string]string{
	"general SOCKS server failure":      "destination_unavailable",
	"connection not allowed by ruleset": "http_request_denied",
	"network unreachable":               "destination_ip_unroutable",
	"host unreachable":                  "destination_unavailable",
	"connection refused":                "connection_refused",
	"TTL expired":                       "connection_timeout",
}

func socksReply(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Err == nil {
		return nil
	}
	reply, ok := strings.CutPrefix(op.Err.Error(), "unknown error ")
	if !ok {
		return nil
	}
	kind, ok := socksReplies[reply]
	if !ok {
		return nil
	}
	return &proxystatus.RemoteError{Kind: kind, Detail: "exit answers: " + reply}
}

func (e *SOCKS5) transport(t *http.Transport) { t.DialContext = dialParsed(e) }

// Interface guards
var (
	_ caddy.Provisioner = (*SOCKS5)(nil)
	_ Exit              = (*SOCKS5)(nil)
)
