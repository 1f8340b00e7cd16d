// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

// exitNamespace is where kinds of exits are registered as Caddy modules. A
// kind's name is the scheme of its URLs.
const exitNamespace = "sticky.exits"

// Exit is a way out: a Caddy module in the namespace sticky.exits, which others
// can add to. One that embeds ExitOptions has the options of all exits.
type Exit interface {
	// Identity names the exit across reloads and restarts: its URL without a
	// password.
	Identity() string

	// Connect opens a connection to host:port through the exit. Its error is
	// one of ExitFailure's where the exit failed, and any other where the
	// destination did: only the first says something about the exit.
	Connect(ctx context.Context, d Destination) (net.Conn, error)
}

// Destination is where a client wants to go.
type Destination = destination.Destination

// loadExit loads an exit's module.
func loadExit(ctx caddy.Context, raw json.RawMessage) (Exit, error) {
	var kind struct {
		Exit string `json:"exit"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, err
	}
	if err := checkScheme(kind.Exit); err != nil {
		return nil, err
	}
	one := struct {
		Raw json.RawMessage `caddy:"namespace=sticky.exits inline_key=exit"`
	}{raw}
	mod, err := ctx.LoadModule(&one, "Raw")
	if err != nil {
		return nil, err
	}
	exit, ok := mod.(Exit)
	if !ok {
		return nil, fmt.Errorf("%T is not an exit", mod)
	}
	return exit, nil
}

// checkScheme refuses an exit of a kind that does not exist.
func checkScheme(scheme string) error {
	if _, err := caddy.GetModule(exitNamespace + "." + scheme); err == nil && scheme != "" {
		return nil
	}
	var have []string
	for _, mod := range caddy.GetModules(exitNamespace) {
		have = append(have, mod.ID.Name())
	}
	if strings.IndexFunc(scheme, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) >= 0 {
		// It may be anything, and there may be a password in it.
		return fmt.Errorf("its URL does not begin with an exit scheme (have %s)", strings.Join(have, ", "))
	}
	return fmt.Errorf("%q is not an exit scheme (have %s)", scheme, strings.Join(have, ", "))
}

const (
	firstRest   = time.Second
	longestRest = 10 * time.Second
)

// exitState is what is known of an exit beyond one configuration.
type exitState struct {
	down  atomic.Bool  // by a check
	taken atomic.Int64 // when its rate lets the next request through, nanoseconds since 1970

	failures atomic.Int32 // in a row
	until    atomic.Int64 // the end of its rest, nanoseconds since 1970
}

// Destruct implements caddy.Destructor; there is nothing to release.
func (*exitState) Destruct() error { return nil }

// exitStates keeps the state of exits across reloads: an exit that is down
// does not become better by a new configuration. Keyed by scope and identity.
var exitStates = caddy.NewUsagePool()

// outlet is an exit with what the proxy holds for it. Its slots have it in common:
// what it fails at, it fails at for all of them.
type outlet struct {
	Exit
	name  string // its identity
	raw   string // of a line of the exits file
	opts  *ExitOptions
	state *exitState
	// transports send requests in absolute form.
	transports *transports
	// private are the transports of accounts with rules of their own, by
	// *destination.Rules: connections of others may lead to addresses that such an
	// account may not reach.
	private sync.Map
	gateway *userTemplate // nil: it is none
	targets []*target
}

// roundTrip sends a request in absolute form through the exit, with this client of
// it.
func (o *outlet) roundTrip(client *http.Transport, r *http.Request) (*http.Response, error) {
	if proxy, ok := o.Exit.(interface {
		roundTrip(client *http.Transport, r *http.Request) (*http.Response, error)
	}); ok {
		return proxy.roundTrip(client, r)
	}
	return client.RoundTrip(r)
}

// target is an exit as Decide sees it, or one of its slots.
type target struct {
	*outlet
	identity string
}

// String implements selection.Target.
func (t *target) String() string { return t.identity }

// Healthy implements selection.Target: an exit that merely failed is not down.
func (t *target) Healthy() bool { return t.opts.Check == nil || !t.state.down.Load() }

// Full implements selection.Target. An exit has no limit of requests at once.
func (t *target) Full() bool { return false }

// Weight is how much of all sessions the exit gets.
func (t *target) Weight() int { return t.opts.Weight }

// Limited reports whether the exit has had as many requests as its rate allows.
func (t *target) Limited() bool {
	rate := t.opts.rate
	if rate.N == 0 {
		return false
	}
	each := int64(rate.Per) / int64(rate.N)
	now := time.Now().UnixNano()
	return max(t.state.taken.Load(), now)+each-now > int64(rate.Per)
}

// take counts a request that goes to the exit. Requests that come in the same
// moment may be let through beyond the rate; those after them wait for it.
func (t *target) take() {
	rate := t.opts.rate
	if rate.N == 0 {
		return
	}
	each := int64(rate.Per) / int64(rate.N)
	for {
		last := t.state.taken.Load()
		if t.state.taken.CompareAndSwap(last, max(last, time.Now().UnixNano())+each) {
			return
		}
	}
}

// Resting reports whether the exit failed a moment ago.
func (t *target) Resting() bool {
	until := t.state.until.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// failed sends the exit into a rest, longer each time it fails in a row.
func (t *target) failed(now time.Time) {
	n := t.state.failures.Add(1)
	rest := longestRest
	if n < 5 {
		rest = min(firstRest<<(n-1), longestRest)
	}
	t.state.until.Store(now.Add(rest).UnixNano())
}

func (t *target) succeeded() {
	if t.state.failures.Load() != 0 {
		t.state.failures.Store(0)
		t.state.until.Store(0)
	}
}

// parseExitURL reads the URL of an exit that is another proxy. Placeholders of
// the process, such as {env.EXIT_PASSWORD}, are replaced after the URL was split,
// so that a password may have any character. No error holds the user information.
func parseExitURL(raw, scheme string, defaultPort uint16) (*upstreamURL, error) {
	rest, ok := strings.CutPrefix(raw, scheme+"://")
	if !ok {
		return nil, fmt.Errorf("its URL must begin with %s://", scheme)
	}
	u := &upstreamURL{URL: &url.URL{Scheme: scheme}}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		template, err := parseUserTemplate(rest[:at])
		if err != nil {
			return nil, err
		}
		if template.session() {
			u.gateway = template
		} else {
			u.User = template.of(upstreamSession{})
		}
		rest = rest[at+1:]
	}
	hostport, err := expand(strings.TrimSuffix(rest, "/"))
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(hostport, "/?#") {
		return nil, errors.New("its URL has something behind the host")
	}
	if !strings.Contains(hostport[strings.LastIndexByte(hostport, ']')+1:], ":") {
		hostport = fmt.Sprintf("%s:%d", hostport, defaultPort)
	}
	d, err := destination.Parse(hostport)
	if err != nil {
		return nil, fmt.Errorf("its URL has no usable host: %w", err)
	}
	u.Host = d.String()
	return u, nil
}

// expand replaces placeholders of the process. One without a value is an error:
// an exit must not become another one because a variable is not set.
func expand(text string) (string, error) {
	return caddy.NewReplacer().ReplaceOrErr(text, true, true)
}

// dialExit connects to another proxy. All its errors are the exit's.
func dialExit(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, proxystatus.ExitFailure(err)
	}
	return conn, nil
}

// within bounds the time of a dial.
func within(limit time.Duration, dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return dial(ctx, network, address)
	}
}

// dialParsed lets an http.Transport connect through an exit.
func dialParsed(e Exit) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		d, known := ctx.Value(destinationKey{}).(destination.Destination)
		if !known {
			var err error
			if d, err = destination.Parse(address); err != nil {
				return nil, err
			}
		}
		return e.Connect(ctx, d)
	}
}
