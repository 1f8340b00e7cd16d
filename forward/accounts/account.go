// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package accounts is who may use a forward proxy, and how much: accounts, the file
// with further ones, passwords and guesses of them, and the limits of sessions.
package accounts

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/internal/filewatch"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
)

// Account may use the proxy.
type Account struct {
	// The account's name, as clients write it before their parameters.
	// Required.
	Name string `json:"name,omitempty"`

	// The hash of the password, as caddy hash-password makes it: bcrypt or
	// argon2id. Placeholders such as {env.ALICE_HASH} may be used. Required.
	Password string `json:"password,omitempty"`

	// How many live sessions the account may have; one more is refused with 503.
	// Default: max_sessions_per_account.
	MaxSessions int `json:"max_sessions,omitempty"`

	// Which exits the account may use: for each key of a tag, one of these
	// values. A request for another value is answered with 403. Default: all.
	Tags map[string][]string `json:"tags,omitempty"`

	// Destinations that the account may reach, and no others: addresses, CIDRs,
	// host names, *.suffix, and host:port. What the proxy denies stays denied.
	// Default: whatever the proxy allows.
	Allow []string `json:"allow,omitempty"`

	// Destinations that the account may not reach: as allow, without ports; *
	// denies whatever allow does not name.
	Deny []string `json:"deny,omitempty"`
}

// Entry is an Account that was checked.
type Entry struct {
	Name     string
	hash     []byte
	comparer caddyauth.Comparer
	verified atomic.Pointer[[sha256.Size]byte]

	MaxSessions int // 0: no limit
	Tags        map[string][]string
	rules       *destination.Rules // nil: the proxy's suffice
}

// roster is all accounts at one time. It is immutable.
type roster struct {
	byName map[string]*Entry

	// strangers are verified in place of accounts that do not exist. There is
	// one for each cost that a real hash has, so that an account is not known by
	// taking longer than those that do not exist.
	strangers []*Entry
}

// stranger returns who is verified in place of an account that does not exist:
// the same one for the same name, and nil if there are no accounts.
func (r *roster) stranger(hash uint64) *Entry {
	if len(r.strangers) == 0 {
		return nil
	}
	return r.strangers[hash%uint64(len(r.strangers))]
}

func newRoster(lists ...[]*Entry) *roster {
	r := &roster{byName: make(map[string]*Entry)}
	costs := make(map[string]bool)
	for _, list := range lists {
		for _, acct := range list {
			r.byName[acct.Name] = acct
			if cost := hashCost(acct.hash); !costs[cost] {
				costs[cost] = true
				r.strangers = append(r.strangers, &Entry{hash: acct.hash, comparer: acct.comparer})
			}
		}
	}
	return r
}

// Set are those of the configuration and those of the file.
type Set struct {
	grammar    *credential.Grammar
	comparers  map[string]caddyauth.Comparer
	configured []*Entry
	roster     atomic.Pointer[roster]
	passwords  *passwords

	maxSessions int // of accounts that have no limit of their own
	path        string
	file        *filewatch.File
	noted       func() // called when the file was read again
	logger      *zap.Logger
}

// hashModules are Caddy's own.
var hashModules = []string{"bcrypt", "argon2id"}

// Config is what a proxy says about its accounts.
type Config struct {
	Accounts    []Account
	File        string // with further ones, or nothing
	MaxSessions int    // of accounts that have no limit of their own; 0: no limit
	Grammar     *credential.Grammar
	Limits      *Limits
	Logger      *zap.Logger
	Changed     func() // called when the file was read again
}

// New loads the accounts. The caller ends with Close, also after an
// error.
func New(ctx caddy.Context, cfg Config) (*Set, error) {
	a := &Set{
		grammar: cfg.Grammar, comparers: make(map[string]caddyauth.Comparer), passwords: newPasswords(cfg.Limits.attempts),
		maxSessions: cfg.MaxSessions, path: cfg.File, noted: cfg.Changed, logger: cfg.Logger,
	}
	return a, a.open(ctx, cfg.Accounts)
}

func (a *Set) open(ctx caddy.Context, list []Account) error {
	for _, algorithm := range hashModules {
		mod, err := ctx.LoadModuleByID("http.authentication.hashes."+algorithm, nil)
		if err != nil {
			return fmt.Errorf("loading password hash %s: %w", algorithm, err)
		}
		a.comparers[algorithm] = mod.(caddyauth.Comparer)
	}
	taken := make(map[string]bool)
	repl := caddy.NewReplacer()
	for i, entry := range list {
		acct, err := a.configure(repl, i, entry)
		if err != nil {
			return err
		}
		if taken[acct.Name] {
			return fmt.Errorf("account %q is given twice", acct.Name)
		}
		taken[acct.Name] = true
		a.configured = append(a.configured, acct)
	}
	return a.openFile()
}

