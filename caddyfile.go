// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sticky

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sticky/caddy-sticky/forward"
	"github.com/caddy-sticky/caddy-sticky/idle/websocket"
	"github.com/caddy-sticky/caddy-sticky/internal/directive"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("sticky", parseApp)

	httpcaddyfile.RegisterHandlerDirective("sticky_proxy", parseProxy)
	httpcaddyfile.RegisterDirectiveOrder("sticky_proxy", httpcaddyfile.After, "forward_auth")

	httpcaddyfile.RegisterHandlerDirective("websocket_timeouts", parseWebSocketTimeouts)
	httpcaddyfile.RegisterDirectiveOrder("websocket_timeouts", httpcaddyfile.Before, "reverse_proxy")
}

// parseApp sets up the sticky app from the global option. Syntax:
//
//	sticky {
//		store <kind> {
//			…
//		}
//		cookie_keys  <key…>
//		key_rotation <duration>
//	}
func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // sticky
	if existing != nil {
		return nil, d.Err("the global option sticky is given twice")
	}
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	var app App
	err := directive.Block(d, "sticky", directive.Options{
		"store":        directive.Repeat(directive.FuncWithBlock(app.readStore)),
		"cookie_keys":  directive.Strings(&app.CookieKeysRaw),
		"key_rotation": directive.Duration(&app.KeyRotation),
	})
	if err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "sticky", Value: caddyconfig.JSON(&app, nil)}, nil
}

func (a *App) readStore(d *caddyfile.Dispenser) error {
	kind, err := directive.Argument(d)
	if err != nil {
		return err
	}
	mod, err := caddyfile.UnmarshalModule(d, "sticky.stores."+kind)
	if err != nil {
		return err
	}
	a.StoresRaw = append(a.StoresRaw, caddyconfig.JSONModuleObject(mod, "store", kind, nil))
	return nil
}

// parseProxy sets up a sticky_proxy handler, see forward.Handler.
func parseProxy(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(forward.Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}

// parseWebSocketTimeouts sets up a websocket_timeouts handler, see
// websocket.Timeouts.
func parseWebSocketTimeouts(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(websocket.Timeouts)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}
