// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package forward_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// The test of mutated requests reads these from the environment.
const (
	mutationsVariable = "STICKY_MUTATIONS"     // how many inputs it sends
	seedVariable      = "STICKY_MUTATION_SEED" // what the inputs are made from
)

const (
	mutationClients = 48   // at the same time
	mutationWarmUp  = 200  // inputs before descriptors are counted
	mutationBatch   = 1000 // inputs between two checks of the log
)

// mutationRun is a forward proxy and a load balancer that receive mutated
// requests.
type mutationRun struct {
	*proxytest.World
	places
	seed uint64

	mu    sync.Mutex
	first map[string]int // how often a client's first response had this status
}

// TestMutatedRequestsHarmNothing sends mutated requests to both doors. The
// servers run in this process, so a panic in any goroutine ends the test.
func TestMutatedRequestsHarmNothing(t *testing.T) {
	inputs := int(fromEnvironment(t, mutationsVariable, 4000/proxytest.Slowdown))
	m := newMutationRun(t)
	defer func() {
		if t.Failed() {
			t.Logf("to repeat: %s=%d %s=%d", seedVariable, m.seed, mutationsVariable, inputs)
		}
	}()
	limit := proxytest.Guard + time.Duration(inputs)*50*time.Millisecond
	begun := time.Now()

	// The first inputs open what stays open, such as the poller's descriptors.
	sent := min(mutationWarmUp, inputs/2)
	m.send(0, sent)
	m.becomesIdle()
	before := settled(t)
	for sent < inputs && !t.Failed() {
		require.Less(t, time.Since(begun), limit, "the run hangs after %d inputs", sent)
		end := min(sent+mutationBatch, inputs)
		m.send(sent, end)
		sent = end
	}
	require.NotZero(t, m.first["200"], "no request was served: %v", m.first)
	require.NotZero(t, m.first["05"], "no SOCKS5 client was answered: %v", m.first)
	m.stillServes()
	m.becomesIdle()
	before.expect(t)
	m.checkLog()
	t.Logf("%d inputs of seed %d in %s, first responses: %v", sent, m.seed, time.Since(begun).Round(time.Second), m.first)
}

func fromEnvironment(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

func newMutationRun(t *testing.T) *mutationRun {
	t.Helper()
	m := &mutationRun{seed: fromEnvironment(t, seedVariable, 1), first: make(map[string]int)}
	loopback := func() string { return fmt.Sprintf("127.0.0.1:%d", peer.Port(t)) }
	peers := newMutationPeers(t, loopback(), func(target string) {
		_, number, _ := strings.Cut(target, hiddenPath)
		n, _ := strconv.Atoi(number)
		m.report(n, errors.New("the hidden request was served"))
	})
	m.good, m.refusing, m.all, m.balancer = peers.good, peers.refusing, peers.origins, loopback()
	inner := loopback()
	// No connection and no DNS query leaves this test, whatever the inputs name.
	rules := "deny *\nresolver " + proxytest.NewNames(t, "udp", nil).Address +
		"\nallow " + strings.Join(m.all, " ") + "\nallow " + strings.ReplaceAll(strings.Join(m.all, " "), "127.0.0.1", "localhost") +
		"\ndial_timeout 300ms\nidle_timeout 500ms\n"
	s := proxytest.Wrapped(proxytest.Alice+strings.TrimSuffix(proxytest.Bob, "\n")+" {\n max_sessions 50\n}\n"+rules+
		"session_headers\nnew_sessions 1000/1s\n"+
		"exit direct://127.0.0.11 {\n tag country de\n}\nexit direct://127.0.0.12 {\n tag country de\n}\n"+
		"exit http://alice:secret@"+peers.exit+"\nexit socks5://alice:secret@"+inner, "sticky_socks5")
	s.Global += "sticky {\n store memory {\n persist off\n}\n}\n"
	s.Sites = siteAt(inner, "sticky_proxy inner {\n"+proxytest.Alice+proxytest.OneExit+rules+"}") +
		siteAt(m.balancer, "reverse_proxy "+strings.Join(peers.upstreams, " ")+` {
			lb_policy sticky mutations {
				app_cookie JSESSIONID
				cookie
				header X-S
				jwt sub
				query s
				credentials
				client_ip
				max_idle 5s
			}
			lb_retries 2
			lb_try_interval 1ms
			transport http {
				dial_timeout 300ms
				response_header_timeout 500ms
			}
		}`)
	m.World = proxytest.NewWorldWith(t, m.good, s)
	m.places.proxy = m.World.Proxy
	return m
}

func siteAt(address, block string) string {
	_, port, _ := net.SplitHostPort(address)
	return ":" + port + " {\n bind 127.0.0.1\n" + block + "\n}\n"
}

// send sends the inputs from first to end-1, mutationClients at the same time.
func (m *mutationRun) send(first, end int) {
	m.T.Helper()
	var next atomic.Int64
	next.Store(int64(first))
	var wg sync.WaitGroup
	for range mutationClients {
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < end; n = int(next.Add(1)) - 1 {
				in := m.input(m.seed, n)
				answer, err := in.send()
				if err == nil {
					err = checkAnswer(strings.Join(in.segments, ""), answer)
				}
				if err != nil {
					m.report(n, err)
				}
				m.count(answer)
			}
		})
	}
	wg.Wait()
	m.checkLog()
}

