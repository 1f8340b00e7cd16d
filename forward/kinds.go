// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
)

// exitError is a failure of an exit itself.
type exitError struct {
	kind string // RFC 9209 §2.3
	err  error

	// unclear says that the exit was reached and then did not do its part: it
	// may be the destination's doing, which a client chooses. Such a failure
	// counts for the session that met it and not for the exit: else a client
	// could drive everybody off an exit.
	unclear bool

	// sent says that the exit may have got the request before it failed.
	sent bool
}

func (e *exitError) Error() string { return e.err.Error() }

func (e *exitError) Unwrap() error { return e.err }

// remoteError is what an exit says of a destination that it could not reach.
type remoteError struct {
	kind   string // RFC 9209 §2.3
	detail string
}

func (e *remoteError) Error() string { return e.detail }

// ExitFailure makes of an error of the network an exit's own (RFC 9209 §2.3).
func ExitFailure(err error) error {
	return &exitError{kind: errorKind(err), err: err}
}

// handshakeFailure classifies an error of an exit that was reached.
func handshakeFailure(err error) error {
	return &exitError{kind: errorKind(err), err: err, unclear: true}
}

// errorKind classifies an error of the network (RFC 9209 §2.3).
func errorKind(err error) string {
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
