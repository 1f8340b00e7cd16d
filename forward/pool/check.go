// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

const (
	// checkFailures is how many checks in a row fail until an exit is down: one
	// may have been the checked server's fault.
	checkFailures = 2

	// firstCheck is how soon an exit is checked at the earliest.
	firstCheck = 50 * time.Millisecond

	// checkLimit bounds one check.
	checkLimit = 10 * time.Second

	// checkBody is how much of an answer is read, so that its connection can be
	// used again.
	checkBody = 64 << 10
)

// checker checks one exit until its context ends.
type checker struct {
	exit   *Outlet
	client *http.Transport // its own: where checks may connect to, clients may not
	check  exits.Check
	logger *zap.Logger
	done   chan struct{}
}

// run checks. The first check comes after a part of the interval, so that exits
// are not all checked at once, and a configuration that is only validated checks
// nothing.
func (c *checker) run(ctx context.Context) {
	defer close(c.done)
	defer c.client.CloseIdleConnections()
	interval := time.Duration(c.check.Interval)
	timer := time.NewTimer(firstCheck + rand.N(min(interval, time.Second)))
	defer timer.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := c.once(ctx, min(max(interval, time.Second), checkLimit))
		if ctx.Err() != nil {
			return
		}
		if failures++; err == nil {
			failures = 0
		}
		c.note(failures, err)
		timer.Reset(interval*9/10 + rand.N(interval/5))
	}
}

// note tells the exit's state of a check.
func (c *checker) note(failures int, err error) {
	down := &c.exit.state.down
	switch {
	case failures == 0 && down.CompareAndSwap(true, false):
		c.logger.Info("exit is up again", zap.String("exit", c.exit.name))
	case failures >= checkFailures && down.CompareAndSwap(false, true):
		c.logger.Warn("exit is down", zap.String("exit", c.exit.name), zap.Error(err))
	}
}

func (c *checker) once(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(exits.Unchecked(ctx), limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.check.URL, nil)
	if err != nil {
		return err
	}
	res, err := c.client.RoundTrip(r)
	if err != nil {
		return withoutURL(err)
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, checkBody)
	if res.StatusCode >= http.StatusInternalServerError || res.StatusCode == http.StatusProxyAuthRequired {
		return fmt.Errorf("the check is answered with %d", res.StatusCode)
	}
	return nil
}

// withoutURL is an error of a transport without the proxy's URL, which may hold
// a password.
func withoutURL(err error) error {
	if failure, ok := errors.AsType[*proxystatus.ExitError](err); ok {
		return failure
	}
	return errors.New(proxystatus.KindOf(err))
}
