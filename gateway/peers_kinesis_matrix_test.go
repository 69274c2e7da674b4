//go:build peers

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kinesis"
)

// The clients of others against a running gateway: every operation that each
// offers, its results checked, its refusals by their code. `make test-peers`
// brings the programs and names in the environment what it found:
//
//	FOREBAY_NODE_MODULES  where @aws-sdk/client-kinesis is; "" leaves the columns out
//	FOREBAY_AWS           the AWS CLI, version 2
//	FOREBAY_PYTHONS       pythons that have botocore, with : between them

const kinesisConfig = plainConfig + `
[[kinesis.key]]
access_key = "` + peerAccessKey + `"
secret_key = "` + peerSecretKey + `"
`

// A peer is a column of the matrix.
type peer struct {
	name  string
	start func(t *testing.T) apiClient
}

// A matrix is what came of every operation (a row) with every client.
type matrix struct {
	mu    sync.Mutex
	rows  []string
	peers []string
	cells map[[2]string]string
}

const failed = "FAIL"

// put enters a cell; what failed stays failed.
func (m *matrix) put(row, peer, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.rows, row) {
		m.rows = append(m.rows, row)
	}
	if m.cells[[2]string{row, peer}] != failed {
		m.cells[[2]string{row, peer}] = value
	}
}

func (m *matrix) String() string {
	var b strings.Builder
	names := map[string]string{}
	width := make([]int, len(m.peers))
	for i, p := range m.peers {
		width[i] = len(p)
		for _, row := range m.rows {
			width[i] = max(width[i], len(short(m.cells[[2]string{row, p}])))
		}
	}
	line := func(first string, cell func(string) string) {
		fmt.Fprintf(&b, "%-52s", first)
		for i, p := range m.peers {
			fmt.Fprintf(&b, " %-*s", width[i], cell(p))
		}
		b.WriteByte('\n')
	}
	line("", func(p string) string { return p })
	for _, row := range m.rows {
		line(row, func(p string) string {
			v := m.cells[[2]string{row, p}]
			names[short(v)] = v
			return short(v)
		})
	}
	for _, what := range []string{"ok", "refused as AWS does", "not offered by the client", "failed"} {
		line(what, func(p string) string { return fmt.Sprint(m.count(p, what)) })
	}
	return b.String()
}

// short leaves out what every name of an error ends in.
func short(v string) string { return strings.TrimSuffix(v, "Exception") }

func (m *matrix) count(peer, what string) int {
	n := 0
	for k, v := range m.cells {
		if k[1] != peer {
			continue
		}
		kind := "refused as AWS does"
		switch v {
		case "ok":
			kind = "ok"
		case "-":
			kind = "not offered by the client"
		case failed:
			kind = "failed"
		}
		if kind == what {
			n++
		}
	}
	return n
}

// A column is one client's way through the matrix.
type column struct {
	*testing.T
	c       apiClient
	peer    string
	table   *matrix
	stream  string // of this client
	arn     string // of the stream
	began   time.Time
	witness *kinesis.Client // puts while the client is subscribed
}

func row(op, variant string) string {
	if variant != "" {
		return op + ": " + variant
	}
	return op
}

func (r *column) call(op string, in obj) answer {
	r.Helper()
	k := call{Service: "kinesis", Op: op, In: in}
	if name, ok := strings.CutPrefix(op, "firehose:"); ok {
		k.Service, k.Op = "firehose", name
	}
	return r.c.do(r.T, k)
}

// ok makes a call that must succeed; nil if the client has no such operation
// or if it failed.
func (r *column) ok(op, variant string, in obj) obj {
	r.Helper()
	return r.took(row(op, variant), r.call(op, in))
}

