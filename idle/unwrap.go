// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"crypto/tls"
	"errors"
	"net"
	"reflect"
	"time"
)

// MaxWrappers bounds the walk through wrappers; no sane stack is higher.
const MaxWrappers = 8

type (
	closeWriter      interface{ CloseWrite() error }
	connectionStater interface{ ConnectionState() tls.ConnectionState }
	netConner        interface{ NetConn() net.Conn }
	rawer            interface{ Raw() net.Conn }
)

// Passthrough is an accepted TCP connection whose wrapper does nothing to its
// bytes and only watches how long it may stay. Its clock is the kernel's. What
// takes the TCP connection over takes the limits over as well.
type Passthrough interface {
	net.Conn

	// TCP returns the connection inside.
	TCP() *net.TCPConn

	// Limits returns how long the connection may be silent and when it has to
	// end. Zero: no limit.
	Limits() (timeout time.Duration, lifetime time.Time)
}

// halfCloser returns what closes the sending half of a connection, or nil. It
// looks through wrappers that hide the method, but never through TLS: a FIN
// under it, without a close_notify, is a truncation to the peer.
func halfCloser(conn net.Conn) closeWriter {
	for range MaxWrappers {
		if half, ok := conn.(closeWriter); ok {
			return half
		}
		inner := Unwrap(conn)
		if inner == nil {
			return nil
		}
		_, secure := conn.(connectionStater)
		if _, still := inner.(connectionStater); secure && !still {
			return nil
		}
		conn = inner
	}
	return nil
}

// HalfClose closes the sending half of a connection, or returns
// errors.ErrUnsupported.
func HalfClose(conn net.Conn) error {
	half := halfCloser(conn)
	if half == nil {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// Unwrap returns the connection inside of a wrapper, one layer down, or nil.
// Caddy's wrappers (hijackedConn, tlsStateConn, http2Conn) hide it in an
// embedded exported field Conn, others have NetConn, or Raw as those of the
// PROXY protocol. The field comes first, because a NetConn may go down several
// layers.
func Unwrap(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	if inner := EmbeddedConn(conn); inner != nil {
		return inner
	}
	if wrapper, ok := conn.(netConner); ok {
		return wrapper.NetConn()
	}
	if wrapper, ok := conn.(rawer); ok {
		return wrapper.Raw()
	}
	return nil
}

// EmbeddedConn returns the connection in an embedded exported field Conn, or nil.
func EmbeddedConn(conn net.Conn) net.Conn {
	v := reflect.ValueOf(conn)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	field, ok := v.Type().FieldByName("Conn")
	if !ok || !field.Anonymous || !field.IsExported() {
		return nil
	}
	value, err := v.FieldByIndexErr(field.Index)
	if err != nil || !value.CanInterface() {
		return nil
	}
	inner, _ := reflect.TypeAssert[net.Conn](value)
	return inner
}
