// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package redis_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/sessionstore"
	"github.com/caddy-sticky/caddy-sticky/sessionstore/redis"
)

const soon, often = 20 * time.Second, 10 * time.Millisecond

func keyOf(id string) sessionstore.Key { return sessionstore.KeyOf("test", id) }

func claimed(t testing.TB, r *redis.Store, id, target string) sessionstore.Session {
	t.Helper()
	s, won, err := r.Claim(t.Context(), binding(id, target))
	require.NoError(t, err)
	require.True(t, won)
	return s
}

// eventuallyClaims waits until the store is itself again.
func eventuallyClaims(t testing.TB, r *redis.Store, id string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, _, err := r.Claim(t.Context(), binding(id, "x"))
		return err == nil
	}, soon, often)
}

func redisCLI(t testing.TB, server *peer.Process, args ...string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(server.Address)
	out, err := exec.Command(peer.Need(t, "redis-cli"), append([]string{"-p", port}, args...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.TrimSpace(string(out))
}

func portOf(server *peer.Process) int {
	_, port, _ := net.SplitHostPort(server.Address)
	n, _ := strconv.Atoi(port)
	return n
}

func TestTwoStoresOnOneServerShareSessions(t *testing.T) {
	server := peer.Redis(t)
	one, two := oneOf(t, server, ""), oneOf(t, server, "")
	s := claimed(t, one, "a", "x")
	got, err := two.Get(t.Context(), s.Key)
	require.NoError(t, err)
	require.True(t, got.Same(s))
	holder, won, err := two.Claim(t.Context(), binding("a", "y"))
	require.NoError(t, err)
	require.False(t, won)
	require.True(t, holder.Same(s))

	moved, swapped, err := two.Replace(t.Context(), s, binding("a", "y"))
	require.NoError(t, err)
	require.True(t, swapped)
	require.Eventually(t, func() bool {
		got, err := one.Get(t.Context(), s.Key)
		return err == nil && got.Same(moved)
	}, soon, time.Millisecond, "a move is seen")
	require.Eventually(t, func() bool {
		n, err := one.Count(t.Context(), s.Scope, "y")
		return err == nil && n == 1
	}, soon, often)

	require.NoError(t, one.End(t.Context(), s.Key, time.Time{}))
	require.Eventually(t, func() bool {
		got, err := two.Get(t.Context(), s.Key)
		return err == nil && !got.Ended.IsZero()
	}, soon, time.Millisecond, "an end is seen")
}

func TestKeptSessionSendsNoCommand(t *testing.T) {
	server := peer.Redis(t)
	one, two := oneOf(t, server, ""), oneOf(t, server, "")
	s := claimed(t, one, "a", "x")
	for range 2 { // the first one may meet the invalidation by the claim
		_, err := two.Get(t.Context(), s.Key)
		require.NoError(t, err)
	}

	conn, err := net.Dial("tcp", server.Address)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("MONITOR\r\n"))
	require.NoError(t, err)
	commands := bufio.NewScanner(conn)
	require.True(t, commands.Scan())
	require.Equal(t, "+OK", commands.Text())

	for range 1000 {
		for _, r := range []*redis.Store{one, two} {
			got, err := r.Get(t.Context(), s.Key)
			require.NoError(t, err)
			require.True(t, got.Same(s))
			for _, use := range []sessionstore.Use{sessionstore.Looked, sessionstore.Succeeded} {
				_, err = r.Touch(t.Context(), s, time.Now(), use)
				require.NoError(t, err)
			}
		}
	}
	claimed(t, two, "b", "x") // what was sent before would stand before it
	var heard []string
	for commands.Scan() {
		if line := commands.Text(); strings.Contains(line, `sticky:s{`) && !strings.Contains(line, " lua]") {
			heard = append(heard, line)
			break
		}
	}
	require.Len(t, heard, 1)
	require.Contains(t, strings.ToLower(heard[0]), `"evalsha"`, "one round trip")
	require.Contains(t, heard[0], `\x00x`, "it is the claim")
}

func TestRedisLookupDoesNotAllocate(t *testing.T) {
	r := oneOf(t, peer.Redis(t), "")
	s := claimed(t, r, "a", "x")
	ctx := t.Context()
	allocs := testing.AllocsPerRun(1000, func() {
		if got, err := r.Get(ctx, s.Key); err != nil || !got.Same(s) {
			t.Fatal("lookup failed")
		}
	})
	require.Less(t, allocs, 1.0)
}

func TestKnownSessionsGoOnWhileRedisIsAway(t *testing.T) {
	for _, onError := range []sessionstore.Fallback{sessionstore.FallbackHash, sessionstore.FallbackRefuse} {
		t.Run(string(onError), func(t *testing.T) {
			server := peer.Redis(t)
			r := startRedis(t, &redis.Store{Addresses: []string{server.Address}, Timeout: patient, OnError: onError})
			s := claimed(t, r, "a", "x")
			server.Kill()

			require.Eventually(t, func() bool {
				_, err := r.Get(t.Context(), keyOf("unknown"))
				return err != nil
			}, soon, often)
			_, err := r.Get(t.Context(), keyOf("unknown"))
			require.ErrorIs(t, err, sessionstore.ErrUnavailable)
			_, _, err = r.Claim(t.Context(), binding("b", "x"))
			require.ErrorIs(t, err, sessionstore.ErrUnavailable)
			require.Equal(t, onError, r.Fallback(err))
			require.Equal(t, onError == sessionstore.FallbackHash, !r.Missed().IsZero())
			got, err := r.Get(t.Context(), s.Key)
			require.NoError(t, err)
			require.True(t, got.Same(s), "what is known goes on")

			// It comes back, having forgotten all.
			peer.RedisAt(t, portOf(server))
			eventuallyClaims(t, r, "b")
			got, err = r.Get(t.Context(), s.Key)
			require.NoError(t, err)
			require.Zero(t, got, "what was known is asked for again")
			require.Eventually(t, func() bool {
				n, err := r.Len(t.Context())
				return err == nil && n == 1
			}, soon, often, "so are counts")
		})
	}
}

func TestChangesThatWereMissedAreSeenAfterwards(t *testing.T) {
	server := peer.Redis(t)
	one, two := oneOf(t, server, ""), oneOf(t, server, "")
	s := claimed(t, one, "a", "x")
	_, err := two.Get(t.Context(), s.Key)
	require.NoError(t, err)
	redisCLI(t, server, "client", "kill", "type", "normal")
	eventuallyClaims(t, one, "other")
	eventuallyClaims(t, two, "other")
	require.Eventually(t, func() bool {
		_, swapped, err := one.Replace(t.Context(), s, binding("a", "y"))
		return err == nil && swapped
	}, soon, often)
	require.Eventually(t, func() bool {
		got, err := two.Get(t.Context(), s.Key)
		return err == nil && got.Target == "y"
	}, soon, often)
}

// Calls are cancelled and connections break at any moment: answers are lost, of
// scripts that ran and of some that did not.
func TestCountsHealAfterLostAnswers(t *testing.T) {
	server := peer.Redis(t)
	r, other := oneOf(t, server, ""), oneOf(t, server, "")
	eventuallyClaims(t, r, "first")
	eventuallyClaims(t, other, "first")
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for c := range 8 {
		callers.Go(func() {
			store := []*redis.Store{r, other}[c%2]
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithCancel(context.Background())
				timer := time.AfterFunc(time.Duration(mathrand.IntN(1000))*time.Microsecond, cancel)
				id := fmt.Sprint(mathrand.IntN(200))
				held, _, err := store.Claim(ctx, binding(id, fmt.Sprint("t", n%3)))
				switch {
				case err != nil:
				case n%5 == 0:
					_ = store.End(ctx, held.Key, time.Time{})
				case n%2 == 0:
					_, _, _ = store.Replace(ctx, held, binding(id, fmt.Sprint("t", n%3)))
				}
				timer.Stop()
				cancel()
			}
		})
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		redisCLI(t, server, "client", "kill", "type", "normal")
	}
	close(stop)
	callers.Wait()
	eventuallyClaims(t, r, "last")
	eventuallyClaims(t, other, "last")

	want, held := make(map[string]int), make(map[sessionstore.Key]string)
	for s, err := range r.All(t.Context()) {
		require.NoError(t, err)
		if s.Target != "" {
			want[s.Target]++
			held[s.Key] = s.Target
		}
	}
	require.NotEmpty(t, want)
	for _, store := range []*redis.Store{r, other} {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			got := make(map[string]int)
			for target := range want {
				got[target], _ = store.Count(t.Context(), "lb/test", target)
			}
			assert.Equal(c, want, got)
		}, 2*soon, often)
		for i := range 200 {
			key := keyOf(fmt.Sprint(i))
			got, err := store.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, held[key], got.Target, "nor is anything remembered that is over")
		}
	}
}

