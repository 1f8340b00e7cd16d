// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/redis/rueidis"
	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/sessionstore"
)

const (
	// countsInterval is how often counts are asked for.
	countsInterval = 500 * time.Millisecond

	// probeInterval is how often a server that is away is asked whether it is
	// back.
	probeInterval = 100 * time.Millisecond

	// maxInFlight bounds the commands that are on their way, so that rueidis's
	// ring of 1024 a connection is never full: waiting for it has no end.
	maxInFlight = 512

	// pingInterval is how soon a connection without traffic that leads nowhere
	// is noticed, but for the timeout.
	pingInterval = time.Second

	// sweepLimit is how many sessions a script takes out of the counts at most:
	// the server does nothing else meanwhile.
	sweepLimit = 1000
)

// errConnecting is why a server is away of which nothing was heard yet.
var errConnecting = errors.New("not connected yet")

// remote is a server, or a cluster of them, and what is known of its sessions.
// It belongs to the process: configurations share it.
//
// There is one connection to each server, because what known relies on is the
// order of its answers and invalidations. The server remembers what that
// connection read and tells it when another one changes it (CLIENT TRACKING ON
// OPTOUT NOLOOP). Broadcasts by prefix (BCAST) would cost the server no memory,
// but NOLOOP does not hold there for what a script writes: each claim would be
// asked for again at once.
//
// Commands that fail or are not answered in time open the breaker: until the
// server answers the background goroutine, nobody else asks it and waits.
type remote struct {
	settings redisSettings
	names    *names
	known    *known
	counts   *counts
	missed   atomic.Int64 // when a session last could not be looked up or kept, nanoseconds since 1970

	client   atomic.Pointer[rueidis.Client]
	tried    chan struct{} // closed after the first attempt to connect
	inFlight chan struct{}

	// away is why nobody asks, by tag: a cluster may be away in parts.
	away [redisTags]atomic.Pointer[error]
	// shaky says that a connection broke: the next command has to make one,
	// which may take longer than its timeout.
	shaky  atomic.Bool
	broken chan struct{} // wakes the background goroutine

	closing sync.RWMutex // held for reading by whoever asks
	closed  atomic.Bool
	stop    context.CancelFunc
	done    chan struct{}
}

func newRemote(settings redisSettings) *remote {
	ctx, stop := context.WithCancel(context.Background())
	r := &remote{
		settings: settings, names: newNames(settings.prefix), known: newKnown(), counts: newCounts(),
		tried: make(chan struct{}), inFlight: make(chan struct{}, maxInFlight),
		broken: make(chan struct{}, 1), stop: stop, done: make(chan struct{}),
	}
	for tag := range r.away {
		r.away[tag].Store(&errConnecting)
	}
	go r.keep(ctx)
	return r
}

// Destruct closes the connection. Calls that are on their way come first.
func (r *remote) Destruct() error {
	r.closing.Lock()
	r.closed.Store(true)
	r.closing.Unlock()
	r.stop()
	<-r.done
	return nil
}

func (r *remote) options() rueidis.ClientOption {
	s := r.settings
	o := rueidis.ClientOption{
		InitAddress: strings.Split(s.addresses, " "), ShuffleInit: true,
		Username: s.username, Password: s.password, SelectDB: s.database, TLSConfig: s.tlsConfig(),
		ClientName: "caddy-sticky", ClientSetInfo: rueidis.DisableClientSetInfo,
		ClientTrackingOptions: []string{"OPTOUT", "NOLOOP"},
		OnInvalidations:       r.onInvalidations,
		PipelineMultiplex:     -1, // one connection
		DisableRetry:          true,
		ConnWriteTimeout:      s.timeout,
		ReadBufferEachConn:    64 << 10,
		WriteBufferEachConn:   64 << 10,
	}
	o.Dialer.Timeout, o.Dialer.KeepAlive = s.timeout, pingInterval
	if s.sentinel != "" {
		o.Sentinel = rueidis.SentinelOption{
			MasterSet: s.sentinel, Dialer: o.Dialer, TLSConfig: o.TLSConfig, Password: s.password,
			TopologyRefreshInterval: pingInterval,
		}
	} else if len(o.InitAddress) > 1 {
		o.ClusterOption.ShardsRefreshInterval = pingInterval
	}
	return o
}

