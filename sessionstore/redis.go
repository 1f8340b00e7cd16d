// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sessionstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

const (
	defaultRedisTimeout = 250 * time.Millisecond
	defaultRedisPrefix  = "sticky:"
	defaultRedisPort    = "6379"
)

func init() {
	caddy.RegisterModule(new(Redis))
}

// Redis keeps sessions on a Redis server, from version 6.2 on, or on Valkey, so
// that several Caddys share them. What was looked up is kept here as well, and
// the server tells when it changes: a request of a session that is known sends
// no command. While the server is away, such sessions go on.
//
// The server must not forget sessions by itself: its maxmemory-policy is to be
// noeviction. A fail-over to a replica may lose what was written just before.
type Redis struct {
	// The store's name, which policies and proxies choose it by. Default:
	// default.
	Name string `json:"name,omitempty"`

	// Where the server is, host:port; the port may be left out. Several
	// addresses are nodes of one Redis Cluster, or Sentinels, see sentinel. At
	// least one. May contain placeholders of the process, such as {env.HOST}.
	Addresses []string `json:"addresses,omitempty"`

	// Who to log in as. May contain placeholders of the process. Default: the
	// server's user default.
	Username string `json:"username,omitempty"`

	// The user's password, better given as a placeholder such as
	// {env.REDIS_PASSWORD} or {file./run/secrets/redis}. Sentinels get it as
	// well, for their user default. Default: none.
	Password string `json:"password,omitempty"`

	// The number of the database. A cluster has only 0. Default: 0.
	Database int `json:"database,omitempty"`

	// What the names of all keys begin with: letters, digits, and any of
	// - _ . : /. Stores that have one prefix share their sessions. Default:
	// sticky:
	Prefix string `json:"prefix,omitempty"`

	// Connect by TLS. Default: not.
	TLS *RedisTLS `json:"tls,omitempty"`

	// The name of the master that the Sentinels at the addresses know. Default:
	// none, the addresses are those of servers.
	Sentinel string `json:"sentinel,omitempty"`

	// How long a request waits for the server at most. Must be positive.
	// Default: 250ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// What becomes of a request whose session cannot be looked up or remembered
	// because the server is away: hash places it by rendezvous hash of its
	// session id, on which all Caddys agree, refuse answers it with 503.
	// Sessions that this process knows go on in both cases. Default: hash.
	OnError Fallback `json:"on_error,omitempty"`

	settings redisSettings
	remote   atomic.Pointer[remote]
	started  *latch
	stop     sync.Once
}

// RedisTLS says how a server's certificate is verified.
type RedisTLS struct {
	// A file of PEM certificates that sign the server's. Default: the system's.
	CA string `json:"ca,omitempty"`

	// The name that the server's certificate must have. Default: the host of the
	// address.
	ServerName string `json:"server_name,omitempty"`
}

// redisSettings are what a connection depends on. Stores whose settings are the
// same share it across reloads.
type redisSettings struct {
	addresses, username, password string
	database                      int
	prefix, sentinel              string
	tls                           bool
	ca, serverName                string
	timeout                       time.Duration
}

// CaddyModule returns the Caddy module information.
func (*Redis) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sticky.stores.redis",
		New: func() caddy.Module { return new(Redis) },
	}
}

// Provision sets defaults and resolves placeholders. It connects to nothing:
// Start does.
func (r *Redis) Provision(caddy.Context) error {
	r.started = newLatch()
	if r.Name == "" {
		r.Name = "default"
	}
	if r.Prefix == "" {
		r.Prefix = defaultRedisPrefix
	}
	if r.Timeout == 0 {
		r.Timeout = caddy.Duration(defaultRedisTimeout)
	}
	if r.OnError == "" {
		r.OnError = FallbackHash
	}
	return r.resolve()
}

