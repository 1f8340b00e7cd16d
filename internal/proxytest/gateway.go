// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Provider is a provider's gateway: it notes which credentials came on each of
// its connections.
type Provider struct {
	*Puppet
	mu   sync.Mutex
	seen []Login
}

// Login is credentials that came on a connection.
type Login struct{ Conn, User, Password string }

func (p *Provider) note(conn net.Conn, user, password string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, Login{conn.RemoteAddr().String(), user, password})
}

// Logins returns what came since it was called last.
func (p *Provider) Logins() []Login {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// Login is what came since it was called last: one and the same all the time.
func (p *Provider) Login() Login {
	p.t.Helper()
	seen := p.Logins()
	require.NotEmpty(p.t, seen)
	for _, l := range seen {
		require.Equal(p.t, seen[0].User, l.User)
		require.Equal(p.t, seen[0].Password, l.Password)
	}
	return seen[0]
}

// NewHTTPProvider starts a gateway that speaks HTTP.
func NewHTTPProvider(t *testing.T) *Provider {
	t.Helper()
	p := new(Provider)
	p.Puppet = NewPuppet(t, func(conn *net.TCPConn) {
		HTTPProxy(Away{From: "127.0.0.21"}, func(r *http.Request) {
			encoded := strings.TrimPrefix(r.Header.Get("Proxy-Authorization"), "Basic ")
			text, _ := base64.StdEncoding.DecodeString(encoded)
			user, password, _ := strings.Cut(string(text), ":")
			p.note(conn, user, password)
		})(conn)
	})
	return p
}

// NewSocksProvider starts a gateway that speaks SOCKS5 with a password (RFC 1929).
func NewSocksProvider(t *testing.T) *Provider {
	t.Helper()
	p := new(Provider)
	p.Puppet = NewPuppet(t, func(conn *net.TCPConn) {
		read := func(n byte) []byte {
			buf := make([]byte, n)
			_, _ = io.ReadFull(conn, buf)
			return buf
		}
		read(read(2)[1])
		_, _ = conn.Write([]byte{5, 2})
		user := string(read(read(2)[1]))
		p.note(conn, user, string(read(read(1)[0])))
		_, _ = conn.Write([]byte{1, 0})
		head := read(4)
		if head[3] != 1 {
			return
		}
		address := read(6)
		target, err := Away{From: "127.0.0.21"}.Dial(fmt.Sprintf("%s:%d", net.IP(address[:4]), int(address[4])<<8|int(address[5])))
		if err != nil {
			return
		}
		socksAnswer(conn, 0)
		Join(conn, conn, target)
	})
	return p
}

// Providers are the kinds of gateways.
var Providers = map[string]func(t *testing.T) *Provider{"http": NewHTTPProvider, "socks5": NewSocksProvider}
