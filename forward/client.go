// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/forward/accounts"
	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/forward/message"
	"github.com/caddy-sticky/caddy-sticky/forward/pool"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// client is one request's way to an exit: who asks, for which session, and
// which exits were tried.
type client struct {
	handler  *Handler
	account  string
	verified *accounts.Entry  // nil where nothing is verified
	key      sessionstore.Key // zero: no session, each request has its own exit
	wish     exits.Wish       // of the exit's tags
	terms    selection.Terms
	tried    []selection.Attempt[*pool.Target]
	decision selection.Decision[*pool.Target]

	came   time.Time   // when the request did
	begun  int         // attempts, however they ended
	choice pool.Choice // the exits that it may use; nil until it was asked for

	// Of a request in absolute form.
	wanted     message.Target
	body       *message.Body // nil: it has none
	nominated  []string      // fields of the request's trailer that go no further
	repeatable bool          // may be sent to a second exit
	repeated   bool          // was sent to a second exit

	maxSessions int           // of the account; 0: no limit
	addr        netip.Addr    // where new sessions are limited
	bind        time.Duration // how long a failing exit is held
	gone        bool          // whether it is answered with 410
}

// exit decides where the request leaves, for the first time or after the last
// exit failed.
func (c *client) exit(ctx context.Context) (*pool.Target, error) {
	exits := c.exits()
	decision, err := selection.Decide(ctx, c.store(), c.key, &c.terms, exits, c.tried, c.handler.placement.Assign(c.key, c.terms.TTL))
	if limited, ok := errors.AsType[*proxystatus.Refusal](err); ok {
		return nil, limited
	}
	if err == nil && c.released(decision, time.Now()) {
		return c.exit(ctx)
	}
	if err != nil {
		if ctx.Err() == nil {
			c.handler.logger.Error("no decision", zap.Error(err))
		}
		return nil, &proxystatus.Refusal{Kind: "proxy_internal_response", Reason: "the session store does not answer"}
	}
	c.decision = decision
	c.handler.tally.Decided(decision.Outcome, decision.Reason)
	if check := c.handler.logger.Check(zap.DebugLevel, "decided"); check != nil {
		check.Write(append(selection.ReportOf(c.key, decision).Fields(), zap.String("account", c.account))...)
	}
	switch {
	case decision.Outcome != selection.Refused:
		return decision.Target, nil
	case exits.Len() == 0 && c.handler.exits.Current().Len() > 0:
		return nil, &proxystatus.Refusal{
			Kind: "destination_not_found", Status: http.StatusServiceUnavailable, Private: true,
			Reason: "no exit has " + c.wish.Describe(),
		}
	case decision.Reason == selection.Rate:
		return nil, &proxystatus.Refusal{Kind: "connection_limit_reached", Reason: "all exits have had as many requests as they may: try again later"}
	case decision.Reason == selection.Full:
		return nil, &proxystatus.Refusal{Kind: "connection_limit_reached", Reason: "there is no room for another session"}
	}
	return nil, c.final(&proxystatus.Refusal{Kind: "destination_not_found", Reason: "no exit can serve this session now"})
}

// store is the session store as this client has it.
func (c *client) store() sessionstore.Store {
	h := c.handler
	return h.limits.Store(h.store, accounts.Bounds{Account: c.account, MaxSessions: c.maxSessions, Addr: c.addr, NewSessions: h.newSessions})
}

// exits is the pool as this client sees it.
func (c *client) exits() pool.Choice {
	c.choice = c.handler.exits.Current().ChoiceFor(&c.wish, c.choice)
	return c.choice
}

// attempt calls try with one exit after the other until one works. An exit that
// fails is followed by another one where the session's mode allows it; an error
// of the destination ends the matter. If no further attempt may follow, it returns
// the last failure. Try must not have answered the client when it returns an
// *proxystatus.ExitError.
func (c *client) attempt(ctx context.Context, try func(ctx context.Context, t *pool.Target) error) error {
	var last error
	for {
		t, err := c.exit(ctx)
		if err != nil {
			if last != nil && c.decision.Outcome == selection.Refused {
				return last
			}
			return err
		}
		if selection.Tried(c.tried, t) || t.Spent(c.tried) {
			return last // each exit that may serve this request was tried
		}
		c.begun++
		t.Take()
		err = try(c.throughGateway(ctx, t), t)
		if ctx.Err() != nil {
			return ctx.Err() // the client's doing
		}
		if refused, ok := err.(*proxystatus.Refusal); ok { //nolint:errorlint // this very error, not one that an exit wraps
			return refused // it says nothing about the exit
		}
		failure, isExit := errors.AsType[*proxystatus.ExitError](err)
		if !isExit {
			c.succeeded(ctx, t)
			return err
		}
		c.failed(ctx, t, failure)
		switch {
		case !c.movesOn():
			return c.final(failure)
		case !c.mayRepeat(failure), !c.hasAttempts():
			return failure
		}
		last = failure
	}
}

func (c *client) succeeded(ctx context.Context, t *pool.Target) {
	t.Succeeded()
	if c.decision.Session.Errors > 0 {
		c.touch(ctx, t, sessionstore.Succeeded)
	}
}

func (c *client) failed(ctx context.Context, t *pool.Target, failure *proxystatus.ExitError) {
	if !failure.Unclear {
		t.Failed(time.Now())
	}
	// A failure that is the exit's own is the same in all of its slots.
	c.tried = append(c.tried, selection.Attempt[*pool.Target]{Target: t, Whole: !failure.Unclear})
	c.touch(ctx, t, sessionstore.Failed)
	if check := c.handler.logger.Check(zap.WarnLevel, "exit failed"); check != nil {
		check.Write(zap.String("exit", t.String()), zap.String("session", selection.HashKey(c.key)), zap.Error(failure))
	}
}

// touch notes how the use of the session's exit ended.
func (c *client) touch(ctx context.Context, t *pool.Target, use sessionstore.Use) {
	if c.decision.Session.Target != t.String() {
		return
	}
	if _, err := c.handler.store.Touch(ctx, c.decision.Session, time.Now(), use); err != nil {
		c.handler.logger.Error("session's use not noted", zap.Error(err))
	}
}

// publish provides {http.sticky.*} to the access log and to later handlers.
func (c *client) publish(r *http.Request) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(selection.ReportOf(c.key, c.decision).Placeholder)
	}
}

// throughGateway gives a request through a gateway its session there. The id
// follows from the local session, its creation and the slot, so every machine
// that shares the store uses the same, also after a restart.
func (c *client) throughGateway(ctx context.Context, t *pool.Target) context.Context {
	if !t.IsGateway() {
		return ctx
	}
	return exits.WithSession(ctx, exits.SessionOf(c.key, c.decision.Session, t.String(), c.terms.TTL))
}
