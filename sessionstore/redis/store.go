// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

// scanCount is how many keys the server looks at in one step of a listing.
const scanCount = 500

func (r *remote) get(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	if r.closed.Load() {
		return sessionstore.Session{}, sessionstore.ErrClosed
	}
	if e, sure := r.known.find(key); sure {
		return e.get(), nil
	}
	return r.lookup(ctx, key)
}

// lookup asks the server. While that is away, what was known before serves.
func (r *remote) lookup(ctx context.Context, key sessionstore.Key) (sessionstore.Session, error) {
	at := r.known.beginRead(key)
	answer, err := r.ask(ctx, tagOf(key), func(ctx context.Context, client rueidis.Client) rueidis.RedisResult {
		return client.Do(ctx, client.B().Get().Key(r.names.of(key)).Build())
	})
	var session sessionstore.Session
	if err == nil && !answer.IsNil() {
		if session, err = parse(key, answer); err != nil {
			err = unavailable(err)
		}
	}
	if err == nil {
		r.known.read(key, session, at)
		return session, nil
	}
	r.known.failedRead(key, at)
	if !errors.Is(err, sessionstore.ErrUnavailable) {
		return sessionstore.Session{}, err
	}
	if e, _ := r.known.find(key); e != nil {
		return e.get(), nil
	}
	return sessionstore.Session{}, r.miss(err)
}

func parse(key sessionstore.Key, answer rueidis.RedisMessage) (sessionstore.Session, error) {
	text, err := answer.ToString()
	if err != nil {
		return sessionstore.Session{}, err
	}
	return decode(key, text)
}

// miss notes that a session could not be looked up or remembered.
func (r *remote) miss(err error) error {
	if errors.Is(err, sessionstore.ErrUnavailable) {
		r.missed.Store(time.Now().UnixNano())
	}
	return err
}

func (r *remote) claim(ctx context.Context, s sessionstore.Session) (sessionstore.Session, bool, error) {
	carried := s.Carried
	s = tidy(s)
	won, holder, err := r.write(ctx, claimScript, s.Key, time.Now(), encode(s), millis(forgottenAt(s)))
	if err != nil {
		return sessionstore.Session{}, false, r.miss(err)
	}
	if won && carried {
		r.counts.at(s.Scope, s.Target).issued.Redeem(s)
	}
	return holder, won, nil
}

func (r *remote) replace(ctx context.Context, old, next sessionstore.Session) (sessionstore.Session, bool, error) {
	carried := next.Carried
	next.Key = old.Key
	next = tidy(next)
	swapped, holder, err := r.write(ctx, replaceScript, old.Key, time.Now(),
		encode(next), millis(forgottenAt(next)), digits(nanos(old.Created)), old.Target)
	if err != nil {
		return sessionstore.Session{}, false, r.miss(err)
	}
	if swapped && carried {
		r.counts.at(next.Scope, next.Target).issued.Redeem(next)
	}
	return holder, swapped, nil
}

// touch tells the server only what others need to know: errors, when there were
// any, and the use of sessions that live by it.
func (r *remote) touch(ctx context.Context, s sessionstore.Session, now time.Time, use sessionstore.Use) (int, error) {
	if r.closed.Load() {
		return s.Errors, sessionstore.ErrClosed
	}
	e, sure := r.known.find(s.Key)
	if e != nil && !e.session.Same(s) {
		e = nil
	}
	if e != nil && e.session.MaxIdle == 0 {
		e.lastUsed.Store(max(e.lastUsed.Load(), nanos(now)))
		if use == sessionstore.Looked || use == sessionstore.Succeeded && sure && e.session.Errors == 0 {
			return e.session.Errors, nil
		}
	} else if use == sessionstore.Looked && s.MaxIdle == 0 {
		return s.Errors, nil
	}
	what, idle := [...]string{sessionstore.Succeeded: "succeeded", sessionstore.Failed: "failed", sessionstore.Looked: "looked"}[use], ""
	if s.MaxIdle > 0 {
		idle = digits(nanos(now.Add(s.MaxIdle)))
	}
	noted, session, err := r.write(ctx, touchScript, s.Key, now, digits(nanos(s.Created)), s.Target, what, idle)
	if err != nil || !noted {
		return s.Errors, err
	}
	return session.Errors, nil
}

func (r *remote) end(ctx context.Context, key sessionstore.Key, until time.Time) error {
	_, _, err := r.write(ctx, endScript, key, time.Now(), digits(nanos(until)))
	return err
}

// all lists what each server has. It is for operators: it looks at every key.
func (r *remote) all(ctx context.Context) iter.Seq2[sessionstore.Session, error] {
	return func(yield func(sessionstore.Session, error) bool) {
		nodes, err := r.nodes(ctx)
		if err != nil {
			yield(sessionstore.Session{}, err)
			return
		}
		seen := make(map[sessionstore.Key]bool)
		for _, node := range nodes {
			for cursor := uint64(0); ; {
				entry, err := r.scan(ctx, node, cursor)
				if err != nil {
					yield(sessionstore.Session{}, err)
					return
				}
				if !r.list(ctx, entry.Elements, seen, yield) {
					return
				}
				if cursor = entry.Cursor; cursor == 0 {
					break
				}
			}
		}
	}
}

func (r *remote) nodes(ctx context.Context) (map[string]rueidis.Client, error) {
	var nodes map[string]rueidis.Client
	_, err := r.ask(ctx, 0, func(ctx context.Context, client rueidis.Client) rueidis.RedisResult {
		nodes = client.Nodes()
		return client.Do(ctx, client.B().Exists().Key(r.names.counts[0]).Build())
	})
	return nodes, err
}

func (r *remote) scan(ctx context.Context, node rueidis.Client, cursor uint64) (rueidis.ScanEntry, error) {
	answer, err := r.ask(ctx, 0, func(ctx context.Context, _ rueidis.Client) rueidis.RedisResult {
		return node.Do(ctx, node.B().Scan().Cursor(cursor).Match(r.settings.prefix+"s{*").Count(scanCount).Build())
	})
	if err != nil {
		return rueidis.ScanEntry{}, err
	}
	return answer.AsScanEntry()
}

// list yields the sessions of some keys that were not seen before.
func (r *remote) list(ctx context.Context, names []string, seen map[sessionstore.Key]bool, yield func(sessionstore.Session, error) bool) bool {
	var values map[string]rueidis.RedisMessage
	if len(names) > 0 {
		_, err := r.ask(ctx, 0, func(ctx context.Context, client rueidis.Client) rueidis.RedisResult {
			var err error
			if values, err = rueidis.MGet(client, ctx, names); err != nil {
				return rueidis.NewErrorResult(err)
			}
			return client.Do(ctx, client.B().Exists().Key(r.names.counts[0]).Build())
		})
		if err != nil {
			yield(sessionstore.Session{}, err)
			return false
		}
	}
	for name, value := range values {
		key, ok := r.names.keyOf(name)
		text, err := value.ToString()
		if !ok || err != nil || seen[key] {
			continue
		}
		if ctx.Err() != nil {
			yield(sessionstore.Session{}, context.Cause(ctx))
			return false
		}
		session, err := decode(key, text)
		if err != nil {
			continue // somebody else's
		}
		seen[key] = true
		now := time.Now()
		listed := session.Live(now) || !session.Ended.IsZero() && now.Before(session.Expires)
		if listed && !yield(session, nil) {
			return false
		}
	}
	return true
}
