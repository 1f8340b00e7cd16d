// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"encoding/json"
	"net"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// warnOfHosts logs a warning if host matchers keep requests from every sticky_proxy
// of the server. A request to a proxy names its destination as its host, so Caddy
// answers it with an empty 200 before any credentials are read.
//
// One warning covers all sticky_proxy handlers of a server: the first one logs it.
func (h *Handler) warnOfHosts(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || hasLoadedProxy(ctx, server) {
		return
	}
	search := proxySearch{server: server}
	search.routes(server.Routes, nil)
	if search.anyHost || len(search.hosts) == 0 {
		return
	}
	h.logger.Warn("only requests for these hosts reach sticky_proxy, but clients send it requests for all hosts: "+
		"add the bare port to the addresses of its site, and put no host matcher before it",
		zap.String("proxy", h.Name),
		zap.Strings("hosts", search.hosts),
		zap.String("addresses", bareAddresses(server, search.hosts[0])))
}

// hasLoadedProxy reports whether the server has a sticky_proxy that was loaded
// before the one that this context belongs to. Caddy sets the Handlers of a route
// when all of them are loaded, so the routes around this handler are searched too.
func hasLoadedProxy(ctx caddy.Context, server *caddyhttp.Server) bool {
	search := proxySearch{server: server}
	search.routes(server.Routes, nil)
	for _, route := range server.NamedRoutes {
		search.route(route, nil)
	}
	for _, mod := range ctx.Modules() {
		if around, ok := mod.(*caddyhttp.Subroute); ok {
			search.routes(around.Routes, nil)
		}
	}
	return search.loaded
}

// proxySearch looks for the sticky_proxy handlers of a server, both in routes whose
// handlers are loaded and in routes whose handlers are still JSON.
type proxySearch struct {
	server  *caddyhttp.Server
	hosts   []string // for which requests reach a sticky_proxy
	anyHost bool     // requests for all hosts reach one
	loaded  bool     // one of the handlers is loaded
	invoked []string // the named routes that are being searched
}

// routes searches routes that get requests for these hosts; none are all hosts.
func (s *proxySearch) routes(routes caddyhttp.RouteList, hosts []string) {
	for i := range routes {
		s.route(&routes[i], hosts)
	}
}

func (s *proxySearch) route(route *caddyhttp.Route, hosts []string) {
	if len(hosts) == 0 {
		hosts = hostsOf(route)
	}
	for _, handler := range route.Handlers {
		switch handler := handler.(type) {
		case *Handler:
			s.loaded = true
			s.found(hosts)
		case *caddyhttp.Subroute:
			s.routes(handler.Routes, hosts)
		case *caddyhttp.Invoke:
			s.invoke(handler.Name, hosts)
		}
	}
	for _, raw := range route.HandlersRaw {
		s.handler(raw, hosts)
	}
}

// handler searches a handler that is not loaded. JSON that Caddy cannot load is
// reported when it is loaded.
func (s *proxySearch) handler(raw json.RawMessage, hosts []string) {
	var kind struct {
		Handler string `json:"handler"`
	}
	if json.Unmarshal(raw, &kind) != nil {
		return
	}
	switch kind.Handler {
	case "sticky_proxy":
		s.found(hosts)
	case "subroute":
		var sub caddyhttp.Subroute
		if json.Unmarshal(raw, &sub) == nil {
			s.routes(sub.Routes, hosts)
		}
	case "invoke":
		var invoke caddyhttp.Invoke
		if json.Unmarshal(raw, &invoke) == nil {
			s.invoke(invoke.Name, hosts)
		}
	}
}

// invoke searches a named route. One that invokes itself is searched once.
func (s *proxySearch) invoke(name string, hosts []string) {
	route, ok := s.server.NamedRoutes[name]
	if !ok || slices.Contains(s.invoked, name) {
		return
	}
	s.invoked = append(s.invoked, name)
	s.route(route, hosts)
	s.invoked = s.invoked[:len(s.invoked)-1]
}

// found notes a sticky_proxy that gets requests for these hosts.
func (s *proxySearch) found(hosts []string) {
	if len(hosts) == 0 {
		s.anyHost = true
	}
	for _, host := range hosts {
		if !slices.Contains(s.hosts, host) {
			s.hosts = append(s.hosts, host)
		}
	}
}

// hostsOf returns the hosts whose requests a route gets. It returns none if the
// route has a matcher set without a host matcher, or no matcher set at all.
func hostsOf(route *caddyhttp.Route) []string {
	var hosts []string
	for _, set := range route.MatcherSets {
		i := slices.IndexFunc(set, isHostMatcher)
		if i < 0 {
			return nil
		}
		hosts = append(hosts, *set[i].(*caddyhttp.MatchHost)...)
	}
	for _, set := range route.MatcherSetsRaw {
		var match caddyhttp.MatchHost
		if json.Unmarshal(set["host"], &match) != nil {
			return nil
		}
		hosts = append(hosts, match...)
	}
	return hosts
}

func isHostMatcher(matcher any) bool {
	_, ok := matcher.(*caddyhttp.MatchHost)
	return ok
}

// bareAddresses returns the addresses of a site as a Caddyfile needs them: the bare
// port and the host. Without the scheme, a site without TLS would get TLS by its
// name.
func bareAddresses(server *caddyhttp.Server, host string) string {
	scheme, port := "http://", "80"
	if len(server.TLSConnPolicies) > 0 {
		scheme, port = "", "443"
	}
	for _, listen := range server.Listen {
		address, err := caddy.ParseNetworkAddress(listen)
		if err == nil && address.StartPort > 0 {
			port = strconv.FormatUint(uint64(address.StartPort), 10)
			break
		}
	}
	return scheme + ":" + port + ", " + scheme + net.JoinHostPort(host, port)
}