func TestNothingHangsWhileRedisIsPaused(t *testing.T) {
	server := peer.Redis(t)
	const timeout = 250 * time.Millisecond
	r := startRedis(t, &redis.Store{Addresses: []string{server.Address}, Prefix: "paused:"})
	eventuallyClaims(t, r, "a")
	_, err := r.Get(t.Context(), keyOf("a"))
	require.NoError(t, err)
	server.Signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { server.Signal(t, syscall.SIGCONT) })

	var calls []time.Duration
	for i := range 200 {
		begin := time.Now()
		_, _, err := r.Claim(t.Context(), binding(fmt.Sprint("new", i), "x"))
		require.ErrorIs(t, err, sessionstore.ErrUnavailable)
		calls = append(calls, time.Since(begin))
		got, err := r.Get(t.Context(), keyOf("a"))
		require.NoError(t, err)
		require.Equal(t, "x", got.Target)
	}
	t.Logf("the first call took %s, the slowest of the others %s", calls[0], slices.Max(calls[1:]))
	// Ten timeouts, because machines are busy. Rueidis without a breaker would
	// wait for each call, or for a connection as long as the system does.
	require.Less(t, calls[0], 10*timeout, "waits for the timeout")
	slices.Sort(calls)
	require.Less(t, calls[len(calls)*9/10], timeout, "most do not wait at all")
	require.Less(t, calls[len(calls)-1], 10*timeout)
	server.Signal(t, syscall.SIGCONT)
	eventuallyClaims(t, r, "b")
}

