// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

// ownErrors are the errors of RFC 9209 §2.3 that are an intermediary's own
// trouble. Others are about what is behind it, which a client chooses.
var ownErrors = map[string]bool{
	"proxy_internal_error":      true,
	"proxy_configuration_error": true,
}

// statusFailure is the exit's failure that an answer tells of: its Proxy-Status
// (RFC 9209) names the exit, by its host or host:port, and an error that is its
// own. Nil if it tells of none.
func statusFailure(res *http.Response, exit string) *proxystatus.ExitError {
	lines := res.Header["Proxy-Status"]
	if len(lines) == 0 {
		return nil
	}
	list, err := httpsfv.UnmarshalList(lines)
	if err != nil {
		return nil // it tells nothing
	}
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			continue
		}
		kind, _ := item.Params.Get("error")
		if name := fmt.Sprint(kind); ownErrors[name] && names(item.Value, exit) {
			return &proxystatus.ExitError{Kind: name, Err: fmt.Errorf("exit answers %d: %s", res.StatusCode, strings.ReplaceAll(name, "_", " "))}
		}
	}
	return nil
}

// names reports whether a token or a string is the name of host:port.
func names(value any, hostport string) bool {
	name := fmt.Sprint(value)
	host, _, err := net.SplitHostPort(hostport)
	return strings.EqualFold(name, hostport) || err == nil && strings.EqualFold(strings.Trim(name, "[]"), host)
}
