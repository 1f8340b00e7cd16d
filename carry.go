// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sticky

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/selection"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// carryLimit bounds how long a reload waits for sessions to be carried from
	// one kind of store to another.
	carryLimit = 10 * time.Second

	// carryWorkers is how many sessions are carried at once: a store on another
	// machine takes its time for each.
	carryWorkers = 32
)

// running are the apps that were started and not stopped yet: *runningApp by
// *App. During a reload there are two.
var running = caddy.NewUsagePool()

type runningApp struct {
	app   *App
	since time.Time
}

// enlist notes that the app is started.
func (a *App) enlist() {
	running.LoadOrStore(a, &runningApp{app: a, since: time.Now()})
}

// delist notes that the app stops, and reports whether it was started.
func (a *App) delist() bool {
	listed := false
	running.Range(func(key, _ any) bool {
		listed = key == a
		return !listed
	})
	if listed {
		_, _ = running.Delete(a)
	}
	return listed
}

// other returns the newest app that runs beside this one, if there is one.
func (a *App) other() *App {
	var newest *runningApp
	running.Range(func(key, value any) bool {
		if r := value.(*runningApp); key != a && (newest == nil || r.since.After(newest.since)) {
			newest = r
		}
		return true
	})
	if newest == nil {
		return nil
	}
	return newest.app
}

// carryTo hands the sessions of stores on whose kind is another one in the
// other app. Of one kind, they share their sessions by themselves. What fails
// is logged: a reload does not fail over it.
//
// What was bound before begun wins over what began since: a request that came to
// the new store before its session did was given another one. The zero time
// means that what is newer wins.
func (a *App) carryTo(to *App, begun time.Time) {
	if to == nil || !a.started {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), carryLimit)
	defer cancel()
	for name, from := range a.stores {
		next, ok := to.stores[name]
		if !ok || reflect.TypeOf(next) == reflect.TypeOf(from) {
			continue
		}
		log := a.ctx.Logger().With(zap.String("store", name))
		carried, failed, err := carry(ctx, from, next, begun)
		switch {
		case errors.Is(err, sessionstore.ErrClosed):
			// Cleaned up before: it was carried when the app stopped.
		case err != nil:
			log.Error("not all sessions were carried to the store's new kind",
				zap.Int64("carried", carried), zap.Int64("failed", failed), zap.Error(err))
		default:
			log.Info("sessions were carried to the store's new kind", zap.Int64("carried", carried))
		}
	}
}

// carry puts all sessions and tombstones of one store into another. It returns how many there were and how many could not be, with
// one reason.
func carry(ctx context.Context, from, to sessionstore.Store, begun time.Time) (carried, failed int64, err error) {
	var done, lost atomic.Int64
	var once sync.Once
	var reason error
	fail := func(err error) { once.Do(func() { reason = err }) }

	work := make(chan sessionstore.Session)
	var workers sync.WaitGroup
	for range carryWorkers {
		workers.Go(func() {
			for s := range work {
				if err := carryOne(ctx, s, to, begun); err != nil {
					lost.Add(1)
					fail(err)
					continue
				}
				done.Add(1)
			}
		})
	}
	for s, err := range from.All(ctx) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			fail(err)
			break
		}
		work <- s
	}
	close(work)
	workers.Wait()
	return done.Load(), lost.Load(), reason
}

func carryOne(ctx context.Context, s sessionstore.Session, to sessionstore.Store, begun time.Time) error {
	if !s.Ended.IsZero() {
		holder, err := to.Get(ctx, s.Key)
		if err != nil || holder.Created.After(s.Ended) || !holder.Ended.Before(s.Ended) {
			return err
		}
		return to.End(ctx, s.Key, s.Expires)
	}
	holder, won, err := to.Claim(ctx, s)
	if err != nil || won || holder.Target == "" {
		return err
	}
	early := !begun.IsZero() && s.Created.Before(begun) && !holder.Created.Before(begun)
	if early || holder.Created.Before(s.Created) { // it moved after it was carried for the first time
		_, _, err = to.Replace(ctx, holder, s)
	}
	return err
}

// Stop hands on what began since the next configuration was started: if that
// has stores of another kind, they do not share it. Requests of this
// configuration may be under way still, so nothing else is done; the stores are
// given back in their Cleanup.
func (a *App) Stop() error {
	if a.delist() {
		a.carryTo(a.other(), time.Time{})
	}
	return nil
}

// Cleanup hands on what began while the other apps were stopping, if the stores
// were not cleaned up yet; Caddy does that in no order. Then it gives back the
// keys and the scopes. Stores are modules and clean up after themselves.
func (a *App) Cleanup() error {
	a.carryTo(a.other(), time.Time{})
	var errs []error
	if a.keys != nil {
		errs = append(errs, a.keys.Cleanup())
	}
	_, scopes := a.observed()
	for name := range scopes {
		errs = append(errs, selection.CloseScope(name))
	}
	return errors.Join(errs...)
}