// report fails the test because of one input.
func (m *mutationRun) report(number int, err error) {
	in := m.input(m.seed, number)
	m.T.Errorf("input %d to %s: %v\n%.3000q", number, in.address, err, in.segments)
}

// send connects, sends the segments, and returns what the server sent. The error
// is that the server accepts no connection.
func (in *input) send() (answer []byte, err error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: in.from}, Timeout: proxytest.Guard}
	c, err := dialer.Dial("tcp", in.address)
	if err != nil {
		return nil, err
	}
	conn := c.(*net.TCPConn)
	defer conn.Close()
	buf := make([]byte, 32<<10)
	for i, segment := range in.segments {
		if i > 0 { // give the server time to read the previous segment
			answer, _ = readFor(conn, time.Millisecond, buf, answer)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(in.wait))
		if _, err := io.WriteString(conn, segment); err != nil {
			break // the server has closed the connection
		}
	}
	switch in.finish {
	case staysOpen:
	case closesItsHalf:
		_ = conn.CloseWrite()
	case resetsTheConnection:
		_ = conn.SetLinger(0)
	}
	end := time.Now().Add(in.wait)
	for err = nil; err == nil && strings.Count(string(answer), "HTTP/1.") < in.answers; {
		answer, err = readFor(conn, time.Until(end), buf, answer)
	}
	return answer, nil
}

func readFor(conn net.Conn, wait time.Duration, buf, answer []byte) ([]byte, error) {
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	n, err := conn.Read(buf)
	if len(answer) < 4*len(buf) {
		answer = append(answer, buf[:n]...)
	}
	return answer, err
}

var statusLine = regexp.MustCompile(`^HTTP/1\.[01] [1-9][0-9]{2} `)

// checkAnswer checks the first bytes that the server sent.
func checkAnswer(sent string, answer []byte) error {
	switch {
	case len(answer) == 0, statusLine.Match(answer):
		return nil
	case sent[0] == 5 && answer[0] == 5: // RFC 1928 §3
		return nil
	case sent[0] == 4 && answer[0] == 0: // the reply of SOCKS4
		return nil
	case strings.HasPrefix(sent, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"): // a frame of HTTP/2
		return nil
	}
	return fmt.Errorf("the answer begins with %.20q", answer)
}

// count counts the first bytes of responses.
func (m *mutationRun) count(answer []byte) {
	kind := "none"
	switch {
	case len(answer) > 12 && answer[0] == 'H':
		kind = string(answer[9:12])
	case len(answer) > 0:
		kind = fmt.Sprintf("%.2x", answer[:1])
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.first[kind]++
}

// checkLog checks what Caddy logged since the previous check. net/http recovers
// from a handler's panic and logs it.
func (m *mutationRun) checkLog() {
	m.T.Helper()
	for line := range strings.Lines(proxytest.Captured.Take()) {
		if len(testlog.Lines(line, proxytest.Fields{"logger": "http.log.error"})) > 0 {
			continue // Caddy logs the URL of a request that it rejects itself
		}
		for _, text := range []string{"panic", proxytest.AlicePassword, proxytest.BobPassword} {
			if strings.Contains(line, text) {
				m.T.Errorf("%q in the log: %s", text, line)
			}
		}
	}
}

// stillServes sends plain requests to both doors.
func (m *mutationRun) stillServes() {
	m.T.Helper()
	const user = "alice-country-de" // which leaves by the exits that do not misbehave
	res := m.Forwarded(user)
	require.Equal(m.T, http.StatusOK, res.Status, res.Body)
	_, err := m.TryExit(user)
	require.NoError(m.T, err)
	c := m.Dial()
	c.Send(proxytest.SocksText(user, proxytest.AlicePassword, "\x01\x7f\x00\x00\x01"+socksPort(m.good)))
	c.Expect("\x05\x02\x01\x00\x05\x00")
	c.Close()
	// Most upstreams misbehave, so most sessions have one of those.
	session := 0
	proxytest.Eventually(m.T, "the load balancer serves", func() bool {
		session++
		c := proxytest.Dial(m.T, m.balancer)
		defer c.Close()
		c.Send(fmt.Sprintf("GET / HTTP/1.1\r\nHost: x\r\nX-S: still-%d\r\n\r\n", session))
		res, err := http.ReadResponse(c.Reader, nil)
		return err == nil && res.StatusCode == http.StatusOK
	})
}

func socksPort(address string) string {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return string([]byte{byte(n >> 8), byte(n)})
}

// becomesIdle reloads the configuration, because the previous one then closes its
// idle connections.
func (m *mutationRun) becomesIdle() {
	m.T.Helper()
	require.NoError(m.T, m.Reload(m.Config.Block))
}
