// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
)

// SquidOptions are what a test asks of squid. The zero value is a proxy without
// a password.
type SquidOptions struct {
	// User and Password are what clients must send. They hold neither a quote,
	// a space nor a percent sign. Default: none.
	User, Password string

	// Outgoing is the address that squid connects from, such as 127.0.0.31.
	// Default: what the system chooses.
	Outgoing string
}

// Squid starts the HTTP proxy squid.
func Squid(t testing.TB, options SquidOptions) *Process {
	t.Helper()
	path := Need(t, "squid")
	dir := t.TempDir()
	// Squid gives up root, and its helper must be found by who it is then.
	//nolint:gosec // a helper that is executed, in a test's own directory
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	more := ""
	if options.Outgoing != "" {
		more += "tcp_outgoing_address " + options.Outgoing + "\n"
	}
	access := "http_access allow all\n"
	if options.User != "" {
		helper := configFile(t, dir, "auth", `#!/bin/sh
while read -r user password; do
	if [ "$user $password" = '%s %s' ]; then echo OK; else echo ERR; fi
done
`, options.User, options.Password)
		if err := os.Chmod(helper, 0o755); err != nil { //nolint:gosec // see above
			t.Fatal(err)
		}
		access = "auth_param basic program " + helper + "\n" +
			"auth_param basic children 1 startup=1 idle=1\n" +
			"acl known proxy_auth REQUIRED\n" +
			"http_access allow known\n" +
			"http_access deny all\n"
	}
	service := SquidService()
	return Run(t, func(port int) *exec.Cmd {
		config := configFile(t, dir, "squid.conf", `http_port 127.0.0.1:%d
%s%saccess_log none
cache_log /dev/null
cache_store_log none
pinger_enable off
coredump_dir %s
pid_filename none
netdb_filename none
cache deny all
cache_mem 1 MB
shutdown_lifetime 0 seconds
`, port, access, more, dir)
		// Option -d writes the cache_log to stderr as well, which a failed test
		// prints. A file would need the rights of the user that squid changes to.
		cmd := exec.Command(path, "-N", "-d", "1", "-n", service, "-f", config)
		cmd.Dir = dir
		return cmd
	})
}

// SquidService returns a name for squid's option -n that no other squid of this
// machine has. Two squids of one name share files in /dev/shm, and the second
// one fails if it may not remove them.
func SquidService() string { return fmt.Sprintf("sticky%x", rand.Uint64()) }

// Dante starts the SOCKS5 proxy danted, without a password.
func Dante(t testing.TB) *Process {
	t.Helper()
	path := Need(t, "danted")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return Run(t, func(port int) *exec.Cmd {
		config := configFile(t, dir, "danted.conf", `logoutput: stderr
internal: 127.0.0.1 port = %d
external: 127.0.0.1
clientmethod: none
socksmethod: none
user.privileged: %s
user.unprivileged: %s
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
`, port, me.Username, me.Username)
		return exec.Command(path, "-f", config, "-p", filepath.Join(dir, "danted.pid"))
	})
}

// Microsocks starts the SOCKS5 proxy microsocks. An empty user means that it
// asks for none.
func Microsocks(t testing.TB, user, password string) *Process {
	t.Helper()
	path := Need(t, "microsocks")
	return Run(t, func(port int) *exec.Cmd {
		args := []string{"-i", "127.0.0.1", "-p", strconv.Itoa(port)}
		if user != "" {
			args = append(args, "-u", user, "-P", password)
		}
		return exec.Command(path, args...)
	})
}

// Tinyproxy starts the HTTP proxy tinyproxy, without a password.
func Tinyproxy(t testing.TB) *Process {
	t.Helper()
	path := Need(t, "tinyproxy")
	dir := t.TempDir()
	return Run(t, func(port int) *exec.Cmd {
		config := configFile(t, dir, "tinyproxy.conf", `Port %d
Listen 127.0.0.1
Timeout 60
MaxClients 100
LogLevel Error
`, port)
		return exec.Command(path, "-d", "-c", config)
	})
}
