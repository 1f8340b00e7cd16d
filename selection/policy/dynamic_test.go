// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"
)

func init() {
	caddy.RegisterModule(new(board))
}

// board is a dynamic source of upstreams that a test writes on. Each request
// gets upstreams of its own.
type board struct{}

var written struct {
	sync.Mutex
	apps []*app
	err  error
}

func (*board) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.upstreams.test_board", New: func() caddy.Module { return new(board) }}
}

func (*board) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*board) GetUpstreams(*http.Request) ([]*reverseproxy.Upstream, error) {
	written.Lock()
	defer written.Unlock()
	list := make([]*reverseproxy.Upstream, 0, len(written.apps))
	for _, a := range written.apps {
		list = append(list, &reverseproxy.Upstream{Dial: "unix/" + a.socket})
	}
	return list, written.err
}

func write(apps []*app, err error) {
	written.Lock()
	defer written.Unlock()
	written.apps, written.err = slices.Clone(apps), err
}

// dynamic runs a Caddy whose upstreams are those on the board.
func dynamic(t *testing.T, apps []*app, options string) *site {
	t.Helper()
	write(apps, nil)
	s := run(t, "", "reverse_proxy {\ndynamic test_board\n"+options+"\n}")
	s.apps = make(map[string]*app)
	for _, a := range apps {
		s.apps[a.name] = a
	}
	return s
}

func without(apps []*app, name string) []*app {
	return slices.DeleteFunc(slices.Clone(apps), func(a *app) bool { return a.name == name })
}

func TestDynamicUpstreamIsKnownByItsAddress(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	s := dynamic(t, apps, "lb_policy sticky shop")
	v := s.visitor()
	name := v.reach()
	slices.Reverse(apps)
	write(apps, nil)
	v.stays(name)
}

func TestUpstreamThatIsMissingForAMomentIsDownAndNotGone(t *testing.T) {
	for mode, want := range map[string]string{"strict": "moved down", "flex": "moved down", "norotate": ""} {
		t.Run(mode, func(t *testing.T) {
			apps := newApps(t, "a", "b", "c")
			s := dynamic(t, apps, "lb_policy sticky shop {\nmode "+mode+"\n}")
			for _, returned := range []bool{false, true} {
				v := s.visitor()
				first := v.reach()
				if returned {
					v.stays(first) // and is in the store
				}
				write(without(apps, first), nil)
				got := v.get()
				write(apps, nil)
				if mode == "norotate" {
					require.Equal(t, http.StatusServiceUnavailable, got.status)
					v.stays(first)
					continue
				}
				require.Equal(t, want, got.outcome())
				require.NotEqual(t, first, got.body)
				v.stays(got.body)
			}
		})
	}
}

func TestSourceThatFailsForAMomentLosesNobody(t *testing.T) {
	apps := newApps(t, "a", "b", "c")
	s := dynamic(t, apps, "lb_policy sticky shop")
	visitors := make(map[*visitor]string)
	for range 10 {
		v := s.visitor()
		visitors[v] = v.reach()
	}
	for _, err := range []error{nil, errors.New("no such host")} {
		write(nil, err)
		for v := range visitors {
			require.Equal(t, http.StatusServiceUnavailable, v.get().status)
		}
		write(apps, nil)
		for v, name := range visitors {
			v.stays(name)
		}
	}
}

func TestAddedUpstreamMovesNoLiveSession(t *testing.T) {
	apps := newApps(t, "a", "b", "c", "d", "e")
	s := dynamic(t, apps[:3], "lb_policy sticky shop {\nheader X-Session\n}")
	names := make(map[string]string)
	for i := range 60 {
		line := "X-Session: " + string(rune('A'+i))
		names[line] = s.visitor().reach(line)
	}
	write(apps, nil)
	for line, name := range names {
		require.Equal(t, name, s.visitor().reach(line))
	}
}
