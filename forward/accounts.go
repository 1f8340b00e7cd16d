// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/singleflight"

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
}

// accounts verifies passwords. A hash that is slow to verify is verified once:
// what is remembered of a right password is a digest under a key that nobody
// knows and that ends with the configuration.
type accounts struct {
	byName map[string]*account
	// fake is verified in place of an account that does not exist, so that it
	// takes as long.
	fake *account

	secret   []byte
	inFlight singleflight.Group
	hashing  chan struct{} // as many at once as there are processors
}

type account struct {
	name     string
	hash     []byte
	comparer caddyauth.Comparer
	verified atomic.Pointer[[sha256.Size]byte]
}

// newAccounts loads Caddy's own hash modules.
func newAccounts(ctx caddy.Context, list []Account, grammar *credential.Grammar) (*accounts, error) {
	a := &accounts{
		byName:  make(map[string]*account, len(list)),
		secret:  make([]byte, sha256.Size),
		hashing: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	_, _ = rand.Read(a.secret) // never fails
	comparers := make(map[string]caddyauth.Comparer)
	repl := caddy.NewReplacer()
	for i, entry := range list {
		name, err := repl.ReplaceOrErr(entry.Name, true, true)
		if err != nil {
			return nil, fmt.Errorf("account %d: %w", i+1, err)
		}
		if strings.HasPrefix(name, "$") {
			return nil, fmt.Errorf("account %d: its name looks like a password hash: the name comes first", i+1)
		}
		text, err := repl.ReplaceOrErr(entry.Password, true, true)
		if err != nil {
			return nil, fmt.Errorf("account %q: %w", name, err)
		}
		hash := []byte(text)
		if err := grammar.CheckAccount(name); err != nil {
			return nil, err
		}
		if _, taken := a.byName[name]; taken {
			return nil, fmt.Errorf("account %q is given twice", name)
		}
		if len(hash) == 0 {
			return nil, fmt.Errorf("account %q has no password hash: make one with caddy hash-password", name)
		}
		if hash[0] != '$' { // as basic_auth has it
			decoded, err := base64.StdEncoding.DecodeString(string(hash))
			if err != nil {
				return nil, fmt.Errorf("account %q: the password is not a hash: make one with caddy hash-password", name)
			}
			hash = decoded
		}
		algorithm := hashAlgorithm(hash)
		if algorithm == "" {
			return nil, fmt.Errorf("account %q: the password is not a bcrypt or argon2id hash: make one with caddy hash-password", name)
		}
		comparer, loaded := comparers[algorithm]
		if !loaded {
			mod, err := ctx.LoadModuleByID("http.authentication.hashes."+algorithm, nil)
			if err != nil {
				return nil, fmt.Errorf("account %q: %w", name, err)
			}
			comparer = mod.(caddyauth.Comparer)
			comparers[algorithm] = comparer
		}
		a.byName[name] = &account{name: name, hash: hash, comparer: comparer}
		if a.fake == nil {
			// The same cost as a real one, and a password that nobody has:
			// whoever finds it is refused all the same.
			a.fake = &account{hash: hash, comparer: comparer}
		}
	}
	return a, nil
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
	var version, memory, time, threads uint32
	if _, err := fmt.Sscanf(fields[2]+"$"+fields[3], "v=%d$m=%d,t=%d,p=%d", &version, &memory, &time, &threads); err != nil {
		return ""
	}
	for _, encoded := range fields[4:] {
		if decoded, err := base64.RawStdEncoding.DecodeString(encoded); err != nil || len(decoded) == 0 {
			return ""
		}
	}
	return "argon2id"
}

// verify reports whether password is the one of the account of that name. It
// takes as long for an account that does not exist.
func (a *accounts) verify(ctx context.Context, name, password string) (bool, error) {
	acct, exists := a.byName[name]
	if !exists {
		acct = a.fake
	}
	digest := a.digest(name, password)
	known := acct.verified.Load()
	if exists && known != nil && subtle.ConstantTimeCompare(known[:], digest[:]) == 1 {
		return true, nil
	}
	result := a.inFlight.DoChan(string(digest[:]), func() (any, error) {
		a.hashing <- struct{}{}
		defer func() { <-a.hashing }()
		return acct.comparer.Compare(acct.hash, []byte(password))
	})
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case r := <-result:
		if r.Err != nil {
			return false, fmt.Errorf("verifying the password of account %q: %w", name, r.Err)
		}
		ok := r.Val.(bool) && exists
		if ok {
			acct.verified.Store(&digest)
		}
		return ok, nil
	}
}

// digest is what is remembered in place of a password.
func (a *accounts) digest(name, password string) [sha256.Size]byte {
	mac := hmac.New(sha256.New, a.secret)
	mac.Write([]byte(name))
	mac.Write([]byte{0}) // in no account name
	mac.Write([]byte(password))
	var digest [sha256.Size]byte
	mac.Sum(digest[:0])
	return digest
}

// proxyCredentials reads the Proxy-Authorization header (RFC 7617 §2: the scheme
// in any case, the first colon splits).
func proxyCredentials(h http.Header) (username, password string, ok bool) {
	values := h["Proxy-Authorization"]
	if len(values) != 1 {
		return "", "", false
	}
	scheme, encoded, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "basic") {
		return "", "", false
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(decoded), ":")
}
