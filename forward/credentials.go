// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/forward/accounts"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/forward/pool"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/internal/pace"
	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/selection/credential"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// provisionCredentials sets up who may use the proxy and how they say so. What
// the dialect brings gives way to the configuration.
func (h *Handler) provisionCredentials(ctx caddy.Context) error {
	var cfg credential.Config
	if h.Credentials != nil {
		cfg = *h.Credentials
	}
	grammar, err := cfg.Compile()
	if err != nil {
		return err
	}
	dialect := grammar.Limits()
	h.minTTL = given(h.MinTTLRaw, dialect.MinTTL)
	h.maxTTL = given(h.MaxTTLRaw, dialect.MaxTTL)
	h.grammar = grammar.WithTTL(h.minTTL, h.maxTTL)
	setDefault(&h.Mode, cmp.Or(selection.Mode(dialect.Mode), selection.Strict))
	h.terms.Mode = h.Mode
	h.terms.TTL = given(h.TTLRaw, dialect.TTL)
	h.terms.MaxIdle = given(h.MaxIdleRaw, dialect.MaxIdle)
	if h.NewSessions != "" {
		if h.newSessions, err = pace.ParseRate(h.NewSessions); err != nil {
			return fmt.Errorf("new_sessions %w", err)
		}
	}
	if h.limits, err = accounts.TakeLimits(h.terms.Scope + " " + h.StoreName); err != nil {
		return err
	}
	h.accounts, err = accounts.New(ctx, accounts.Config{
		Accounts: h.Accounts, File: h.AccountsFile, MaxSessions: h.MaxSessionsPerAccount,
		Grammar: h.grammar, Limits: h.limits, Logger: h.logger, Changed: h.endOrphans,
	})
	return err
}

// validateAccounts refuses a proxy that nobody or anybody could use by mistake.
func (h *Handler) validateAccounts() error {
	hasAccounts := len(h.Accounts) > 0 || h.AccountsFile != ""
	switch {
	case !hasAccounts && !h.Open:
		return errors.New("it has no accounts: add some (account <name> <password hash>), or say open to let anybody use it")
	case hasAccounts && h.Open:
		return errors.New("it is open and has accounts: leave out one of them")
	case h.Open && h.grammar.InPassword():
		return errors.New("it is open, and its credentials are in the password, which nobody needs: leave out open")
	case h.MaxSessionsPerAccount < 0:
		return fmt.Errorf("max_sessions_per_account is %d, it must be positive", h.MaxSessionsPerAccount)
	case !h.Open && !h.grammar.HasAccount() && (len(h.Accounts) != 1 || h.AccountsFile != ""):
		return errors.New("its credentials name no account: give it exactly one account, and no accounts_file")
	}
	return nil
}

var errCredentials = &proxystatus.Refusal{
	Kind: "http_request_denied", Status: http.StatusProxyAuthRequired,
	Reason: "proxy credentials are missing or wrong",
}

// client settles who asks. Nothing was resolved or dialled before.
func (h *Handler) client(r *http.Request) (*client, error) {
	came := time.Now()
	username, password, ok := proxyCredentials(r.Header)
	anonymous := !ok && h.Open && len(r.Header["Proxy-Authorization"]) == 0
	if !ok && !anonymous {
		return nil, errCredentials
	}
	var said credential.Credentials
	if err := h.read(&said, r, username, password, anonymous); err != nil {
		return nil, err
	}
	c := &client{handler: h, account: said.Account, maxSessions: h.MaxSessionsPerAccount, bind: said.Bind, gone: said.Gone, came: came}
	c.wish.Tags = slices.Clone(said.Tags.List()) // nil without any
	if !h.Open {
		var err error
		if c.verified, err = h.verify(r, &said); err != nil {
			return nil, err
		}
		c.account, c.maxSessions, c.wish.Allowed = c.verified.Name, c.verified.MaxSessions, c.verified.Tags
	}
	if err := c.wish.Check(); err != nil {
		return nil, err
	}
	c.ask(&said)
	if said.Session != "" {
		c.key = h.keyOf(c.account, &said)
		c.addr = h.clientAddrOf(r)
	}
	return c, nil
}