func TestServerThatIsAwayAtFirst(t *testing.T) {
	port := peer.Port(t)
	r := startRedis(t, &redis.Store{
		Addresses: []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}, Password: "hush", Prefix: "later:",
	})
	_, err := r.Get(t.Context(), keyOf("a"))
	require.ErrorIs(t, err, sessionstore.ErrUnavailable)
	require.NotContains(t, err.Error(), "hush")
	peer.RedisAt(t, port, "--requirepass", "hush")
	eventuallyClaims(t, r, "a")
}

// Calls come all the time while the first connection that succeeds is made.
func TestCallsWhileTheFirstConnectionIsMade(t *testing.T) {
	port := peer.Port(t)
	r := startRedis(t, &redis.Store{
		Addresses: []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}, Prefix: "meanwhile:",
	})
	_, err := r.Get(t.Context(), keyOf("a"))
	require.ErrorIs(t, err, sessionstore.ErrUnavailable)
	peer.RedisAt(t, port)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	var callers sync.WaitGroup
	for caller := range 4 {
		callers.Go(func() {
			for n := 0; ; n++ {
				_, _, err := r.Claim(ctx, binding(fmt.Sprint(caller, n), "x"))
				if err == nil || !assert.ErrorIs(t, err, sessionstore.ErrUnavailable) {
					return
				}
			}
		})
	}
	callers.Wait()
	eventuallyClaims(t, r, "b")
}

func TestServerThatAcceptsAndSaysNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // connections wait in its backlog
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	r := startRedis(t, &redis.Store{Addresses: []string{ln.Addr().String()}})
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	for range 5 {
		_, err = r.Get(ctx, keyOf("a"))
		require.ErrorIs(t, err, sessionstore.ErrUnavailable)
	}
}

func TestFullServerKeepsWhatItHas(t *testing.T) {
	server := peer.Redis(t, "--maxmemory-policy", "noeviction")
	r := oneOf(t, server, "")
	s := claimed(t, r, "a", "x")
	other := oneOf(t, server, "")
	redisCLI(t, server, "config", "set", "maxmemory", "1mb")
	_, _, err := r.Claim(t.Context(), binding("b", "x"))
	require.ErrorIs(t, err, sessionstore.ErrUnavailable)
	require.ErrorContains(t, err, "OOM")
	got, err := other.Get(t.Context(), s.Key)
	require.NoError(t, err, "reads go on")
	require.True(t, got.Same(s))
	n, err := r.Len(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n, "nothing is half done")
	redisCLI(t, server, "config", "set", "maxmemory", "0")
	claimed(t, r, "b", "x")
}

// leastRights is in docs/caddyfile.md.
const leastRights = `~sticky:* resetchannels -@all +ping +hello +client|tracking +client|setname +cluster|slots +evalsha +eval ` +
	`+get +mget +set +exists +scan +zadd +zrem +zrangebyscore +hincrby +hget +hgetall +hdel`

func TestLeastRightsAreEnough(t *testing.T) {
	server := peer.Redis(t)
	redisCLI(t, server, append([]string{"acl", "setuser", "caddy", "on", ">hush"}, strings.Fields(leastRights)...)...)
	redisCLI(t, server, "acl", "setuser", "default", "off")
	t.Setenv("STICKY_TEST_PASSWORD", "hush")
	r := startRedis(t, &redis.Store{
		Addresses: []string{server.Address}, Username: "caddy", Password: "{env.STICKY_TEST_PASSWORD}", Timeout: patient,
	})
	s := claimed(t, r, "a", "x")
	_, err := r.Touch(t.Context(), s, time.Now(), sessionstore.Failed)
	require.NoError(t, err)
	_, _, err = r.Replace(t.Context(), s, binding("a", "y"))
	require.NoError(t, err)
	listed := 0
	for _, err := range r.All(t.Context()) {
		require.NoError(t, err)
		listed++
	}
	require.Equal(t, 1, listed)
	require.NoError(t, r.End(t.Context(), s.Key, time.Time{}))
}

func TestWrongPasswordIsNotTold(t *testing.T) {
	server := peer.Redis(t, "--requirepass", "right")
	r := startRedis(t, &redis.Store{Addresses: []string{server.Address}, Password: "wrong-secret"})
	require.Eventually(t, func() bool {
		_, err := r.Get(t.Context(), keyOf("a"))
		require.ErrorIs(t, err, sessionstore.ErrUnavailable)
		require.NotContains(t, err.Error(), "wrong-secret")
		return strings.Contains(err.Error(), "WRONGPASS")
	}, soon, often)
}

func TestDatabaseAndPrefixKeepStoresApart(t *testing.T) {
	server := peer.Redis(t)
	for i, r := range []*redis.Store{{}, {Database: 3}, {Prefix: "other:"}} {
		r.Addresses, r.Timeout = []string{server.Address}, patient
		startRedis(t, r)
		claimed(t, r, "a", fmt.Sprint(i))
	}
	require.Equal(t, "3", redisCLI(t, server, "-n", "3", "dbsize"), "a session and its tag's two counts")
}

// certificate writes a certificate for 127.0.0.1, and its key.
func certificate(t testing.TB) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return cert, key
}