func (r *column) took(row string, a answer) obj {
	r.Helper()
	switch {
	case a.Absent:
		r.table.put(row, r.peer, "-")
		return nil
	case a.Code != "":
		r.table.put(row, r.peer, failed)
		r.Errorf("%s: %s: %s", row, a.Code, a.Message)
		return nil
	}
	r.table.put(row, r.peer, "ok")
	if a.Out == nil {
		return obj{}
	}
	return a.Out
}

// refused makes a call that must fail with a code. With typed the SDK must
// have made its own type of it.
func (r *column) refused(op, variant, code string, in obj) {
	r.Helper()
	r.refusal(row(op, variant), code, r.call(op, in))
}

func (r *column) refusal(row, code string, a answer) {
	r.Helper()
	switch {
	case a.Absent:
		r.table.put(row, r.peer, "-")
	case !slices.Contains(strings.Split(code, "|"), a.Code):
		r.table.put(row, r.peer, failed)
		r.Errorf("%s: want %s, got %q %q", row, code, a.Code, a.Message)
	case slices.Contains(typedCodes, a.Code) && !a.Typed:
		r.table.put(row, r.peer, failed)
		r.Errorf("%s: the client made no type of its own of %s", row, code)
	case a.Message == "":
		r.table.put(row, r.peer, failed)
		r.Errorf("%s: %s without a word", row, code)
	default:
		r.table.put(row, r.peer, a.Code)
	}
}

// typedCodes are the errors that every SDK's model has had from the start.
var typedCodes = []string{
	"ResourceNotFoundException", "ResourceInUseException", "InvalidArgumentException", "LimitExceededException",
	"ExpiredIteratorException", "ProvisionedThroughputExceededException",
}

// check marks a row as failed unless ok.
func (r *column) check(ok bool, row, format string, args ...any) {
	r.Helper()
	if !ok {
		r.table.put(row, r.peer, failed)
		r.Errorf(row+": "+format, args...)
	}
}

func list(o obj, name string) []any { v, _ := o[name].([]any); return v }

func str(o obj, name string) string { v, _ := o[name].(string); return v }

func num(o obj, name string) float64 {
	if v, ok := o[name].(float64); ok {
		return v
	}
	return -1
}

func sub(o obj, name string) obj { v, _ := o[name].(obj); return v }

// at reads a time of an answer.
func at(o obj, name string) time.Time {
	v, err := time.Parse(time.RFC3339Nano, str(o, name))
	if err != nil {
		return time.Time{}
	}
	return v
}

// certificate makes one for 127.0.0.1 that is its own root.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "forebay peers"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pemCert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, b := range map[string][]byte{cert: pemCert, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk})} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pemCert)
	return cert, key, pool
}

// startTLSGateway is startGateway with a certificate.
func startTLSGateway(t *testing.T) (g *gw, cert string, pool *x509.CertPool) {
	t.Helper()
	cert, key, pool := certificate(t)
	text := strings.Replace(kinesisConfig, `listen = "KINESIS"`, "listen = \"KINESIS\"\ntls_cert = \""+filepath.ToSlash(cert)+"\"\ntls_key = \""+filepath.ToSlash(key)+"\"", 1)
	return startGateway(t, "edge-tls", text), cert, pool
}

func trusting(pool *x509.CertPool) *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
}

func peerEnv(extra ...string) []string {
	return append([]string{
		"AWS_ACCESS_KEY_ID=" + peerAccessKey, "AWS_SECRET_ACCESS_KEY=" + peerSecretKey, "AWS_DEFAULT_REGION=us-east-1", "AWS_REGION=us-east-1",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
	}, extra...)
}

