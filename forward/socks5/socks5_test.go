// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package socks5_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/proxy"

	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// G3, and sessions: a SOCKS5 client has what an HTTP client has.
func TestSocksClientHasASession(t *testing.T) {
	w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: proxytest.Guard}
	ask := func(user string) string {
		transport.Dial = w.SocksDialer(user, proxy.Direct).Dial //nolint:staticcheck // what x/net's dialer is for
		res, err := client.Get("http://" + w.Origin + "/")
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return string(body)
	}
	first := ask("alice-session-abc")
	for range 4 {
		require.Equal(t, first, ask("alice-session-abc"))
	}
	require.Equal(t, first, w.Exit("alice-session-abc"), "HTTP on the same port")
	require.Equal(t, first, w.Forwarded("alice-session-abc").Body)
}

// The bytes of a tunnel, both halves, by way of each listener that may stand
// below.
func TestSocksTunnelCarriesBytesAndHalves(t *testing.T) {
	option, config := proxytest.Certificate(t)
	for name, s := range map[string]struct {
		wrappers []string
		tls      bool
	}{
		"alone":            {wrappers: []string{"sticky_socks5"}},
		"behind an idle":   {wrappers: []string{"idle_timeout 2m", "tls", "sticky_socks5"}},
		"within TLS":       {wrappers: []string{"sticky_socks5"}, tls: true},
		"all of it":        {wrappers: []string{"idle_timeout 2m", "tls", "sticky_socks5"}, tls: true},
		"with access logs": {wrappers: []string{"sticky_socks5"}},
	} {
		t.Run(name, func(t *testing.T) {
			site := proxytest.Wrapped(proxytest.Alice+proxytest.OneExit+proxytest.Loopback, s.wrappers...)
			var dial proxy.Dialer = proxy.Direct
			if s.tls {
				site.Server = option
				dial = &tls.Dialer{Config: config}
			}
			if name == "with access logs" {
				site.Server = "log"
			}
			w := proxytest.NewWorldWith(t, "", site)
			early, text := proxytest.RandomText(100), proxytest.RandomText(400<<10)
			got := make(chan string, 1)
			target := proxytest.ServerOf(t, func(conn *net.TCPConn) {
				_, _ = io.WriteString(conn, early)
				all, _ := io.ReadAll(conn)
				got <- string(all)
				_, _ = io.WriteString(conn, text)
			})
			conn, err := w.SocksDialer("alice-session-abc", dial).Dial("tcp", target)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(proxytest.Guard)))
			_, err = io.WriteString(conn, text)
			require.NoError(t, err)
			require.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
			require.True(t, text == <-got, "the target read other bytes than were sent")
			all, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.True(t, early+text == string(all), "the client read other bytes than were sent")
		})
	}
}

