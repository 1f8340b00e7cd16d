// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package socks5

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
)

const socksVersion = 5

// Replies of a SOCKS5 server (RFC 1928 §6).
const (
	socksSucceeded      = 0
	socksFailure        = 1
	socksNotAllowed     = 2
	socksNetUnreachable = 3
	socksUnreachable    = 4
	socksRefused        = 5
	socksTTLExpired     = 6
	socksNoCommand      = 7
	socksNoAddressType  = 8
)

// Authentication methods (RFC 1928 §3).
const (
	socksNoAuth      = 0x00
	socksPassword    = 0x02
	socksNoneOfThese = 0xff
)

// errSocks ends a handshake; the client has been told why, where there is a way
// to say it.
var errSocks = errors.New("socks5: request refused")

// socksStage is what comes next from a client.
type socksStage int

const (
	socksGreeting socksStage = iota
	socksCredentials
	socksCommand
	socksComplete
)

// socksHandshake reads what a SOCKS5 client says until it is a request. It does
// no I/O: it takes bytes, in pieces of any size, and tells what to answer.
type socksHandshake struct {
	open bool // credentials are not required

	stage          socksStage
	user, password string
	hasCredentials bool
	destination    destination.Destination
}

// next takes one message from the beginning of in. It returns how many bytes it
// took, 0 where the message is incomplete, and what to answer. After an error
// the answer is the last one.
func (s *socksHandshake) next(in []byte) (taken int, answer []byte, err error) {
	switch s.stage {
	case socksGreeting:
		return s.greeting(in)
	case socksCredentials:
		return s.credentials(in)
	case socksCommand:
		return s.command(in)
	case socksComplete:
	}
	return 0, nil, nil
}

// greeting reads version, count, methods. Who offers a password is asked for it
// though none is required: the session may be in there.
func (s *socksHandshake) greeting(in []byte) (int, []byte, error) {
	if len(in) > 0 && in[0] != socksVersion {
		return 0, nil, errSocks
	}
	if len(in) < 2 || len(in) < 2+int(in[1]) {
		return 0, nil, nil
	}
	taken := 2 + int(in[1])
	methods := string(in[2:taken])
	switch {
	case strings.IndexByte(methods, socksPassword) >= 0:
		s.stage = socksCredentials
		return taken, []byte{socksVersion, socksPassword}, nil
	case s.open && strings.IndexByte(methods, socksNoAuth) >= 0:
		s.stage = socksCommand
		return taken, []byte{socksVersion, socksNoAuth}, nil
	}
	return taken, []byte{socksVersion, socksNoneOfThese}, errSocks
}

// credentials reads version, user, password (RFC 1929). That they are accepted
// is provisional: the handler verifies them, along with the destination. A user
// with a colon would be another user with another password in HTTP.
func (s *socksHandshake) credentials(in []byte) (int, []byte, error) {
	const version = 1
	if len(in) > 0 && in[0] != version {
		return 0, []byte{version, 1}, errSocks
	}
	if len(in) < 2 || len(in) < 2+int(in[1])+1 {
		return 0, nil, nil
	}
	user, rest := in[2:2+int(in[1])], in[2+int(in[1]):]
	if len(rest) < 1+int(rest[0]) {
		return 0, nil, nil
	}
	s.user, s.password = string(user), string(rest[1:1+int(rest[0])])
	taken := 3 + len(s.user) + len(s.password)
	if strings.Contains(s.user, ":") {
		return taken, []byte{version, 1}, errSocks
	}
	s.hasCredentials = true
	s.stage = socksCommand
	return taken, []byte{version, 0}, nil
}

// command reads version, command, reserved, address, port.
func (s *socksHandshake) command(in []byte) (int, []byte, error) {
	if len(in) > 0 && in[0] != socksVersion {
		return 0, socksReplyOf(socksFailure), errSocks
	}
	if len(in) < 5 {
		return 0, nil, nil
	}
	var begin, length int
	switch in[3] {
	case 1:
		begin, length = 4, 4
	case 3:
		begin, length = 5, int(in[4])
	case 4:
		begin, length = 4, 16
	default:
		return 0, socksReplyOf(socksNoAddressType), errSocks
	}
	taken := begin + length + 2
	if len(in) < taken {
		return 0, nil, nil
	}
	if in[1] != 1 { // BIND, UDP ASSOCIATE
		return taken, socksReplyOf(socksNoCommand), errSocks
	}
	d, ok := socksDestination(in[3], in[begin:begin+length])
	d.Port = binary.BigEndian.Uint16(in[begin+length:])
	if !ok || d.Port == 0 {
		return taken, socksReplyOf(socksFailure), errSocks
	}
	s.destination = d
	s.stage = socksComplete
	return taken, nil, nil
}

// socksDestination reads an address. What becomes a line of HTTP consists of
// host bytes.
func socksDestination(kind byte, raw []byte) (d destination.Destination, ok bool) {
	if kind != 3 {
		addr, ok := netip.AddrFromSlice(raw)
		return destination.Destination{Addr: addr.Unmap()}, ok
	}
	text := string(raw)
	// Some clients send a literal as a name.
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return destination.Destination{Addr: addr.Unmap()}, true
	}
	name, addr, err := destination.ParseHost(text)
	return destination.Destination{Host: name, Addr: addr}, err == nil
}

// request is the CONNECT that the handshake asks for. The connection carries
// nothing else.
func (s *socksHandshake) request() []byte {
	authority := s.destination.String()
	head := make([]byte, 0, 1400)
	head = append(head, "CONNECT "...)
	head = append(head, authority...)
	head = append(head, " HTTP/1.1\r\nHost: "...)
	head = append(head, authority...)
	head = append(head, "\r\nConnection: close\r\n"...)
	if s.hasCredentials {
		head = append(head, "Proxy-Authorization: Basic "...)
		head = base64.StdEncoding.AppendEncode(head, []byte(s.user+":"+s.password))
		head = append(head, "\r\n"...)
	}
	return append(head, "\r\n"...)
}

// socksReplyOf is a reply; that it names no bound address is allowed, and nobody
// asks for it.
func socksReplyOf(code byte) []byte {
	return []byte{socksVersion, code, 0, 1, 0, 0, 0, 0, 0, 0}
}
