// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package socks5

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/forward/destination"
)

// shakeInPieces gives a handshake this text, so many bytes at a time.
func shakeInPieces(s *socksHandshake, text []byte, size int) (answers, rest []byte, err error) {
	var in []byte
	for {
		taken, answer, err := s.next(in)
		answers = append(answers, answer...)
		in = in[taken:]
		switch {
		case err != nil:
			return answers, nil, err
		case s.stage == socksComplete:
			return answers, append(in, text...), nil
		case taken > 0:
			continue
		case len(text) == 0:
			return answers, nil, io.ErrUnexpectedEOF
		}
		n := min(size, len(text))
		in, text = append(in, text[:n]...), text[n:]
	}
}

// plainHandshake is the RFCs as one reads them: a request is what they call one,
// or an error.
func plainHandshake(text []byte, open bool) (user, password, host string, port uint16, err error) {
	r := bytes.NewReader(text)
	read := func(n int) []byte {
		buf := make([]byte, n)
		if _, e := io.ReadFull(r, buf); e != nil {
			err = e
		}
		return buf
	}
	byteOf := func() byte { return read(1)[0] }
	if byteOf() != 5 {
		return "", "", "", 0, errSocks
	}
	methods := read(int(byteOf()))
	switch {
	case err != nil:
		return "", "", "", 0, err
	case bytes.Contains(methods, []byte{2}):
		if byteOf() != 1 && err == nil {
			return "", "", "", 0, errSocks
		}
		user = string(read(int(byteOf())))
		password = string(read(int(byteOf())))
		if err == nil && strings.Contains(user, ":") {
			return "", "", "", 0, errSocks
		}
	case !open || !bytes.Contains(methods, []byte{0}):
		return "", "", "", 0, errSocks
	}
	head := read(4)
	if err != nil {
		return "", "", "", 0, err
	}
	if head[0] != 5 {
		return "", "", "", 0, errSocks
	}
	switch head[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(byteOf())))
	case 4:
		host = net.IP(read(16)).String()
	default:
		return "", "", "", 0, errSocks
	}
	port = binary.BigEndian.Uint16(read(2))
	if err == nil && (head[1] != 1 || port == 0) {
		err = errSocks
	}
	return user, password, host, port, err
}

// FuzzSocksHandshake: however the bytes arrive, they mean the same; that is what
// the RFCs say; and the CONNECT is one request with that destination and those
// credentials, whatever bytes they have.
func FuzzSocksHandshake(f *testing.F) {
	for _, seed := range []string{
		"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50early",
		"\x05\x02\x00\x02\x01\x05alice\x06secret\x05\x01\x00\x03\x0cshop.example\x01\xbb",
		"\x05\x01\x02\x01\x03a:b\x01c\x05\x01\x00\x03\x01a\x01\xbb",
		"\x05\x01\x02\x01\x01a\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50",
		"\x05\x01\x00\x05\x01\x00\x03\x0ea\r\nX-Evil: yes\x00\x50",
		"\x05\x01\x00\x05\x03\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x01\x00\x05\x01\x00\x02\x7f\x00\x00\x01\x00\x50",
		"\x05\x00", "\x05\x01\x01", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "",
	} {
		f.Add([]byte(seed), true, 3)
		f.Add([]byte(seed), false, 1)
	}
	f.Fuzz(func(t *testing.T, text []byte, open bool, size int) {
		whole, pieces := &socksHandshake{open: open}, &socksHandshake{open: open}
		answers, rest, err := shakeInPieces(whole, text, len(text)+1)
		answers2, rest2, err2 := shakeInPieces(pieces, text, max(1, size))
		require.Equal(t, err, err2)
		require.Equal(t, answers, answers2)
		require.Equal(t, rest, rest2)
		require.Equal(t, whole, pieces)

		user, password, host, port, wantErr := plainHandshake(text, open)
		if err != nil {
			// What is refused as a name is destination.ParseHost's matter; so is what is refused
			// before it is complete.
			if wantErr == nil {
				_, _, hostErr := destination.ParseHost(host)
				require.Error(t, hostErr, "%q is refused", host)
			}
			return
		}
		require.NoError(t, wantErr)
		require.True(t, bytes.HasSuffix(text, rest))
		request := whole.request()
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(append(request, "GET / HTTP/1.1\r\n"...))))
		require.NoError(t, err, "%q", request)
		require.Equal(t, http.MethodConnect, r.Method)
		require.Len(t, bytes.Split(request, []byte("\r\n\r\n")), 2)
		d, err := destination.Parse(r.Host)
		require.NoError(t, err)
		require.Equal(t, whole.destination, d, "one host has one spelling")
		require.Equal(t, port, d.Port)
		if ip := net.ParseIP(host); ip != nil {
			require.True(t, ip.Equal(d.Addr.AsSlice()))
		}
		require.LessOrEqual(t, len(r.Header), 2, "%q", request)
		r.Header["Authorization"] = r.Header["Proxy-Authorization"]
		gotUser, gotPassword, ok := r.BasicAuth()
		require.Equal(t, whole.hasCredentials, ok)
		require.Equal(t, user, gotUser)
		require.Equal(t, password, gotPassword)
	})
}

