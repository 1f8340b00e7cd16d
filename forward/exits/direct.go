// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

func init() {
	caddy.RegisterModule(new(Direct))
}

// Direct is the exit of this machine itself: connections leave from one of its
// own addresses.
type Direct struct {
	// direct:// and the source address, direct://203.0.113.7 or
	// direct://[2001:db8::7]; without one the system chooses. Required.
	URL string `json:"url,omitempty"`

	// The network interface that connections leave by. Linux may ask for a
	// privilege (CAP_NET_RAW); elsewhere the interface's first address is the
	// source. Default: the system chooses.
	Interface string `json:"interface,omitempty"`

	Options

	source   netip.Addr
	rules    *destination.Rules
	resolver *net.Resolver // nil: the system's
}

// CaddyModule returns the Caddy module information.
func (*Direct) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  namespace + ".direct",
		New: func() caddy.Module { return new(Direct) },
	}
}

// Provision reads the URL.
func (e *Direct) Provision(caddy.Context) error {
	if err := e.readSource(); err != nil {
		return err
	}
	if e.Interface != "" {
		if err := e.readInterface(); err != nil {
			return fmt.Errorf("interface %s: %w", e.Interface, err)
		}
	}
	return e.Compile()
}

// readInterface checks that the interface is there. Where connections cannot be
// bound to it, its first address becomes their source.
func (e *Direct) readInterface() error {
	nic, err := net.InterfaceByName(e.Interface)
	if err != nil || runtime.GOOS == "linux" || e.source.IsValid() {
		return err
	}
	addrs, err := nic.Addrs()
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if prefix, err := netip.ParsePrefix(addr.String()); err == nil && prefix.Addr().IsGlobalUnicast() {
			e.source = prefix.Addr().Unmap()
			return nil
		}
	}
	return errors.New("it has no address")
}

func (e *Direct) readSource() error {
	host, ok := strings.CutPrefix(e.URL, "direct://")
	if !ok {
		return errors.New("its URL must begin with direct://")
	}
	host, err := expand(host)
	if err != nil {
		return err
	}
	if host == "" {
		return nil
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		host, bracketed = strings.CutSuffix(inner, "]")
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Is6() != bracketed || addr.Zone() != "" {
		return errors.New("its URL is direct:// and an IP address of this machine, without a port; an IPv6 address in brackets")
	}
	if addr.IsUnspecified() {
		return errors.New("an unspecified address is no source: direct:// alone lets the system choose")
	}
	e.source = addr.Unmap()
	return nil
}

// Identity implements Exit.
func (e *Direct) Identity() string {
	if e.Interface != "" {
		return e.address() + "?interface=" + e.Interface
	}
	return e.address()
}

func (e *Direct) address() string {
	switch {
	case !e.source.IsValid():
		return "direct://"
	case e.source.Is6():
		return "direct://[" + e.source.String() + "]"
	}
	return "direct://" + e.source.String()
}

// Connect implements Exit. It resolves the name here, checks each address, and
// dials those that are allowed, one after the other.
func (e *Direct) Connect(ctx context.Context, d destination.Destination) (net.Conn, error) {
	addrs, err := e.resolve(ctx, d)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{}
	if e.source.IsValid() {
		dialer.Control = bindWithoutPort
	}
	if e.Interface != "" {
		dialer.Control = bindToInterface(e.Interface)
	}
	if e.source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(e.source, 0))
	}
	var prohibited, failed error
	for i, addr := range addrs {
		if ctx.Value(uncheckedKey{}) == nil {
			if err := cmp.Or(e.rules.CheckAddr(d, addr), checkAccountAddr(ctx, d, addr)); err != nil {
				prohibited = err
				continue
			}
		}
		conn, err := e.dial(ctx, &dialer, netip.AddrPortFrom(addr, d.Port), len(addrs)-i)
		if err == nil {
			return conn, nil
		}
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			return nil, &proxystatus.ExitError{Kind: "proxy_configuration_error", Err: fmt.Errorf("source address: %w", err)}
		}
		failed = err
	}
	if failed != nil {
		return nil, failed
	}
	return nil, prohibited
}

// resolve returns the destination's addresses that can be reached from the
// source address; at least one.
func (e *Direct) resolve(ctx context.Context, d destination.Destination) ([]netip.Addr, error) {
	addrs := []netip.Addr{d.Addr}
	if d.Host != "" {
		var err error
		if addrs, err = cmp.Or(e.resolver, net.DefaultResolver).LookupNetIP(ctx, "ip", d.Host); err != nil {
			return nil, err
		}
	}
	usable := addrs[:0:0]
	for _, addr := range addrs {
		addr = addr.Unmap()
		if !e.source.IsValid() || addr.Is4() == e.source.Is4() {
			usable = append(usable, addr)
		}
	}
	if len(usable) == 0 {
		return nil, &net.DNSError{Err: "no address of the family of the exit's source address", Name: d.Host, IsNotFound: true}
	}
	return usable, nil
}

// dial gives one of several addresses its share of the time that is left.
func (e *Direct) dial(ctx context.Context, dialer *net.Dialer, addr netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		share := max(time.Until(deadline)/time.Duration(left), time.Second)
		limited, cancel := context.WithTimeout(ctx, share)
		defer cancel()
		ctx = limited
	}
	return dialer.DialContext(ctx, "tcp", addr.String())
}

func (e *Direct) transport(t *http.Transport) { t.DialContext = dialParsed(e) }

// Interface guards
var (
	_ caddy.Provisioner = (*Direct)(nil)
	_ Exit              = (*Direct)(nil)
)
