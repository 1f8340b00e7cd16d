// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/peer"
	"github.com/caddy-sticky/caddy-sticky/internal/proxytest"
)

// clientWorld is the site of docs/clients.md, and what its clients ask for.
type clientWorld struct {
	*proxytest.World
	names *strings.Replacer // of docs/clients.md, to those of this world
	dir   string            // holds what clients trust
}

func newClientWorld(t *testing.T, lines ...string) *clientWorld {
	t.Helper()
	dir := t.TempDir()
	identity := authority(t, dir)
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, proxytest.HostOf(r.RemoteAddr))
	})
	secure := httptest.NewUnstartedServer(answer)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	origin := proxytest.OriginOf(t, answer)

	// The origins are at a name, which the proxy resolves.
	block := strings.Join(append(lines, proxytest.Alice, proxytest.FourExits, proxytest.Loopback, "allow localhost"), "\n")
	s := proxytest.Wrapped(block, "sticky_socks5")
	secureProxy := peer.Port(t)
	s.Sites = fmt.Sprintf(`:%d {
	bind 127.0.0.1
	tls %s/cert.pem %[2]s/key.pem
	sticky_proxy {
		%[3]s
	}
}`, secureProxy, dir, block)
	w := &clientWorld{World: proxytest.NewWorldWith(t, origin, s), dir: dir}
	curlrc := fmt.Sprintf("silent\nshow-error\ncacert = %s/ca.pem\nproxy-cacert = %[1]s/ca.pem\n", dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".curlrc"), []byte(curlrc), 0o600))
	port := func(address string) string { return address[strings.LastIndexByte(address, ':'):] }
	w.names = strings.NewReplacer(
		"proxy.example:8080", "localhost"+port(w.Proxy),
		"proxy.example:8443", "localhost:"+strconv.Itoa(secureProxy),
		"http://ip.example", "http://localhost"+port(origin),
		"https://ip.example", "https://localhost"+port(secure.Listener.Addr().String()),
	)
	return w
}

// of is the same world for a part of its test.
func (w *clientWorld) of(t *testing.T) *clientWorld {
	t.Helper()
	same, inner := *w, *w.World
	inner.T = t
	same.World = &inner
	return &same
}

// Exit is the exit that this user has.
func (w *clientWorld) Exit(user string) string {
	w.T.Helper()
	return strings.TrimSpace(w.World.Exit(user))
}

// authority makes an authority that nobody knows but the programs that are told
// of dir/ca.pem, and a certificate for localhost, in dir/cert.pem and key.pem.
func authority(t *testing.T, dir string) tls.Certificate {
	t.Helper()
	issue := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		if parent == nil {
			parent, signer = template, key
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		require.NoError(t, err)
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return cert, key
	}
	ca, caKey := issue(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority of tests"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	leaf, key := issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: ca.Raw},
		"cert.pem": {Type: "CERTIFICATE", Bytes: leaf.Raw},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: der},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

// run lets a program read this text, and returns what it says, also where it
// fails.
func (w *clientWorld) run(text, program string, arguments ...string) (said, complained string) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(w.T.Context(), proxytest.Guard)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Dir, cmd.Stdin = nodeDir, strings.NewReader(w.names.Replace(text))
	for _, variable := range os.Environ() { // an empty one is a choice for some programs
		if name, _, _ := strings.Cut(strings.ToLower(variable), "="); !strings.HasSuffix(name, "_proxy") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	authority := filepath.Join(w.dir, "ca.pem")
	cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+authority, "NODE_EXTRA_CA_CERTS="+authority, "CURL_HOME="+w.dir)
	var out, err strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &err
	_ = cmd.Run()
	require.NoError(w.T, ctx.Err(), "%s hangs: %s", program, err.String())
	return out.String(), err.String()
}

const nodeDir = "../testdata/node" // with the packages that scripts import

