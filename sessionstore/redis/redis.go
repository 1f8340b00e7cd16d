// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package redis is the session store sticky.stores.redis: several Caddys share
// the sessions on a Redis server.
//
// Each process keeps a copy of the sessions that it has looked up. The server
// reports when one of them changes, so a request of a known session sends no
// command.
//
// The package writes nothing to disk. The configuration of the server decides
// which sessions outlive its restart.
package redis

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
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	defaultRedisTimeout = 250 * time.Millisecond
	defaultRedisPrefix  = "sticky:"
	defaultRedisPort    = "6379"
)

func init() {
	caddy.RegisterModule(new(Store))
}

// Store keeps sessions on a Redis server, from version 6.2 on, or on Valkey, so
// that several Caddys share them. What was looked up is kept here as well, and
// the server tells when it changes: a request of a session that is known sends
// no command. While the server is away, such sessions go on.
//
// The server must not forget sessions by itself: its maxmemory-policy is to be
// noeviction. A fail-over to a replica may lose what was written just before.
type Store struct {
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
	TLS *TLS `json:"tls,omitempty"`

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
	OnError sessionstore.Fallback `json:"on_error,omitempty"`

	settings redisSettings
	remote   atomic.Pointer[remote]
	started  *sessionstore.Latch
	stop     sync.Once
}

// TLS says how a server's certificate is verified.
type TLS struct {
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
func (*Store) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sticky.stores.redis",
		New: func() caddy.Module { return new(Store) },
	}
}

// Provision sets defaults and resolves placeholders. It connects to nothing:
// Start does.
func (r *Store) Provision(caddy.Context) error {
	r.started = sessionstore.NewLatch()
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
		r.OnError = sessionstore.FallbackHash
	}
	return r.resolve()
}

// resolve makes the settings out of the configuration. Its errors name
// placeholders, never what is in their place.
func (r *Store) resolve() error {
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
func (r *Store) Validate() error {
	if err := sessionstore.CheckName(r.Name); err != nil {
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
	case r.OnError != sessionstore.FallbackHash && r.OnError != sessionstore.FallbackRefuse:
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
func (r *Store) StoreName() string { return r.Name }

// Fallback implements sessionstore.Store.
func (r *Store) Fallback(error) sessionstore.Fallback { return r.OnError }

// Missed implements sessionstore.Store.
func (r *Store) Missed() time.Time {
	rem := r.remote.Load()
	if rem == nil || rem.missed.Load() == 0 || r.OnError != sessionstore.FallbackHash {
		return time.Time{}
	}
	return time.Unix(0, rem.missed.Load())
}

// remotes keeps connections, and what is known of sessions, across reloads: it
// maps redisSettings to a *remote. Written at Start and Cleanup only.
var remotes = caddy.NewUsagePool()

// Start begins to connect, unless an earlier configuration has a connection of
// these settings. It does not wait for the server, which may be away.
func (r *Store) Start() error {
	value, _, err := remotes.LoadOrNew(r.settings, func() (caddy.Destructor, error) {
		return newRemote(r.settings), nil
	})
	if err != nil {
		return fmt.Errorf("store redis %q: %w", r.Name, err)
	}
	r.remote.Store(value.(*remote))
	r.started.Open(nil)
	return nil
}

// Cleanup gives the connection back. With the last configuration that uses it,
// it is closed.
func (r *Store) Cleanup() error {
	var err error
	r.stop.Do(func() {
		if r.started != nil {
			r.started.Open(sessionstore.ErrClosed)
		}
		if r.remote.Load() != nil {
			_, err = remotes.Delete(r.settings)
		}
	})
	return err
}

// opened returns the connection. It waits for Start, within limits.
func (r *Store) opened(ctx context.Context) (*remote, error) {
	if rem := r.remote.Load(); rem != nil {
		return rem, nil
	}
	if err := r.started.Wait(ctx); err != nil {
		return nil, err
	}
	return r.remote.Load(), nil
}

// Get implements sessionstore.Store.
func (r *Store) Get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	rem, err := r.opened(ctx)
	if err != nil {
		return sessionstore.Session{}, err
	}
	return rem.get(ctx, key)
}

// Claim implements sessionstore.Store.
func (r *Store) Claim(ctx context.Context, s sessionstore.Session) (sessionstore.Session, bool, error) {
	rem, err := r.opened(ctx)
	if err != nil {
		return sessionstore.Session{}, false, err
	}
	return rem.claim(ctx, s)
}

// Replace implements sessionstore.Store.
func (r *Store) Replace(ctx context.Context, old, next sessionstore.Session) (sessionstore.Session, bool, error) {
	rem, err := r.opened(ctx)
	if err != nil {
		return sessionstore.Session{}, false, err
	}
	return rem.replace(ctx, old, next)
}

// Touch implements sessionstore.Store.
func (r *Store) Touch(ctx context.Context, s sessionstore.Session, now time.Time, use sessionstore.Use) (int, error) {
	rem, err := r.opened(ctx)
	if err != nil {
		return s.Errors, err
	}
	return rem.touch(ctx, s, now, use)
}

// End implements sessionstore.Store.
func (r *Store) End(ctx context.Context, key sessionstore.Key, until time.Time) error {
	rem, err := r.opened(ctx)
	if err != nil {
		return err
	}
	return rem.end(ctx, key, until)
}

// Issue implements sessionstore.Store.
func (r *Store) Issue(s sessionstore.Session) {
	if rem := r.remote.Load(); rem != nil {
		rem.counts.at(s.Scope, s.Target).issued.Add(s)
	}
}

// All implements sessionstore.Store.
func (r *Store) All(ctx context.Context) iter.Seq2[sessionstore.Session, error] {
	rem, err := r.opened(ctx)
	if err != nil {
		return func(yield func(sessionstore.Session, error) bool) { yield(sessionstore.Session{}, err) }
	}
	return rem.all(ctx)
}

// Count implements sessionstore.Store. What other processes changed is counted within a
// second.
func (r *Store) Count(ctx context.Context, scope, target string) (int, error) {
	rem, err := r.opened(ctx)
	switch {
	case err != nil:
		return 0, err
	case rem.closed.Load():
		return 0, sessionstore.ErrClosed
	}
	return rem.counts.of(scope, target, time.Now()), nil
}

// Len implements sessionstore.Store. What other processes changed is counted within a
// second.
func (r *Store) Len(ctx context.Context) (int, error) {
	rem, err := r.opened(ctx)
	switch {
	case err != nil:
		return 0, err
	case rem.closed.Load():
		return 0, sessionstore.ErrClosed
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
func (r *Store) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
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

func (r *Store) readDatabase(d *caddyfile.Dispenser) error {
	value, err := directive.Argument(d)
	if err != nil {
		return err
	}
	if r.Database, err = strconv.Atoi(value); err != nil {
		return d.Errf("database %q is not a whole number", value)
	}
	return nil
}

func (r *Store) readTLS(d *caddyfile.Dispenser) error {
	r.TLS = new(TLS)
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
	if errors.Is(cause, sessionstore.ErrUnavailable) {
		return cause
	}
	return fmt.Errorf("%w: %w", sessionstore.ErrUnavailable, cause)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Store)(nil)
	_ caddy.Validator       = (*Store)(nil)
	_ caddy.CleanerUpper    = (*Store)(nil)
	_ caddyfile.Unmarshaler = (*Store)(nil)
	_ sessionstore.Store    = (*Store)(nil)
)