// A client that says all at once, and its first bytes of the tunnel with it.
func TestSocksClientThatDoesNotWait(t *testing.T) {
	w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	target := proxytest.ServerOf(t, proxytest.Echo)
	_, port, err := net.SplitHostPort(target)
	require.NoError(t, err)
	n, err := net.LookupPort("tcp", port)
	require.NoError(t, err)
	request := proxytest.SocksText("alice", proxytest.AlicePassword, proxytest.SocksDomain("127.0.0.1", uint16(n)))
	for _, size := range []int{10, 5000, 100_000} {
		text := proxytest.RandomText(size)
		c := w.Dial()
		go func() { _, _ = io.WriteString(c.Conn, request+text) }()
		c.Expect("\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
		c.Expect(text)
		c.Close()
	}
	// And one that says a byte at a time.
	c := w.Dial()
	require.NoError(t, c.Conn.SetNoDelay(true))
	for i := range len(request) {
		c.Send(request[i : i+1])
	}
	c.Expect("\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	c.Send("ping")
	c.Expect("ping")
}

// I1, I4, I5 and I7.
func TestSocksRequestsThatAreRefused(t *testing.T) {
	w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	v4 := func(address string) string {
		host, port, err := net.SplitHostPort(address)
		require.NoError(t, err)
		n, err := net.LookupPort("tcp", port)
		require.NoError(t, err)
		return "\x01" + string(net.ParseIP(host).To4()) + string([]byte{byte(n >> 8), byte(n)})
	}
	const accepted = "\x05\x02\x01\x00"
	reply := func(code byte) string { return "\x05" + string([]byte{code}) + "\x00\x01\x00\x00\x00\x00\x00\x00" }
	good := func(request string) string { return "\x05\x01\x02\x01\x05alice\x06secret" + request }
	for name, c := range map[string]struct{ say, want string }{
		"no method that is known":  {"\x05\x01\x01", "\x05\xff"},
		"no password":              {"\x05\x01\x00", "\x05\xff"},
		"no method":                {"\x05\x00", "\x05\xff"},
		"a colon in the user":      {"\x05\x01\x02\x01\x07alice:x\x06secret", "\x05\x02\x01\x01"},
		"another subnegotiation":   {"\x05\x01\x02\x02", "\x05\x02\x01\x01"},
		"another version, later":   {good("\x04\x01\x00"), accepted + reply(1)},
		"BIND":                     {good("\x05\x02\x00" + v4(w.Origin)), accepted + reply(7)},
		"UDP ASSOCIATE":            {good("\x05\x03\x00" + v4(w.Origin)), accepted + reply(7)},
		"an address of no kind":    {good("\x05\x01\x00\x02\x7f\x00\x00\x01\x00\x50"), accepted + reply(8)},
		"port 0":                   {good("\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00"), accepted + reply(1)},
		"a header in the name":     {good("\x05\x01\x00" + proxytest.SocksDomain("a\r\nX-Evil: yes\r\n\r\n", 80)), accepted + reply(1)},
		"a space in the name":      {good("\x05\x01\x00" + proxytest.SocksDomain("a HTTP/1.1", 80)), accepted + reply(1)},
		"a NUL in the name":        {good("\x05\x01\x00" + proxytest.SocksDomain("localhost\x00.example", 80)), accepted + reply(1)},
		"no name":                  {good("\x05\x01\x00" + proxytest.SocksDomain("", 80)), accepted + reply(1)},
		"a wrong password":         {"\x05\x01\x02\x01\x05alice\x05wrong\x05\x01\x00" + v4(w.Origin), accepted + reply(2)},
		"a parameter out of range": {"\x05\x01\x02\x01\x1calice-session-a-sessionttl-0\x06secret\x05\x01\x00" + v4(w.Origin), accepted + reply(1)},
		"a private destination":    {good("\x05\x01\x00" + v4("10.0.0.1:443")), accepted + reply(2)},
		"its odd spelling":         {good("\x05\x01\x00" + proxytest.SocksDomain("0xa.1", 443)), accepted + reply(2)},
		"its mapped spelling":      {good("\x05\x01\x00\x04" + string(net.ParseIP("10.0.0.1").To16()) + "\x01\xbb"), accepted + reply(2)},
		"nobody there":             {good("\x05\x01\x00" + v4(proxytest.DeadPort(t))), accepted + reply(5)},
		"no such name":             {good("\x05\x01\x00" + proxytest.SocksDomain("nowhere.invalid", 443)), accepted + reply(4)},
	} {
		t.Run(name, func(t *testing.T) {
			conn := w.Dial()
			conn.Send(c.say)
			require.Equal(t, c.want, conn.ExpectEnd())
		})
	}
	// E9.
	require.NotContains(t, w.Logs.String(), proxytest.AlicePassword)
}

func TestSocksWithoutCredentials(t *testing.T) {
	s := proxytest.Wrapped("open\n"+proxytest.FourExits+proxytest.Loopback, "sticky_socks5 {\n auth none\n}")
	w := proxytest.NewWorldWith(t, "", s)
	target := proxytest.ServerOf(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, proxytest.HostOf(conn.RemoteAddr().String())) })
	plain, err := proxy.SOCKS5("tcp", w.Proxy, nil, proxy.Direct)
	require.NoError(t, err)
	read := func(dialer proxy.Dialer) string {
		conn, err := dialer.Dial("tcp", target)
		require.NoError(t, err)
		defer conn.Close()
		text, err := io.ReadAll(conn)
		require.NoError(t, err)
		return string(text)
	}
	require.Contains(t, read(plain), "127.0.0.1")
	first := read(w.SocksDialer("anyone-session-abc", proxy.Direct))
	for range 4 {
		require.Equal(t, first, read(w.SocksDialer("anyone-session-abc", proxy.Direct)), "a session although none is required")
	}
}

// A CONNECT that some other handler answers is no tunnel.
func TestSocksRequestThatNoProxyAnswers(t *testing.T) {
	s := proxytest.Wrapped(proxytest.Alice+proxytest.OneExit, "sticky_socks5")
	s.Global += "order respond before sticky_proxy\n"
	w := proxytest.NewWorldWith(t, "", s)
	c := w.Dial()
	c.Send(proxytest.SocksText("alice", proxytest.AlicePassword, proxytest.SocksDomain("shop.example", 443)))
	require.Equal(t, "\x05\x02\x01\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00", c.ExpectEnd())
}

// I6: a client that says nothing keeps nobody waiting, and one that speaks
// neither protocol is closed.
func TestSilentClientsDelayNobody(t *testing.T) {
	w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.OneExit, proxytest.Loopback)
	for _, said := range []string{"", "\x05", "\x05\x01", "\x05\x01\x02\x01\x05al"} {
		w.Dial().Send(said)
	}
	require.Equal(t, "127.0.0.11", w.Exit("alice-session-abc"))
	c := w.Dial()
	c.Send("\x04\x01\x00\x50\x7f\x00\x00\x01\x00\r\n\r\nand more of it\r\n\r\n")
	c.ExpectClosed()
}

func TestCurlSpeaksSocks(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("skipped: needs curl")
	}
	w := proxytest.NewSocksWorld(t, proxytest.Alice, proxytest.FourExits, proxytest.Loopback)
	first := w.Exit("alice-session-abc")
	for _, option := range []string{"--socks5", "--socks5-hostname"} {
		out, err := exec.CommandContext(t.Context(), curl, "-sS", "-m", "20", option, w.Proxy,
			"--proxy-user", "alice-session-abc:"+proxytest.AlicePassword, "http://"+w.Origin+"/").CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, first, string(out))
		out, err = exec.CommandContext(t.Context(), curl, "-sS", "-m", "20", option, w.Proxy,
			"--proxy-user", "alice:wrong", "http://"+w.Origin+"/").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "connection to")
	}
}
