package kinesisapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"forebay/gateway/conf"
)

// TestIdentifyPlain: who may come in at a door that is used without an SDK.
func TestIdentifyPlain(t *testing.T) {
	const body = "a,b\n1,2\n"
	keys := []Key{{AccessKey: "AK", SecretKey: conf.NewSecret("secret"), Write: []string{"line-*"}}}
	basic := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	signed := func(service, secret string) func(*http.Request) {
		return func(r *http.Request) {
			sum := sha256.Sum256([]byte(body))
			who := aws.Credentials{AccessKeyID: "AK", SecretAccessKey: secret}
			if err := v4.NewSigner().SignHTTP(t.Context(), who, r, hex.EncodeToString(sum[:]), service, "us-east-1", time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name       string
		keys       []Key
		with       func(*http.Request)
		code       string
		key, wants string // who it is; the stream that it may not write
	}{
		{"nothing", keys, nil, "MissingAuthenticationTokenException", "", ""},
		{"nothing, without keys", nil, nil, "", "", ""},
		{"nothing, without keys, by name", nil, func(r *http.Request) { r.Host = "localhost:4567" }, "", "", ""},
		{"nothing, without keys, by IPv6", nil, func(r *http.Request) { r.Host = "[::1]" }, "", "", ""},
		{"a page that points its name here", nil, func(r *http.Request) { r.Host = "evil.example:4567" }, "AccessDeniedException", "", ""},
		{"a page of another origin", nil, header("Origin", "https://evil.example"), "AccessDeniedException", "", ""},
		{"a page of another site", nil, header("Sec-Fetch-Site", "cross-site"), "AccessDeniedException", "", ""},
		{"a page, Basic", keys, func(r *http.Request) { header("Origin", "https://evil.example")(r); basic("AK", "secret")(r) }, "AccessDeniedException", "", ""},
		{"a page, signed", keys, func(r *http.Request) { header("Origin", "https://app.example")(r); signed("kinesis", "secret")(r) }, "", "AK", "other"},
		{"by name, Basic", keys, func(r *http.Request) { r.Host = "edge-07:4567"; basic("AK", "secret")(r) }, "", "AK", "other"},
		{"Basic", keys, basic("AK", "secret"), "", "AK", "other"},
		{"Basic, wrong", keys, basic("AK", "wrong"), "UnrecognizedClientException", "", ""},
		{"Basic, unknown", keys, basic("X", "secret"), "UnrecognizedClientException", "", ""},
		{"Basic, without keys", nil, basic("X", "y"), "", "", ""},
		{"signed for kinesis", keys, signed("kinesis", "secret"), "", "AK", "other"},
		{"signed for firehose", keys, signed("firehose", "secret"), "", "AK", "other"},
		{"signed for another", keys, signed("s3", "secret"), "InvalidSignatureException", "", ""},
		{"signed wrong", keys, signed("kinesis", "wrong"), "InvalidSignatureException", "", ""},
		{"signed, without keys", nil, signed("kinesis", "wrong"), "", "", ""},
		{"another scheme", keys, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, "IncompleteSignatureException", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := New(Config{Listen: "off", Keys: c.keys}, nil, nil, time.Now, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:4567/ingest/line-1?format=csv", strings.NewReader(body))
			if c.with != nil {
				c.with(r)
			}
			call := &call{s: s, op: operation{needs: toWrite}, target: targetKinesis + "PutRecords"}
			signed, err := call.identifyPlain(r)
			if err == nil && signed {
				_, err = call.verify(r, []byte(body))
			}
			code := ""
			if e, ok := errors.AsType[*apiError](err); ok {
				code = e.code
			} else if err != nil {
				t.Fatal(err)
			}
			if code != c.code {
				t.Fatalf("answered %v, want %q", err, c.code)
			}
			if (call.key == nil) != (c.key == "") || call.key != nil && call.key.AccessKey != c.key {
				t.Errorf("it is %+v, want %q", call.key, c.key)
			}
			if err == nil && call.allow("line-1") != nil || c.wants != "" && call.allow(c.wants) == nil {
				t.Error("the key's policy does not hold")
			}
		})
	}
}

func TestFirehoseIsRefusedByItsName(t *testing.T) {
	s := &Server{cfg: Config{}.WithDefaults()}
	c := &call{s: s, key: &Key{AccessKey: "AK", Read: []string{"a"}}, op: operation{needs: toWrite}, target: targetFirehose + "PutRecordBatch"}
	const want = "AccessDeniedException: User: arn:aws:iam::000000000000:user/AK is not authorized to perform: firehose:PutRecordBatch on resource: " +
		"arn:aws:firehose:us-east-1:000000000000:deliverystream/a because no identity-based policy allows the firehose:PutRecordBatch action"
	if err := c.allow("a"); err == nil || err.Error() != want {
		t.Errorf("refused as\n%v\nwant\n%s", err, want)
	}
}

// TestCertificateIsRenewed: files that are replaced take effect, files that
// cannot be used do not.
func TestCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, key := pair(t, 1)
	write := func(name string, b []byte, at time.Time) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now().Add(-time.Hour)
	write(certFile, cert, began)
	if _, err := newCertificate(certFile, keyFile, nil); err == nil {
		t.Fatal("a certificate without its key was taken")
	}
	write(keyFile, key, began)
	var log strings.Builder
	c, err := newCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		t.Helper()
		c.looked = time.Time{} // the second is over
		p, err := c.config().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.Leaf.SerialNumber.Int64()
	}
	expect := func(what string, want int64, warnings int) {
		t.Helper()
		for range 3 {
			if got := serial(); got != want {
				t.Errorf("%s: certificate %d, want %d", what, got, want)
			}
		}
		if n := strings.Count(log.String(), "level=WARN"); n != warnings {
			t.Errorf("%s: %d warnings, want %d: %s", what, n, warnings, log.String())
		}
	}
	expect("at first", 1, 0)
	cert2, key2 := pair(t, 2)
	write(certFile, cert2, began.Add(time.Minute))
	expect("with the key still to come", 1, 1)
	write(keyFile, key2, began.Add(time.Minute))
	expect("renewed", 2, 1)
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	expect("with the key gone", 2, 2)
	write(keyFile, []byte("nonsense"), began.Add(2*time.Minute))
	expect("with a broken key", 2, 3)
	write(certFile, cert, began)
	write(keyFile, key, began)
	expect("with the first again", 1, 3)
	if p, err := c.get(nil); err != nil || p.Leaf.SerialNumber.Int64() != 1 {
		t.Errorf("within the second: %v, %v", p, err)
	}
	if v := c.config().MinVersion; v != tls.VersionTLS12 {
		t.Errorf("TLS from version %x", v)
	}
}

// pair makes a certificate and its key, in PEM.
func pair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}
