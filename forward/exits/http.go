// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

func init() {
	caddy.RegisterModule(new(HTTP))
}

// maxConnectReply bounds the head of an exit's answer to a CONNECT.
const maxConnectReply = 64 << 10

// HTTP is an exit that is another HTTP proxy. Names are resolved there.
type HTTP struct {
	// The proxy: http://[user:password@]host[:port], port 80 by default.
	// Placeholders such as {env.EXIT_PASSWORD} may be used. Required.
	URL string `json:"url,omitempty"`

	Options

	url *upstreamURL
	tls *tls.Config // nil: in the clear
	via string      // our name in the Via of a CONNECT; empty: no Via
}

// CaddyModule returns the Caddy module information.
func (*HTTP) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  namespace + ".http",
		New: func() caddy.Module { return new(HTTP) },
	}
}

// Provision reads the URL.
func (e *HTTP) Provision(caddy.Context) (err error) {
	if e.url, err = parseURL(e.URL, "http", 80); err != nil {
		return err
	}
	return e.Compile()
}

// proxyAddress is where the proxy listens.
func (e *HTTP) proxyAddress() string { return e.url.Host }

func (e *HTTP) setVia(pseudonym string) { e.via = pseudonym }

// Identity implements Exit.
func (e *HTTP) Identity() string { return e.url.identity() }

func (e *HTTP) template() *Credentials { return e.url.gateway }

func (e *HTTP) proxyURL(s Session) *url.URL { return e.url.in(s) }

// Connect implements Exit, by a CONNECT request (RFC 9110 §9.3.6).
func (e *HTTP) Connect(ctx context.Context, d destination.Destination) (net.Conn, error) {
	conn, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	// Without this a client that goes away would leave the handshake waiting.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := e.handshake(ctx, conn, d)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if cause := ctx.Err(); cause != nil {
			err = proxystatus.HandshakeFailure(cause)
		}
		return nil, err
	}
	return tunnel, nil
}

// dial connects to the proxy itself, with TLS if it is behind that. All its
// errors are the exit's.
func (e *HTTP) dial(ctx context.Context) (net.Conn, error) {
	conn, err := dialExit(ctx, e.url.Host)
	if err != nil || e.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, e.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, proxystatus.ExitFailure(err)
	}
	return secure, nil
}

func (e *HTTP) handshake(ctx context.Context, conn net.Conn, d destination.Destination) (net.Conn, error) {
	request := "CONNECT " + d.String() + " HTTP/1.1\r\nHost: " + d.String() + "\r\n"
	if e.via != "" {
		lines := append(slices.Clip(receivedVia(ctx)), "1.1 "+e.via)
		request += "Via: " + strings.Join(lines, "\r\nVia: ") + "\r\n"
	}
	if user := e.url.userFor(ctx); user != nil {
		password, _ := user.Password()
		request += "Proxy-Authorization: Basic " +
			base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return nil, proxystatus.HandshakeFailure(err)
	}
	limited := &io.LimitedReader{R: conn, N: maxConnectReply}
	reader := bufio.NewReader(limited)
	res, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	for err == nil && res.StatusCode/100 == 1 {
		res, err = http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	}
	switch {
	case err != nil && limited.N <= 0:
		return nil, &proxystatus.ExitError{Kind: "http_response_header_section_size", Err: errors.New("exit answers CONNECT with an endless head")}
	case err != nil:
		return nil, proxystatus.HandshakeFailure(err)
	case res.StatusCode == http.StatusProxyAuthRequired && e.url.gateway != nil:
		// It may be about the session in the credentials and not about all.
		refused := *errExitCredentials
		refused.Unclear = true
		return nil, &refused
	case res.StatusCode == http.StatusProxyAuthRequired:
		return nil, errExitCredentials
	case res.StatusCode/100 != 2:
		if failure := statusFailure(res, e.url.Host); failure != nil {
			return nil, failure
		}
		return nil, &proxystatus.RemoteError{Kind: "http_upgrade_failed", Detail: fmt.Sprintf("exit answers CONNECT with %d", res.StatusCode)}
	}
	early := make([]byte, reader.Buffered())
	_, _ = io.ReadFull(reader, early)
	if len(early) == 0 {
		return conn, nil
	}
	return &EarlyConn{Conn: conn, Early: early}, nil
}

// errExitCredentials is an exit that does not accept what its URL says.
var errExitCredentials = &proxystatus.ExitError{
	Kind: "http_request_denied",
	Err:  errors.New("exit does not accept the user and password in its URL"),
}

// EarlyConn is a connection whose first bytes were read with the exit's answer.
type EarlyConn struct {
	net.Conn
	Early []byte
}

// roundTrip asks the proxy for an answer to a request in absolute form. Of errors,
// those of the proxy are told from those of what is behind it.
func (e *HTTP) roundTrip(client *http.Transport, r *http.Request) (*http.Response, error) {
	res, err := client.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	failure := statusFailure(res, e.url.Host)
	if res.StatusCode == http.StatusProxyAuthRequired {
		failure = errExitCredentials
	}
	if failure != nil {
		_ = res.Body.Close()
		// An origin may say such things as well, which a client chooses.
		return nil, &proxystatus.ExitError{Kind: failure.Kind, Err: failure.Err, Unclear: true}
	}
	return res, nil
}

func (e *HTTP) transport(t *http.Transport) {
	// TLS to the proxy is made in the dial: the transport's own would have one
	// configuration for the proxy and for what is behind it.
	// It keeps connections by the proxy's URL with the user information, so
	// those of different credentials apart.
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		return &url.URL{Scheme: "http", User: e.url.userFor(r.Context()), Host: e.url.Host}, nil
	}
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) }
}

// Interface guards
var (
	_ caddy.Provisioner = (*HTTP)(nil)
	_ Exit              = (*HTTP)(nil)
)
