// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package exits

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(new(HTTPS))
}

// HTTPS is an exit that is an HTTP proxy behind TLS. Names are resolved there.
type HTTPS struct {
	HTTP

	// The name that the proxy's certificate is for, if it is another one than
	// the URL's host. Default: the URL's host.
	TLSServerName string `json:"tls_server_name,omitempty"`

	// Files with certificates of authorities (PEM) that may have signed the
	// proxy's. Default: those that the system trusts.
	TLSTrust []string `json:"tls_trust,omitempty"`

	// Accept any certificate. Whoever stands between here and the proxy can then
	// read its password and what is not encrypted otherwise. Default: false.
	TLSInsecure bool `json:"tls_insecure,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*HTTPS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  namespace + ".https",
		New: func() caddy.Module { return new(HTTPS) },
	}
}

// Provision reads the URL and the certificates.
func (e *HTTPS) Provision(caddy.Context) error {
	var err error
	if e.url, err = parseURL(e.URL, "https", 443); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(e.url.Host)
	if err != nil {
		return err
	}
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if e.TLSServerName != "" {
		config.ServerName = e.TLSServerName
	}
	if e.TLSInsecure {
		if len(e.TLSTrust) > 0 {
			return errors.New("tls_insecure accepts any certificate, so tls_trust has no meaning: leave one of them out")
		}
		config.InsecureSkipVerify = true
	}
	for _, file := range e.TLSTrust {
		pem, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("tls_trust: %w", err)
		}
		if config.RootCAs == nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("tls_trust: %s holds no certificate (PEM)", file)
		}
	}
	e.tls = config
	return e.Compile()
}

func (e *HTTPS) hasTLSOptions() bool {
	return e.TLSServerName != "" || len(e.TLSTrust) > 0 || e.TLSInsecure
}

// Interface guards
var (
	_ caddy.Provisioner = (*HTTPS)(nil)
	_ Exit              = (*HTTPS)(nil)
)
