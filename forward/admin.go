// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"reflect"

	"github.com/caddyserver/caddy/v2"
)

// adminAddresses returns where the admin API of a configuration listens, as
// host:port. Whoever reaches it owns the server, so no client may.
//
// A module is not told that address: it stands in an unexported field of the
// context, whose strings reflection can read. If Caddy changes that, Caddy's
// default address is what is left, and a test fails.
func adminAddresses(ctx caddy.Context) []string {
	listen := caddy.DefaultAdminListen
	cfg := reflect.ValueOf(ctx).FieldByName("cfg")
	if cfg.Kind() == reflect.Pointer && !cfg.IsNil() {
		if admin := cfg.Elem().FieldByName("Admin"); admin.IsValid() && !admin.IsNil() {
			if configured := admin.Elem().FieldByName("Listen").String(); configured != "" {
				listen = caddy.NewReplacer().ReplaceAll(configured, "")
			}
		}
	}
	addr, err := caddy.ParseNetworkAddressWithDefaults(listen, "tcp", 2019)
	if err != nil || addr.IsUnixNetwork() || addr.IsFdNetwork() {
		return nil
	}
	addresses := make([]string, 0, 1)
	for port := range addr.PortRangeSize() {
		addresses = append(addresses, addr.JoinHostPort(port))
	}
	return addresses
}