// resolve makes the settings out of the configuration. Its errors name
// placeholders, never what is in their place.
func (r *Redis) resolve() error {
	repl := caddy.NewReplacer()
	s := redisSettings{database: r.Database, prefix: r.Prefix, sentinel: r.Sentinel, timeout: time.Duration(r.Timeout)}
	var err error
	for option, to := range map[string]*string{"username": &s.username, "password": &s.password} {
		from := map[string]string{"username": r.Username, "password": r.Password}[option]
		if *to, err = repl.ReplaceOrErr(from, true, true); err != nil {
			return fmt.Errorf("store redis %q: %s: %w", r.Name, option, err)
		}
	}
	addresses := make([]string, len(r.Addresses))
	for i, address := range r.Addresses {
		if addresses[i], err = repl.ReplaceOrErr(address, true, true); err != nil {
			return fmt.Errorf("store redis %q: address %s: %w", r.Name, address, err)
		}
		if _, _, err := net.SplitHostPort(addresses[i]); err != nil {
			addresses[i] = net.JoinHostPort(strings.Trim(addresses[i], "[]"), defaultRedisPort)
		}
	}
	s.addresses = strings.Join(addresses, " ")
	if r.TLS != nil {
		s.tls, s.serverName = true, r.TLS.ServerName
		if r.TLS.CA != "" {
			pem, err := os.ReadFile(r.TLS.CA)
			if err != nil {
				return fmt.Errorf("store redis %q: tls: %w", r.Name, err)
			}
			s.ca = string(pem)
		}
	}
	r.settings = s
	return nil
}

// Validate refuses settings without a meaning.
func (r *Redis) Validate() error {
	if err := CheckName(r.Name); err != nil {
		return fmt.Errorf("store redis: %w", err)
	}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("store redis %q: %s", r.Name, fmt.Sprintf(format, args...))
	}
	if len(r.Addresses) == 0 {
		return refuse("it has no address: give one such as localhost:6379")
	}
	for address := range strings.SplitSeq(r.settings.addresses, " ") {
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" {
			return refuse("%q is not an address (like localhost:6379)", address)
		}
	}
	switch {
	case r.Database < 0:
		return refuse("database is %d, it must not be negative", r.Database)
	case r.Database > 0 && len(r.Addresses) > 1 && r.Sentinel == "":
		return refuse("database is %d, a cluster has only 0", r.Database)
	case r.Timeout < 0:
		return refuse("timeout is %s, it must be positive", time.Duration(r.Timeout))
	case r.OnError != FallbackHash && r.OnError != FallbackRefuse:
		return refuse("on_error %q is unknown (have hash, refuse)", r.OnError)
	case r.Username != "" && r.Password == "":
		return refuse("username %s has no password", r.Username)
	}
	invalid := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:/", c)
	}
	if strings.ContainsFunc(r.Prefix, invalid) {
		return refuse("prefix %q has other characters than letters, digits and - _ . : /", r.Prefix)
	}
	if r.settings.ca != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(r.settings.ca)) {
		return refuse("tls: %s has no certificate", r.TLS.CA)
	}
	return nil
}

// tlsConfig returns nil where TLS is not asked for.
func (s redisSettings) tlsConfig() *tls.Config {
	if !s.tls {
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.serverName}
	if s.ca != "" {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM([]byte(s.ca))
	}
	return config
}

// StoreName returns the name that policies and proxies choose the store by.
func (r *Redis) StoreName() string { return r.Name }

// Fallback implements Store.
func (r *Redis) Fallback(error) Fallback { return r.OnError }

// Missed implements Store.
func (r *Redis) Missed() time.Time {
	rem := r.remote.Load()
	if rem == nil || rem.missed.Load() == 0 || r.OnError != FallbackHash {
		return time.Time{}
	}
	return time.Unix(0, rem.missed.Load())
}

// remotes keeps connections, and what is known of sessions, across reloads: it
// maps redisSettings to a *remote. Written at Start and Cleanup only.
var remotes = caddy.NewUsagePool()

// Start begins to connect, unless an earlier configuration has a connection of
// these settings. It does not wait for the server, which may be away.
func (r *Redis) Start() error {
	value, _, err := remotes.LoadOrNew(r.settings, func() (caddy.Destructor, error) {
		return newRemote(r.settings), nil
	})
	if err != nil {
		return fmt.Errorf("store redis %q: %w", r.Name, err)
	}
	r.remote.Store(value.(*remote))
	r.started.open(nil)
	return nil
}

// Cleanup gives the connection back. With the last configuration that uses it,
// it is closed.
func (r *Redis) Cleanup() error {
	var err error
	r.stop.Do(func() {
		if r.started != nil {
			r.started.open(ErrClosed)
		}
		if r.remote.Load() != nil {
			_, err = remotes.Delete(r.settings)
		}
	})
	return err
}

// opened returns the connection. It waits for Start, within limits.
func (r *Redis) opened(ctx context.Context) (*remote, error) {
	if rem := r.remote.Load(); rem != nil {
		return rem, nil
	}
	if err := r.started.wait(ctx); err != nil {
		return nil, err
	}
	return r.remote.Load(), nil
}

