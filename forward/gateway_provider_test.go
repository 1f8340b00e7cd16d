// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

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

// provider is a provider's gateway: it notes which credentials came on each of
// its connections.
type provider struct {
	*puppet
	mu   sync.Mutex
	seen []login
}

// login is credentials that came on a connection.
type login struct{ conn, user, password string }

func (p *provider) note(conn net.Conn, user, password string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, login{conn.RemoteAddr().String(), user, password})
}

// logins returns what came since it was called last.
func (p *provider) logins() []login {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// login is what came since it was called last: one and the same all the time.
func (p *provider) login() login {
	p.t.Helper()
	seen := p.logins()
	require.NotEmpty(p.t, seen)
	for _, l := range seen {
		require.Equal(p.t, seen[0].user, l.user)
		require.Equal(p.t, seen[0].password, l.password)
	}
	return seen[0]
}

// newHTTPProvider starts a gateway that speaks HTTP.
func newHTTPProvider(t *testing.T) *provider {
	t.Helper()
	p := new(provider)
	p.puppet = newPuppet(t, func(conn *net.TCPConn) {
		httpProxy(away{from: "127.0.0.21"}, func(r *http.Request) {
			encoded := strings.TrimPrefix(r.Header.Get("Proxy-Authorization"), "Basic ")
			text, _ := base64.StdEncoding.DecodeString(encoded)
			user, password, _ := strings.Cut(string(text), ":")
			p.note(conn, user, password)
		})(conn)
	})
	return p
}

// newSocksProvider starts a gateway that speaks SOCKS5 with a password (RFC 1929).
func newSocksProvider(t *testing.T) *provider {
	t.Helper()
	p := new(provider)
	p.puppet = newPuppet(t, func(conn *net.TCPConn) {
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
		target, err := away{from: "127.0.0.21"}.dial(fmt.Sprintf("%s:%d", net.IP(address[:4]), int(address[4])<<8|int(address[5])))
		if err != nil {
			return
		}
		socksAnswer(conn, 0)
		join(conn, conn, target)
	})
	return p
}

// providers are the kinds of gateways.
var providers = map[string]func(t *testing.T) *provider{"http": newHTTPProvider, "socks5": newSocksProvider}
