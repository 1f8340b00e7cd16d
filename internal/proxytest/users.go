// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"encoding/base64"
	"strings"
)

// Lines of a sticky_proxy block. The hashes are of the passwords below, at
// bcrypt's lowest cost.
const (
	Alice = "account alice $2a$04$K3kKau3IwHX47oTO8W6OeelqRLY4teCn.uodCrc9tubUx1xZD2O6O\n"
	Bob   = "account bob $2a$04$jWeqkGxPXUph8a3Y9GJoJezGxclVcM5pYA6zJW5SLdIWUcuZkCbW6\n"

	FourExits = "exit direct://127.0.0.11\nexit direct://127.0.0.12\n" +
		"exit direct://127.0.0.13\nexit direct://127.0.0.14\n"
	OneExit = "exit direct://127.0.0.11\n"

	Loopback = "allow 127.0.0.1\nports 1-65535\n"
)

// Passwords of the accounts above.
const (
	AlicePassword = "secret"
	BobPassword   = "pass:word"
)

// PasswordOf returns the password of a user name, whatever its parameters are.
func PasswordOf(user string) string {
	if strings.HasPrefix(user, "bob") {
		return BobPassword
	}
	return AlicePassword
}

// Basic returns the value of a Proxy-Authorization header.
func Basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// Credentials returns the header line of a user, with the right password.
func Credentials(user string) string {
	if user == "" {
		return ""
	}
	return "Proxy-Authorization: " + Basic(user, PasswordOf(user)) + "\r\n"
}

// Connect returns the head of a CONNECT request.
func Connect(user, destination string) string {
	return "CONNECT " + destination + " HTTP/1.1\r\nHost: " + destination + "\r\n" + Credentials(user) + "\r\n"
}