// interpreters run the blocks of docs/clients.md, by what the block is in.
var interpreters = map[string]func(w *clientWorld, text string) (said, complained string){
	"sh": func(w *clientWorld, text string) (string, string) {
		peer.Need(w.T, "curl")
		return w.run(text, peer.Need(w.T, "sh"))
	},
	"python": func(w *clientWorld, text string) (string, string) {
		return w.run(text, peer.Need(w.T, "python3"), "-")
	},
	"js": func(w *clientWorld, text string) (string, string) {
		return w.run(text, peer.Node(w.T, nodeDir), "--input-type=module", "-")
	},
}

var (
	address = regexp.MustCompile(`127\.0\.0\.1[1-4]`)
	// Refusal is how clients tell that the proxy refused them.
	Refusal = regexp.MustCompile(`407|credentials are missing or wrong|NotAllowed|\(2\)`)
)

// blocksOfTheDocumentation returns the code in these languages, each as what was
// found, the language and the text.
func blocksOfTheDocumentation(t *testing.T, languages string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../docs/clients.md")
	require.NoError(t, err)
	return regexp.MustCompile("(?s)```("+languages+")\n(.*?)```").FindAllStringSubmatch(string(text), -1)
}

// C10: the site of docs/clients.md takes requests for every host.
func TestSiteOfTheDocumentationIsForEveryHost(t *testing.T) {
	blocks := blocksOfTheDocumentation(t, "caddyfile")
	require.Len(t, blocks, 1)
	t.Setenv("ALICE_HASH", strings.Fields(proxytest.Alice)[2])
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(blocks[0][2]), nil)
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, 2, strings.Count(string(adapted), `"handler":"sticky_proxy"`))
	require.NotContains(t, string(adapted), `"match"`)
	require.Contains(t, string(adapted), `"automate":["proxy.example"]`)
}

// What docs/clients.md says is what the clients do: every request of a session
// leaves through its exit, whichever client makes it, and none leaves with a
// wrong password.
func TestClientsOfTheDocumentation(t *testing.T) {
	blocks := blocksOfTheDocumentation(t, "sh|python|js")
	require.Len(t, blocks, 6)

	w := newClientWorld(t)
	exits := map[string]string{"abc": w.Exit("alice-session-abc"), "def": w.Exit("alice-session-def")}
	require.NotEqual(t, exits["abc"], exits["def"])
	for i, block := range blocks {
		t.Run(fmt.Sprint(block[1], " ", i+1), func(t *testing.T) {
			w := w.of(t)
			run, text := interpreters[block[1]], block[2]
			requests := strings.Count(text, "://ip.example/")
			require.Positive(t, requests)
			for session, exit := range exits {
				said, complained := run(w, strings.ReplaceAll(text, "session-abc", "session-"+session))
				require.Equal(t, slices.Repeat([]string{exit}, requests), strings.Fields(said), complained)
			}
			said, complained := run(w, strings.ReplaceAll(text, "abc:secret", "abc:wrong"))
			require.NotRegexp(t, address, said)
			require.Regexp(t, Refusal, said+complained)
		})
	}
}

// The README's time line: many connections, one exit, then another one. Each
// request is a process of its own, and so a connection of its own.
func TestCurlSeesTheTimeLine(t *testing.T) {
	const ttl = 3 * time.Second
	w := newClientWorld(t, "ttl 3s")
	lines := []string{
		"curl -x http://alice-session-abc:secret@proxy.example:8080 http://ip.example/",
		"curl -x http://alice-session-abc:secret@proxy.example:8080 https://ip.example/",
		"curl -x https://alice-session-abc:secret@proxy.example:8443 https://ip.example/",
		"curl -x socks5h://alice-session-abc:secret@proxy.example:8080 https://ip.example/",
	}
	ask := func(line string) string {
		said, complained := interpreters["sh"](w, line)
		exit := strings.TrimSpace(said)
		require.Regexp(t, address, exit, complained)
		return exit
	}
	earliest := time.Now() // that the session may have begun
	first := ask(lines[0])
	latest := time.Now()
	for i := 1; ; i++ {
		before := time.Now()
		if ask(lines[i%len(lines)]) != first {
			break
		}
		// A session that is used all the time is over all the same.
		require.Less(t, before.Sub(latest), ttl+time.Second, "the ttl was prolonged")
	}
	require.GreaterOrEqual(t, time.Since(earliest), ttl, "the session ended early")
}