// kinesisPeers lists the columns that this machine has.
func kinesisPeers(t *testing.T, plain, secure *gw, cert string, pool *x509.CertPool) []peer {
	t.Helper()
	http1, https := "http://"+plain.kinesis, "https://"+secure.kinesis
	peers := []peer{
		{"go h1", func(*testing.T) apiClient { return goSDK{endpoint: http1, clients: map[[2]string]any{}} }},
		{"go h2 tls", func(t *testing.T) apiClient {
			return goSDK{endpoint: https, http: h2Client(t, trusting(pool)), clients: map[[2]string]any{}}
		}},
	}
	peers = append(peers, peer{"cbor h1", func(*testing.T) apiClient {
		return rawCBOR{endpoint: http1, http: &http.Client{Transport: &http.Transport{}}}
	}}, peer{"cbor h2 tls", func(t *testing.T) apiClient {
		return rawCBOR{endpoint: https, http: h2Client(t, trusting(pool))}
	}})
	if cli := os.Getenv("FOREBAY_AWS"); cli != "" {
		peers = append(peers, peer{"awscli", func(*testing.T) apiClient { return awsCLI{program: cli, endpoint: http1, env: peerEnv()} }})
	}
	for _, python := range strings.FieldsFunc(os.Getenv("FOREBAY_PYTHONS"), func(r rune) bool { return r == ':' }) {
		out, err := exec.CommandContext(t.Context(), python, "-c", "import botocore; print(botocore.__version__)").Output()
		if err != nil {
			t.Fatalf("%s has no botocore: %v", python, err)
		}
		peers = append(peers, peer{"botocore " + strings.TrimSpace(string(out)), func(t *testing.T) apiClient {
			return startScript(t, "botocore", peerEnv(), true, python, "testdata/peers/kinesis.py", http1)
		}})
	}
	if os.Getenv("FOREBAY_NODE_MODULES") == "" {
		return peers
	}
	for _, js := range [][3]string{{"js h1", http1, "h1"}, {"js h2c", http1, "h2"}, {"js h2 tls", https, "h2"}} {
		peers = append(peers, peer{js[0], func(t *testing.T) apiClient {
			return startScript(t, js[0], peerEnv("NODE_EXTRA_CA_CERTS="+cert), false, "node", "testdata/peers/kinesis.mjs", js[1], js[2])
		}})
	}
	return peers
}

// A section is a part of the matrix, in the order of the rows.
type section struct {
	name string
	run  func(*column)
}

// all goes through the sections; false if it has to begin anew with another
// stream, because the client lost the answer to a put.
func (r *column) all() (done bool) {
	defer func() {
		p := recover()
		if err, ok := p.(error); ok && errors.Is(err, errLostAnswer) {
			r.Log("once more: ", err)
		} else if p != nil {
			panic(p)
		}
	}()
	for _, s := range sections {
		s.run(r)
	}
	return true
}

func TestPeerKinesisMatrix(t *testing.T) {
	plain := startGateway(t, "edge", kinesisConfig)
	secure, cert, pool := startTLSGateway(t)
	m := &matrix{cells: map[[2]string]string{}}
	witness := kinesis.NewFromConfig(h2cConfig(t, plain))
	secureWitness := kinesis.NewFromConfig(peerConfig("https://"+secure.kinesis, peerSecretKey, h2Client(t, trusting(pool))))
	for i, p := range kinesisPeers(t, plain, secure, cert, pool) {
		m.peers = append(m.peers, p.name)
		t.Run(p.name, func(t *testing.T) {
			r := &column{T: t, c: p.start(t), peer: p.name, table: m, stream: fmt.Sprintf("matrix-%d", i), began: time.Now(), witness: witness}
			if strings.HasSuffix(p.name, "tls") {
				r.witness = secureWitness
			}
			for n := 1; !r.all(); n++ {
				r.stream, r.began = fmt.Sprintf("matrix-%d-%d", i, n), time.Now()
			}
		})
	}
	t.Logf("operations by clients; - is not offered by the client, the rest is the error's code without Exception:\n%s", m)
	m.covers(t)
	for _, g := range []*gw{plain, secure} {
		l, err := g.client.Ledger(context.Background())
		if err != nil || !l.Balance {
			t.Errorf("the ledger after the matrix: %+v, %v", l, err)
		}
		g.sound(t)
	}
}