// onInvalidations is told what others changed: nil is all, or that a connection
// broke. Rueidis reads nothing else meanwhile.
func (r *remote) onInvalidations(changed []rueidis.RedisMessage) {
	if changed == nil {
		r.known.epoch.Add(1)
		r.shaky.Store(true)
		r.wake()
		return
	}
	for i := range changed {
		if name, err := changed[i].ToString(); err == nil {
			if key, ok := r.names.keyOf(name); ok {
				r.known.drop(key)
			}
		}
	}
}

func (r *remote) wake() {
	select {
	case r.broken <- struct{}{}:
	default:
	}
}

// keep connects, asks for counts, and finds out when the server is back. It
// ends with the remote.
func (r *remote) keep(ctx context.Context) {
	defer close(r.done)
	client := r.connect(ctx)
	if client == nil {
		return
	}
	defer client.Close()
	timer := time.NewTimer(countsInterval)
	defer timer.Stop()
	for shard := 0; ; shard++ {
		timer.Reset(countsInterval)
		if r.anyAway() {
			timer.Reset(probeInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.broken:
		case <-timer.C:
		}
		r.refresh(ctx, client)
		r.known.sweep(shard, time.Now())
	}
}

// connect tries until there is a client; nil if the remote was closed.
func (r *remote) connect(ctx context.Context) rueidis.Client {
	for first := true; ctx.Err() == nil; first = false {
		client, err := rueidis.NewClient(r.options())
		if err == nil {
			r.client.Store(&client) // first: who sees that the server is not away asks it
			r.refresh(ctx, client)
		} else {
			for tag := range r.away {
				r.leave(tag, r.discreet(err))
			}
		}
		if first {
			close(r.tried)
		}
		if err == nil {
			return client
		}
		select {
		case <-ctx.Done():
		case <-time.After(probeInterval):
		}
	}
	return nil
}

func (r *remote) anyAway() bool {
	for tag := range r.away {
		if r.away[tag].Load() != nil {
			return true
		}
	}
	return false
}

// refresh asks for all counts. What answers is not away.
func (r *remote) refresh(ctx context.Context, client rueidis.Client) {
	if client.Mode() != rueidis.ClientModeCluster && r.away[0].Load() != nil && !r.refreshTag(ctx, client, 0) {
		return
	}
	var all sync.WaitGroup
	for tag := range redisTags {
		all.Go(func() { r.refreshTag(ctx, client, tag) })
	}
	all.Wait()
}

func (r *remote) refreshTag(ctx context.Context, client rueidis.Client, tag int) bool {
	timed, cancel := context.WithTimeout(ctx, r.settings.timeout)
	defer cancel()
	since := r.counts.version(tag)
	answer, err := sweepScript.Exec(timed, client, []string{r.names.ends[tag], r.names.counts[tag]},
		[]string{strconv.FormatInt(time.Now().UnixMilli(), 10), strconv.Itoa(sweepLimit)}).AsIntMap()
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil && !outOfMemory(err):
		r.fail(client, tag, err)
		return false
	}
	r.shaky.Store(false)
	cause := r.away[tag].Swap(nil)
	if cause != nil && !errors.Is(*cause, errConnecting) {
		r.missed.Store(time.Now().UnixNano()) // another Caddy may have placed by hash until now
	}
	if cause != nil && tag == 0 {
		caddy.Log().Named("sticky.stores.redis").Info("session store is there", zap.String("addresses", r.settings.addresses))
	}
	if err != nil {
		return true
	}
	version := answer[""]
	delete(answer, "")
	r.counts.list(tag, answer, version, since)
	return true
}

func outOfMemory(err error) bool {
	answer, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(answer.Error(), "OOM")
}

// fail opens the breaker. A server that is alone is away as a whole.
func (r *remote) fail(client rueidis.Client, tag int, err error) {
	err = r.discreet(err)
	if client.Mode() == rueidis.ClientModeCluster {
		r.leave(tag, err)
		return
	}
	for tag := range r.away {
		r.leave(tag, err)
	}
}

func (r *remote) leave(tag int, err error) {
	was := r.away[tag].Swap(&err)
	if (was == nil || errors.Is(*was, errConnecting)) && tag == 0 {
		caddy.Log().Named("sticky.stores.redis").Warn("session store is away",
			zap.String("addresses", r.settings.addresses), zap.Error(err))
	}
	if was == nil {
		r.missed.Store(time.Now().UnixNano()) // others may place by hash from now on
		r.wake()
	}
}