// I4: what happened, as a reply.
func TestAnswersBecomeReplies(t *testing.T) {
	for text, want := range map[string]byte{
		"200 OK\r\n":                               socksSucceeded,
		"200 OK\r\nContent-Length: 2\r\n":          socksFailure,
		"200 OK\r\nTransfer-Encoding: chunked\r\n": socksFailure,
		"407 Proxy Authentication Required\r\n":    socksNotAllowed,
		"403 Forbidden\r\nProxy-Status: caddy; error=destination_ip_prohibited\r\n": socksNotAllowed,
		"403 Forbidden\r\n":             socksNotAllowed,
		"429 Too Many Requests\r\n":     socksNotAllowed,
		"400 Bad Request\r\n":           socksFailure,
		"404 Not Found\r\n":             socksFailure,
		"500 Internal Server Error\r\n": socksFailure,
		"502 Bad Gateway\r\n":           socksUnreachable,
		"504 Gateway Timeout\r\n":       socksTTLExpired,
		"502 Bad Gateway\r\nProxy-Status: caddy; error=connection_refused; details=\"x\"\r\n": socksRefused,
		"502 Bad Gateway\r\nProxy-Status: caddy; error=dns_error\r\n":                         socksUnreachable,
		"504 Gateway Timeout\r\nProxy-Status: caddy; error=dns_timeout\r\n":                   socksUnreachable,
		"504 Gateway Timeout\r\nProxy-Status: caddy; error=connection_timeout\r\n":            socksTTLExpired,
		"502 Bad Gateway\r\nProxy-Status: caddy; error=destination_ip_unroutable\r\n":         socksNetUnreachable,
		"503 Service Unavailable\r\nProxy-Status: caddy; error=connection_limit_reached\r\n":  socksFailure,
		"nonsense\r\n": socksFailure,
	} {
		require.Equal(t, want, socksCode([]byte("HTTP/1.1 "+text+"\r\n")), text)
	}
	for kind, code := range socksCodes {
		forbidden := kind == "destination_ip_prohibited" || kind == "http_request_denied"
		require.Equal(t, forbidden, code == socksNotAllowed, kind)
	}
}

// An answer that is translated arrives in pieces, behind interim ones, and with
// the tunnel's first bytes in the same Write.
func TestAnswerInPiecesIsTranslatedOnce(t *testing.T) {
	const answer = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 Connection established\r\n\r\nfirst"
	for _, size := range []int{1, 7, len(answer)} {
		client, server := net.Pipe()
		c := &socksConn{inner: server}
		c.phase.Store(socksAnswering)
		require.Equal(t, net.Conn(c), Unwrap(c), "nobody may go round the translation")
		go func() {
			for rest := answer; rest != ""; rest = rest[min(size, len(rest)):] {
				if n, err := io.WriteString(c, rest[:min(size, len(rest))]); err != nil || n == 0 {
					return
				}
			}
			_ = c.Close()
		}()
		got, err := io.ReadAll(client)
		require.NoError(t, err)
		require.Equal(t, string(socksReplyOf(socksSucceeded))+"first", string(got))
		require.Equal(t, server, Unwrap(c), "a relay takes what it knows")
	}
}

func TestAnswerWithoutEndIsRefused(t *testing.T) {
	client, server := net.Pipe()
	c := &socksConn{inner: server}
	c.phase.Store(socksAnswering)
	go func() {
		for range 100 {
			_, _ = c.Write(make([]byte, 1000))
		}
		_ = c.Close()
	}()
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, socksReplyOf(socksFailure), got)
	require.ErrorIs(t, c.CloseWrite(), errors.ErrUnsupported)
}

// I6: a handshake has a time, and the deadlines stay the HTTP server's.
func TestSocksHandshakeIsTimeLimited(t *testing.T) {
	for _, said := range []string{"\x05", "\x05\x01\x02", "\x05\x01\x02\x01\x05ali"} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			c := &socksConn{inner: server}
			begin, ended := time.Now(), make(chan time.Duration)
			go func() {
				_, err := c.Read(make([]byte, 4096))
				assert.Error(t, err)
				ended <- time.Since(begin)
			}()
			go func() { _, _ = io.Copy(io.Discard, client) }()
			_, err := io.WriteString(client, said)
			require.NoError(t, err)
			require.Equal(t, socksTimeout, <-ended)
			_ = client.Close()
		})
	}
}

// Who has not begun has the HTTP server's time, and so has who speaks HTTP.
func TestHTTPClientHasTheServersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		c := &socksConn{inner: server}
		go func() {
			time.Sleep(2 * socksTimeout)
			_, _ = io.WriteString(client, "GET")
		}()
		buf := make([]byte, 10)
		n, err := c.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "GET", string(buf[:n]))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
		_, err = c.Read(buf)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_ = client.Close()
		_ = c.Close()
	})
}