// Get implements Store.
func (r *Redis) Get(ctx context.Context, key Key) (Session, error) {
	rem, err := r.opened(ctx)
	if err != nil {
		return Session{}, err
	}
	return rem.get(ctx, key)
}

// Claim implements Store.
func (r *Redis) Claim(ctx context.Context, s Session) (Session, bool, error) {
	rem, err := r.opened(ctx)
	if err != nil {
		return Session{}, false, err
	}
	return rem.claim(ctx, s)
}

// Replace implements Store.
func (r *Redis) Replace(ctx context.Context, old, next Session) (Session, bool, error) {
	rem, err := r.opened(ctx)
	if err != nil {
		return Session{}, false, err
	}
	return rem.replace(ctx, old, next)
}

// Touch implements Store.
func (r *Redis) Touch(ctx context.Context, s Session, now time.Time, use Use) (int, error) {
	rem, err := r.opened(ctx)
	if err != nil {
		return s.Errors, err
	}
	return rem.touch(ctx, s, now, use)
}

// End implements Store.
func (r *Redis) End(ctx context.Context, key Key, until time.Time) error {
	rem, err := r.opened(ctx)
	if err != nil {
		return err
	}
	return rem.end(ctx, key, until)
}

// Issue implements Store.
func (r *Redis) Issue(s Session) {
	if rem := r.remote.Load(); rem != nil {
		rem.counts.at(s.Scope, s.Target).issued.add(s)
	}
}

// All implements Store.
func (r *Redis) All(ctx context.Context) iter.Seq2[Session, error] {
	rem, err := r.opened(ctx)
	if err != nil {
		return func(yield func(Session, error) bool) { yield(Session{}, err) }
	}
	return rem.all(ctx)
}

// Count implements Store. What other processes changed is counted within a
// second.
func (r *Redis) Count(ctx context.Context, scope, target string) (int, error) {
	rem, err := r.opened(ctx)
	switch {
	case err != nil:
		return 0, err
	case rem.closed.Load():
		return 0, ErrClosed
	}
	return rem.counts.of(scope, target, time.Now()), nil
}

// Len implements Store. What other processes changed is counted within a
// second.
func (r *Redis) Len(ctx context.Context) (int, error) {
	rem, err := r.opened(ctx)
	switch {
	case err != nil:
		return 0, err
	case rem.closed.Load():
		return 0, ErrClosed
	}
	return int(rem.counts.total.Load()), nil
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store redis <address…> {
//		name     <name>
//		username <user>
//		password <password>
//		database <number>
//		prefix   <prefix>
//		tls      [<ca file> [<server name>]]
//		sentinel <master>
//		timeout  <duration>
//		on_error hash|refuse
//	}
func (r *Redis) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's kind
	r.Addresses = d.RemainingArgs()
	return directive.Block(d, "store redis", directive.Options{
		"name":     directive.String(&r.Name),
		"username": directive.String(&r.Username),
		"password": directive.String(&r.Password),
		"database": directive.Func(r.readDatabase),
		"prefix":   directive.String(&r.Prefix),
		"tls":      directive.Func(r.readTLS),
		"sentinel": directive.String(&r.Sentinel),
		"timeout":  directive.Duration(&r.Timeout),
		"on_error": directive.String(&r.OnError),
	})
}

func (r *Redis) readDatabase(d *caddyfile.Dispenser) error {
	value, err := directive.Argument(d)
	if err != nil {
		return err
	}
	if r.Database, err = strconv.Atoi(value); err != nil {
		return d.Errf("database %q is not a whole number", value)
	}
	return nil
}

func (r *Redis) readTLS(d *caddyfile.Dispenser) error {
	r.TLS = new(RedisTLS)
	if d.NextArg() {
		r.TLS.CA = d.Val()
	}
	if d.NextArg() {
		r.TLS.ServerName = d.Val()
	}
	return nil
}

// unavailable says that the server did not answer, and why.
func unavailable(cause error) error {
	if errors.Is(cause, ErrUnavailable) {
		return cause
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, cause)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Redis)(nil)
	_ caddy.Validator       = (*Redis)(nil)
	_ caddy.CleanerUpper    = (*Redis)(nil)
	_ caddyfile.Unmarshaler = (*Redis)(nil)
	_ Store                 = (*Redis)(nil)
)