// discreet keeps the password out of an error: a server that does not know a
// command repeats its arguments.
func (r *remote) discreet(err error) error {
	if p := r.settings.password; p != "" && strings.Contains(err.Error(), p) {
		return errors.New(strings.ReplaceAll(err.Error(), p, "***"))
	}
	return err
}

// ask runs a question to the server that has a tag, within the timeout.
func (r *remote) ask(ctx context.Context, tag int, question func(context.Context, rueidis.Client) rueidis.RedisResult) (rueidis.RedisMessage, error) {
	var none rueidis.RedisMessage
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	r.closing.RLock()
	defer r.closing.RUnlock()
	if r.closed.Load() {
		return none, sessionstore.ErrClosed
	}
	timed, cancel := context.WithTimeout(ctx, r.settings.timeout)
	defer cancel()
	select {
	case <-r.tried:
	case <-timed.Done():
		return none, r.late(ctx, errConnecting)
	}
	select {
	case r.inFlight <- struct{}{}:
		defer func() { <-r.inFlight }()
	case <-timed.Done():
		return none, r.late(ctx, timed.Err())
	}
	if cause := r.away[tag].Load(); cause != nil {
		return none, unavailable(*cause)
	}
	client := *r.client.Load()
	message, err := r.run(timed, client, question).ToMessage()
	switch {
	case err == nil || rueidis.IsRedisNil(err):
		return message, nil
	case ctx.Err() != nil:
		return none, context.Cause(ctx)
	}
	if _, answered := rueidis.IsRedisErr(err); !answered {
		r.fail(client, tag, err)
	}
	return none, unavailable(r.discreet(err))
}

func (r *remote) late(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return unavailable(cause)
}

// run asks. Where there may be no connection, it does not wait for one longer
// than ctx allows; the goroutine ends when rueidis gives up, which it does.
func (r *remote) run(ctx context.Context, client rueidis.Client, question func(context.Context, rueidis.Client) rueidis.RedisResult) rueidis.RedisResult {
	if !r.shaky.Load() {
		return question(ctx, client)
	}
	answered := make(chan rueidis.RedisResult, 1)
	go func() { answered <- question(ctx, client) }()
	select {
	case answer := <-answered:
		return answer
	case <-ctx.Done():
		return rueidis.NewErrorResult(ctx.Err())
	}
}

// write runs a script about a session. It returns whether the script did what
// it is for, and the session that the key has then.
func (r *remote) write(ctx context.Context, script *rueidis.Lua, key sessionstore.Key, now time.Time, args ...string) (bool, sessionstore.Session, error) {
	tag := tagOf(key)
	at := r.known.beginWrite(key)
	answer, err := r.ask(ctx, tag, func(ctx context.Context, client rueidis.Client) rueidis.RedisResult {
		return script.Exec(ctx, client, []string{r.names.of(key), r.names.ends[tag], r.names.counts[tag]},
			append([]string{ownName(key), digits(nanos(now))}, args...))
	})
	if err != nil {
		r.known.failedWrite(key, at)
		return false, sessionstore.Session{}, err
	}
	done, session, err := r.read(tag, key, answer)
	if err != nil {
		r.known.failedWrite(key, at)
		return false, sessionstore.Session{}, unavailable(err)
	}
	r.known.wrote(key, session, at)
	return done, session, nil
}

// read reads a script's answer, see scriptHead.
func (r *remote) read(tag int, key sessionstore.Key, answer rueidis.RedisMessage) (bool, sessionstore.Session, error) {
	parts, err := answer.ToArray()
	if err != nil || len(parts) == 0 {
		return false, sessionstore.Session{}, errWire
	}
	done, err := parts[0].AsInt64()
	if err != nil || len(parts) == 1 || parts[1].IsNil() {
		return false, sessionstore.Session{}, err
	}
	text, err := parts[1].ToString()
	if err != nil {
		return false, sessionstore.Session{}, err
	}
	session, err := decode(key, text)
	if err != nil || len(parts) < 3 {
		return done == 1, session, err
	}
	version, err := parts[2].AsInt64()
	for pair := range slices.Chunk(parts[3:], 2) {
		if err != nil || len(pair) < 2 {
			return false, sessionstore.Session{}, errWire
		}
		name, _ := pair[0].ToString()
		var n int64
		n, err = pair[1].AsInt64()
		r.counts.heard(tag, name, n, version)
	}
	return done == 1, session, err
}
