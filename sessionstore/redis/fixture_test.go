// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package redis_test

import (
	"flag"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// The tests of the contract wait for the server's clock, and not for a processor.
func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "12")
	goleak.VerifyTestMain(m)
}

var names atomic.Int64

func binding(id string, target string) sessionstore.Session {
	now := time.Now()
	return sessionstore.Session{
		Key: sessionstore.KeyOf("test", id), Scope: "lb/test", Target: target,
		Created: now, Expires: now.Add(15 * time.Minute),
	}
}
