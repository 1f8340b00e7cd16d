// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package proxystatus is about failures: the kinds that RFC 9209 names, the status
// of each, and the words that a client gets.
package proxystatus

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
)

// ExitError is a failure of an exit itself.
type ExitError struct {
	Kind string // RFC 9209 §2.3
	Err  error

	// Unclear says that the exit was reached and then did not do its part: it
	// may be the destination's doing, which a client chooses. Such a failure
	// counts for the session that met it and not for the exit: else a client
	// could drive all sessions off an exit.
	Unclear bool

	// Sent says that the exit may have got the request before it failed.
	Sent bool
}

func (e *ExitError) Error() string { return e.Err.Error() }

func (e *ExitError) Unwrap() error { return e.Err }

// RemoteError is what an exit says of a destination that it could not reach.
type RemoteError struct {
	Kind   string // RFC 9209 §2.3
	Detail string
}

func (e *RemoteError) Error() string { return e.Detail }

// ExitFailure makes of an error of the network an exit's own (RFC 9209 §2.3).
func ExitFailure(err error) error {
	return &ExitError{Kind: KindOf(err), Err: err}
}

// HandshakeFailure classifies an error of an exit that was reached.
func HandshakeFailure(err error) error {
	return &ExitError{Kind: KindOf(err), Err: err, Unclear: true}
}

// KindOf classifies an error of the network (RFC 9209 §2.3).
func KindOf(err error) string {
	dns, isDNS := errors.AsType[*net.DNSError](err)
	netErr, isNet := errors.AsType[net.Error](err)
	_, isCertificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, isAlert := errors.AsType[tls.AlertError](err)
	_, isRecord := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case isCertificate:
		return "tls_certificate_error"
	case isAlert:
		return "tls_alert_received"
	case isRecord:
		return "tls_protocol_error"
	case isDNS && dns.IsTimeout:
		return "dns_timeout"
	case isDNS:
		return "dns_error"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isNet && netErr.Timeout():
		return "connection_timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "destination_ip_unroutable"
	}
	return "connection_terminated"
}