// read parses what the client wrote.
func (h *Handler) read(said *credential.Credentials, r *http.Request, username, password string, anonymous bool) error {
	var err error
	header := ""
	if name := h.grammar.Header(); name != "" {
		values := r.Header.Values(name)
		if len(values) > 1 {
			return &proxystatus.Refusal{Kind: "http_request_error", Reason: "header " + name + " is repeated: send it once"}
		}
		if len(values) == 1 {
			header = values[0]
		}
	}
	switch {
	case !anonymous:
		*said, err = h.grammar.Read(username, password, header)
	case header != "":
		*said, err = h.grammar.Parse(header)
	}
	if err == nil {
		return nil
	}
	reason := err.Error()
	if known, ok := errors.AsType[*credential.Error](err); ok {
		reason = known.Reason
	}
	return &proxystatus.Refusal{Kind: "http_request_error", Reason: reason, Private: true}
}

// verify returns the client's account.
func (h *Handler) verify(r *http.Request, said *credential.Credentials) (*accounts.Entry, error) {
	name := said.Account
	if !h.grammar.HasAccount() {
		name = h.accounts.Only()
	}
	acct, err := h.accounts.Verify(r, name, said.Password)
	if limited, ok := errors.AsType[*proxystatus.Refusal](err); ok {
		return nil, limited
	}
	if err != nil && r.Context().Err() == nil {
		h.logger.Error("password not verified", zap.Error(err))
	}
	if acct == nil {
		return nil, errCredentials
	}
	return acct, nil
}

// keyOf names the client's session: what is part of its identity and nothing
// else.
func (h *Handler) keyOf(account string, said *credential.Credentials) sessionstore.Key {
	var stack [20]string
	parts := append(stack[:0], h.terms.Scope, account, said.Session)
	for _, tag := range said.Tags.List() {
		if h.grammar.IsIdentity(tag.Key) {
			parts = append(parts, tag.Key, exits.FoldTag(tag.Value))
		}
	}
	return sessionstore.KeyOf(parts...)
}

// ask applies what the client asks for to what the operator says.
func (c *client) ask(said *credential.Credentials) {
	c.terms = c.handler.terms
	c.terms.TTL = cmp.Or(said.TTL, c.terms.TTL)
	c.terms.MaxIdle = cmp.Or(said.MaxIdle, c.terms.MaxIdle)
	c.terms.Mode = cmp.Or(selection.Mode(said.Mode), c.terms.Mode)
	c.terms.MaxErrors = cmp.Or(said.MaxErrors, c.terms.MaxErrors)
	if c.bind > 0 {
		c.terms.Mode = selection.NoRotate
	}
}

// released reports whether a session that holds its exit though it fails has
// done so for long enough: the next decision may move it.
func (c *client) released(d selection.Decision[*pool.Target], now time.Time) bool {
	if c.bind == 0 || d.Session.Target == "" || now.Sub(d.Session.Created) < c.bind {
		return false
	}
	c.bind, c.terms.Mode = 0, selection.Strict
	return true
}

// final is how the failure of an exit is told that nothing else follows: as it
// is, or as 410 to a client that asks for that.
func (c *client) final(err error) error {
	if !c.gone {
		return err
	}
	e := proxystatus.Answer(err)
	e.Status = http.StatusGone
	return &e
}

// clientAddrOf is the address that new sessions are counted by, if they are.
func (h *Handler) clientAddrOf(r *http.Request) netip.Addr {
	if h.newSessions.N == 0 {
		return netip.Addr{}
	}
	return pace.ClientAddr(r)
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
	var stack [1024]byte
	decoded, err := base64.StdEncoding.AppendDecode(stack[:0], []byte(strings.TrimSpace(encoded)))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(decoded), ":")
}
