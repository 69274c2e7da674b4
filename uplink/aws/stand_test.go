package aws_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
)

const secret = "wJalrXUtnFEMI-very-secret"

// TestMain is the credential_process of the tests that need one, too.
func TestMain(m *testing.M) {
	if path := os.Getenv("AWS_TEST_PROCESS"); path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.Write(b) //nolint:errcheck // its reader sees
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// bare takes everything AWS out of the environment; the shared files are those
// of the directory it gives.
func bare(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "credentials"))
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	t.Setenv("HOME", dir)
	t.Setenv("USERPROFILE", dir)
	return dir
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A stand is a service that looks at the date and the key of a signature as
// AWS does, and is told what else to answer.
type stand struct {
	*httptest.Server
	mu      sync.Mutex
	silent  bool              // answers have no Date
	anyDate bool              // no date is wrong
	refuse  map[string]string // key id: the code that it is refused with
	keys    []string          // of the requests, in order
	tokens  []string
	queries int // with a date that is right
}

var credentialRE = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/eu-central-1/kinesis/aws4_request, `)

func (s *stand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		w.Header()["Date"] = nil
	}
	m := credentialRE.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		w.WriteHeader(400)
		fmt.Fprint(w, `{"__type":"MissingAuthenticationTokenException"}`)
		return
	}
	s.keys, s.tokens = append(s.keys, m[1]), append(s.tokens, r.Header.Get("X-Amz-Security-Token"))
	signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	now := time.Now().UTC()
	switch {
	case !s.anyDate && (err != nil || signed.Before(now.Add(-5*time.Minute))):
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"__type":"InvalidSignatureException","message":"Signature expired: %s is now earlier than %s (%s - 5 min.)"}`,
			stamp(signed), stamp(now.Add(-5*time.Minute)), stamp(now))
	case !s.anyDate && signed.After(now.Add(5*time.Minute)):
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"__type":"InvalidSignatureException","message":"Signature not yet current: %s is still later than %s (%s + 5 min.)"}`,
			stamp(signed), stamp(now.Add(5*time.Minute)), stamp(now))
	case s.refuse[m[1]] != "":
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"__type":"%s"}`, s.refuse[m[1]])
	default:
		s.queries++
		fmt.Fprint(w, `{}`)
	}
}

func stamp(t time.Time) string { return t.Format("20060102T150405Z") }

func newStand(t *testing.T) *stand {
	t.Helper()
	s := &stand{refuse: map[string]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// tlsStand is a stand with a certificate of the authority.
func tlsStand(t *testing.T, cert tls.Certificate) *stand {
	t.Helper()
	s := &stand{refuse: map[string]string{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *stand) last() (key, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) == 0 {
		return "", ""
	}
	return s.keys[len(s.keys)-1], s.tokens[len(s.tokens)-1]
}

// An authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // in PEM
	n    int64
}

func newAuthority(t *testing.T, from, to time.Time) *authority {
	t.Helper()
	a := &authority{n: 1}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = write(t, filepath.Join(t.TempDir(), "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return a
}

// issue signs a certificate for 127.0.0.1 and a host.
func (a *authority) issue(t *testing.T, host string, from, to time.Time) tls.Certificate {
	t.Helper()
	a.n++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: host}, NotBefore: from, NotAfter: to,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
		DNSNames: []string{host},
	}
	if host == "127.0.0.1" {
		c.DNSNames, c.IPAddresses = nil, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// files writes a certificate and its key.
func files(t *testing.T, dir string, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))),
		write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

// A wallClock can be wrong.
type wallClock struct {
	mu   sync.Mutex
	skew time.Duration
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.skew)
}

func (c *wallClock) set(skew time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = skew
}

// logged is what a client under test has logged.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// static is an Access with keys that stand in the config.
func static(endpoint string) aws.Access {
	return aws.Access{Endpoint: endpoint, Region: "eu-central-1", AccessKey: "AKIDTEST", SecretKey: conf.NewSecret(secret)}
}

// open makes a client, which logs nothing that holds the secret.
func open(t *testing.T, a aws.Access, now func() time.Time) *aws.Client {
	t.Helper()
	if err := a.Check(); err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	c, err := aws.NewClient(a, aws.Options{
		Service: "kinesis", Name: "Kinesis", Now: now, Timeout: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if strings.Contains(log.String(), secret) {
			t.Errorf("the secret is in the log: %s", log)
		}
	})
	return c
}

// post sends a small request.
func post(t *testing.T, c *aws.Client) error {
	t.Helper()
	buf := c.Buffer()
	defer buf.Release()
	buf.B = append(buf.B, `{}`...)
	a, err := c.Send(t.Context(), &aws.Request{Body: buf})
	if err == nil {
		c.Learn(a)
	} else if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
		t.Errorf("the secret is in the error: %v", err)
	}
	return err
}
