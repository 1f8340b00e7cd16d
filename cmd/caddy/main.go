// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package main is a Caddy with its standard modules and with the sticky
// plugin inside. It is what xcaddy would generate:
//
//	go run ./cmd/caddy run --config Caddyfile
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-sticky/caddy-sticky"
)

func main() {
	caddycmd.Main()
}