func TestRedisByTLS(t *testing.T) {
	cert, key := certificate(t)
	port := peer.Port(t)
	peer.Redis(t, "--tls-port", strconv.Itoa(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	r := startRedis(t, &redis.Store{Addresses: []string{address}, TLS: &redis.TLS{CA: cert}, Timeout: patient})
	claimed(t, r, "a", "x")
	stranger := startRedis(t, &redis.Store{Addresses: []string{address}, TLS: new(redis.TLS), Timeout: patient})
	_, err := stranger.Get(t.Context(), keyOf("a"))
	require.ErrorIs(t, err, sessionstore.ErrUnavailable, "its certificate is not trusted")
}

func TestClusterServesAllSessions(t *testing.T) {
	addresses, servers := make([]string, 3), make([]*peer.Process, 3)
	for i := range addresses {
		// By default the nodes speak to each other at a port that is 10000 higher,
		// which an outgoing connection of any program may have.
		servers[i] = peer.Redis(t, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(peer.Port(t)))
		addresses[i] = servers[i].Address
	}
	args := append([]string{"--cluster", "create"}, addresses...)
	out, err := exec.Command(peer.Need(t, "redis-cli"), append(args, "--cluster-yes")...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, server := range servers { // each learns by itself that the cluster is complete
		require.Eventually(t, func() bool {
			return strings.Contains(redisCLI(t, server, "cluster", "info"), "cluster_state:ok")
		}, soon, often)
	}

	one := startRedis(t, &redis.Store{Addresses: addresses, Timeout: patient})
	two := startRedis(t, &redis.Store{Addresses: addresses, Timeout: patient + 1})
	eventuallyClaims(t, one, "first")
	eventuallyClaims(t, two, "first")
	for i := range 100 {
		s := claimed(t, one, fmt.Sprint(i), "x")
		got, err := two.Get(t.Context(), s.Key)
		require.NoError(t, err)
		require.True(t, got.Same(s))
		moved, swapped, err := two.Replace(t.Context(), s, binding(fmt.Sprint(i), "y"))
		require.NoError(t, err)
		require.True(t, swapped)
		require.Eventually(t, func() bool {
			got, err := one.Get(t.Context(), s.Key)
			return err == nil && got.Same(moved)
		}, soon, time.Millisecond)
	}
	require.Eventually(t, func() bool {
		n, err := one.Count(t.Context(), "lb/test", "y")
		return err == nil && n == 100
	}, soon, often)
	listed := 0
	for _, err := range one.All(t.Context()) {
		require.NoError(t, err)
		listed++
	}
	require.Equal(t, 101, listed)
}

func TestSentinelFailOver(t *testing.T) {
	master := peer.Redis(t)
	replica := peer.Redis(t, "--replicaof", "127.0.0.1", strconv.Itoa(portOf(master)))
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %d 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n", portOf(master))
	require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
	program := peer.Need(t, "redis-server")
	sentinel := peer.Run(t, func(port int) *exec.Cmd {
		return exec.Command(program, config, "--sentinel", "--port", strconv.Itoa(port), "--bind", "127.0.0.1")
	})
	require.Eventually(t, func() bool {
		return strings.Contains(redisCLI(t, sentinel, "info", "sentinel"), "slaves=1") &&
			strings.Contains(redisCLI(t, replica, "info", "replication"), "master_link_status:up")
	}, 2*soon, 10*often)

	r := startRedis(t, &redis.Store{Addresses: []string{sentinel.Address}, Sentinel: "main", Timeout: caddy.Duration(2 * time.Second)})
	eventuallyClaims(t, r, "a")
	s, err := r.Get(t.Context(), keyOf("a"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return redisCLI(t, replica, "dbsize") != "0" }, soon, often)
	master.Kill()
	got, err := r.Get(t.Context(), s.Key)
	require.NoError(t, err)
	require.True(t, got.Same(s), "it goes on meanwhile")
	require.Eventually(t, func() bool {
		_, _, err := r.Claim(t.Context(), binding("b", "x"))
		return err == nil
	}, 3*soon, 10*often, "the replica takes over")
	got, err = r.Get(t.Context(), s.Key)
	require.NoError(t, err)
	require.True(t, got.Same(s), "with what it has")
}