// Close ends what the accounts took. Nil ones took nothing.
func (a *Set) Close() {
	if a != nil && a.file != nil {
		a.file.Close()
	}
}

// Verify returns the account of that name if password is its own, and nil if not.
// The error is a refusal where the client tried too often.
func (a *Set) Verify(r *http.Request, name, password string) (*Entry, error) {
	return a.passwords.verify(r, a.roster.Load(), name, password)
}

// Has reports whether there is an account of that name.
func (a *Set) Has(name string) bool {
	return a.roster.Load().byName[name] != nil
}

// Only is the account of those who name none: there is exactly one.
func (a *Set) Only() string {
	for name := range a.roster.Load().byName {
		return name
	}
	return ""
}

// configure checks an account of the configuration.
func (a *Set) configure(repl *caddy.Replacer, index int, entry Account) (*Entry, error) {
	name, err := repl.ReplaceOrErr(entry.Name, true, true)
	if err != nil {
		return nil, fmt.Errorf("account %d: %w", index+1, err)
	}
	if looksLikeHash(name) {
		return nil, fmt.Errorf("account %d: %w", index+1, errSwapped)
	}
	text, err := repl.ReplaceOrErr(entry.Password, true, true)
	if err != nil {
		return nil, fmt.Errorf("account %q: %w", name, err)
	}
	acct, err := a.newAccount(name, text)
	if err != nil {
		return nil, err
	}
	if entry.MaxSessions < 0 {
		return nil, fmt.Errorf("account %q: max_sessions is %d, it must be positive", name, entry.MaxSessions)
	}
	if entry.MaxSessions > 0 {
		acct.MaxSessions = entry.MaxSessions
	}
	if acct.Tags, err = exits.FoldTags(entry.Tags); err != nil {
		return nil, fmt.Errorf("account %q: %w", name, err)
	}
	if acct.rules, err = newAccountRules(entry.Allow, entry.Deny); err != nil {
		return nil, fmt.Errorf("account %q: %w", name, err)
	}
	return acct, nil
}

// errSwapped does not repeat the name.
var errSwapped = errors.New("its name looks like a password hash: the name comes first")

func looksLikeHash(name string) bool { return strings.HasPrefix(name, "$") }

// newAccount checks what a line of the file has as well: a name and a hash.
func (a *Set) newAccount(name, text string) (*Entry, error) {
	if err := a.grammar.CheckAccount(name); err != nil {
		return nil, err
	}
	hash, err := decodeHash(text)
	if err != nil {
		return nil, fmt.Errorf("account %q%w", name, err)
	}
	return &Entry{
		Name: name, hash: hash, comparer: a.comparers[hashAlgorithm(hash)], MaxSessions: a.maxSessions,
	}, nil
}

// decodeHash reads the hash of a password. Its errors go on after the account.
func decodeHash(text string) ([]byte, error) {
	hash := []byte(text)
	if len(hash) == 0 {
		return nil, errors.New(" has no password hash: make one with caddy hash-password")
	}
	if hash[0] != '$' { // as basic_auth has it
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, errors.New(": the password is not a hash: make one with caddy hash-password")
		}
		hash = decoded
	}
	if hashAlgorithm(hash) == "" {
		return nil, errors.New(": the password is not a bcrypt or argon2id hash: make one with caddy hash-password")
	}
	return hash, nil
}

// hashAlgorithm returns the name of the hash module that takes a hash, or
// nothing if none does: a hash that cannot be verified would refuse its account
// at every request.
func hashAlgorithm(hash []byte) string {
	if _, err := bcrypt.Cost(hash); err == nil && len(hash) == 60 {
		return "bcrypt"
	}
	fields := strings.Split(string(hash), "$")
	if len(fields) != 6 || fields[1] != "argon2id" {
		return ""
	}
	if _, _, err := caddyauth.DecodeHash(hash); err != nil {
		return ""
	}
	for _, encoded := range fields[4:] {
		if decoded, err := base64.RawStdEncoding.DecodeString(encoded); err != nil || len(decoded) == 0 {
			return ""
		}
	}
	return "argon2id"
}

// hashCost names what it costs to verify a hash: its algorithm and parameters.
func hashCost(hash []byte) string {
	fields := strings.Split(string(hash), "$")
	if len(fields) > 4 { // argon2id: version and parameters
		return strings.Join(fields[:4], "$")
	}
	cost, _ := bcrypt.Cost(hash)
	return fmt.Sprint("bcrypt ", cost)
}
