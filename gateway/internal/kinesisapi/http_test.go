package kinesisapi_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"forebay/gateway/conf"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

var testCreds = aws.Credentials{AccessKeyID: "AKIDTEST", SecretAccessKey: "secret"}

// request makes a request signed by the SDK's signer; change, if any, comes
// before the signing.
func (b *box) request(op, body string, at time.Time, change func(*http.Request)) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.url()+"/", strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "Kinesis_20131202."+op)
	if change != nil {
		change(r)
	}
	sum := sha256.Sum256([]byte(body))
	payload := hex.EncodeToString(sum[:])
	if h := r.Header.Get("X-Amz-Content-Sha256"); h != "" {
		payload = h
	}
	if err := v4.NewSigner().SignHTTP(b.t.Context(), testCreds, r, payload, "kinesis", "eu-north-1", at); err != nil {
		b.t.Fatal(err)
	}
	return r
}

// An answer is what came back.
type answer struct {
	Status     string
	StatusCode int
	Proto      string
	ProtoMajor int
	Header     http.Header
}

func (b *box) do(tr *http.Transport, r *http.Request) (answer, string) {
	b.t.Helper()
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.Status, resp.StatusCode, resp.Proto, resp.ProtoMajor, resp.Header}, string(body)
}

func h2c() *http.Transport {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: &p}
}

func TestHTTP2WithoutTLS(t *testing.T) {
	b := start(t, kinesisapi.Config{Keys: testKeys()}, spool.Config{})
	b.create("s", 1)
	resp, body := b.do(h2c(), b.request("PutRecord", `{"StreamName":"s","PartitionKey":"k","Data":"aGk="}`, b.clock.Now(), nil))
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 || !strings.Contains(body, `"SequenceNumber":"`) {
		t.Errorf("%s %s: %s", resp.Proto, resp.Status, body)
	}
	if id := resp.Header.Get("X-Amzn-Requestid"); len(id) != 36 {
		t.Errorf("request id %q", id)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/x-amz-json-1.1" {
		t.Errorf("content type %q", ct)
	}
	// A client of HTTP/2 may sign the host under its HTTP/2 name.
	r := b.request("ListStreams", `{}`, b.clock.Now(), nil)
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), ";host;", ";:authority;", 1))
	if resp, body := b.do(h2c(), r); resp.StatusCode != 400 || !strings.Contains(body, "InvalidSignatureException") {
		t.Errorf("%s: %s", resp.Status, body)
	}
	tr := h2c()
	defer tr.CloseIdleConnections()
	cl := b.client(func(o *kinesis.Options) { o.HTTPClient = &http.Client{Transport: tr} })
	for range 20 {
		if _, err := cl.PutRecord(t.Context(), putRecord("s", "k", "x")); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.srv.Clients(); n < 1 || n > 3 {
		t.Errorf("%d connections for 20 calls over HTTP/2", n)
	}
}

func testKeys() []kinesisapi.Key {
	return []kinesisapi.Key{
		{AccessKey: "OTHER", SecretKey: conf.NewSecret("other")},
		{AccessKey: testCreds.AccessKeyID, SecretKey: conf.NewSecret(testCreds.SecretAccessKey)},
	}
}

func TestTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	b := start(t, kinesisapi.Config{Keys: testKeys(), TLSCert: cert, TLSKey: key}, spool.Config{})
	b.create("s", 1)
	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: h2}
		resp, body := b.do(tr, b.request("DescribeStreamSummary", `{"StreamName":"s"}`, b.clock.Now(), nil))
		if resp.StatusCode != 200 || (resp.ProtoMajor == 2) != h2 {
			t.Errorf("%s %s: %s", resp.Proto, resp.Status, body)
		}
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	cl := b.client(func(o *kinesis.Options) { o.HTTPClient = &http.Client{Transport: tr} })
	if _, err := cl.PutRecord(t.Context(), putRecord("s", "k", "x")); err != nil {
		t.Error(err)
	}
	if _, err := kinesisapi.New(kinesisapi.Config{TLSCert: cert, TLSKey: cert}, b.sp, b.in, time.Now, nil); err == nil {
		t.Error("a certificate without its key was taken")
	}
}

func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "box"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, b := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pool
}

// A tampering is a signed request that is changed on the way.
type tampering struct {
	name   string
	at     time.Duration
	before func(*http.Request) // what is signed
	after  func(*http.Request) // what is changed on the way
	code   string              // "" is taken
}

const (
	signedBody = `{"StreamName":"s","PartitionKey":"k","Data":"aGk="}`

	mismatch  = "InvalidSignatureException"
	missing   = "MissingAuthenticationTokenException"
	malformed = "IncompleteSignatureException"
)

func setHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func setBody(r *http.Request, s string) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s))
}

// auth changes the Authorization header.
func auth(old, new string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
	}
}

// requestTamperings change what is signed, authTamperings how it is said to be.
func requestTamperings(now time.Time) []tampering {
	return []tampering{
		{name: "as signed"},
		{name: "4 minutes old", at: -4 * time.Minute},
		{name: "4 minutes ahead", at: 4 * time.Minute},
		{name: "6 minutes old", at: -6 * time.Minute, code: mismatch},
		{name: "6 minutes ahead", at: 6 * time.Minute, code: mismatch},
		{name: "from 2015", at: -11 * 365 * 24 * time.Hour, code: mismatch},
		{name: "declared payload", before: setHeader("X-Amz-Content-Sha256", hexSum(signedBody))},
		{name: "unsigned payload on loopback", before: setHeader("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")},
		{name: "chunked payload that is not in chunks", before: setHeader("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), code: "MissingContentLength"},
		{name: "chunks of Signature Version 4A", before: setHeader("X-Amz-Content-Sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), code: mismatch},
		{name: "a session token, signed", before: setHeader("X-Amz-Security-Token", "token")},
		{name: "a session token slipped in", after: setHeader("X-Amz-Security-Token", "token"), code: mismatch},
		{name: "another header, signed", before: setHeader("X-Thing", " a   b ")},
		{name: "an unsigned header that says nothing", after: setHeader("X-Other", "x")},
		{name: "a signed header changed", before: setHeader("X-Thing", "a"), after: setHeader("X-Thing", "b"), code: mismatch},
		{name: "a signed header twice", before: setHeader("X-Thing", "a"), after: func(r *http.Request) { r.Header.Add("X-Thing", "a") }, code: mismatch},
		{name: "a signed header taken away", before: setHeader("X-Thing", "a"), after: func(r *http.Request) { r.Header.Del("X-Thing") }, code: mismatch},
		{name: "body changed", after: func(r *http.Request) { setBody(r, strings.Replace(signedBody, "aGk=", "aGo=", 1)) }, code: mismatch},
		{name: "body longer", after: func(r *http.Request) { setBody(r, signedBody+" ") }, code: mismatch},
		{name: "body gone", after: func(r *http.Request) { setBody(r, "") }, code: mismatch},
		{name: "declared payload, body changed", before: setHeader("X-Amz-Content-Sha256", hexSum(signedBody)), after: func(r *http.Request) { setBody(r, strings.Replace(signedBody, "aGk=", "aGo=", 1)) }, code: mismatch},
		{name: "payload hash slipped in", after: setHeader("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"), code: mismatch},
		{name: "target changed", after: setHeader("X-Amz-Target", "Kinesis_20131202.ListStreams"), code: mismatch},
		{name: "content type changed", after: setHeader("Content-Type", "application/json"), code: mismatch},
		{name: "date changed", after: func(r *http.Request) {
			r.Header.Set("X-Amz-Date", now.Add(30*time.Second).UTC().Format("20060102T150405Z"))
		}, code: mismatch},
		{name: "host changed", after: func(r *http.Request) { r.Host = "localhost:1" }, code: mismatch},
		{name: "query added", after: func(r *http.Request) { r.URL.RawQuery = "a=b" }, code: mismatch},
		{name: "query, signed", before: func(r *http.Request) { r.URL.RawQuery = "b=2&a=%20+x&c" }},
		{name: "query changed", before: func(r *http.Request) { r.URL.RawQuery = "a=1" }, after: func(r *http.Request) { r.URL.RawQuery = "a=2" }, code: mismatch},
	}
}

func authTamperings() []tampering {
	return []tampering{
		{name: "signature changed", after: func(r *http.Request) {
			a := r.Header.Get("Authorization")
			last := "0"
			if strings.HasSuffix(a, "0") {
				last = "1"
			}
			r.Header.Set("Authorization", a[:len(a)-1]+last)
		}, code: mismatch},
		{name: "region changed", after: auth("eu-north-1", "eu-north-2"), code: mismatch},
		{name: "service changed", after: auth("/kinesis/", "/firehose/"), code: mismatch},
		{name: "terminator changed", after: auth("aws4_request", "aws5_request"), code: mismatch},
		{name: "another's key", after: auth("AKIDTEST", "OTHER"), code: mismatch},
		{name: "an unknown key", after: auth("AKIDTEST", "NOBODY"), code: "UnrecognizedClientException"},
		{name: "target not signed", after: auth(";x-amz-target", ""), code: mismatch},
		{name: "host not signed", after: auth("host;", ""), code: mismatch},
		{name: "date not signed", after: auth("x-amz-date;", ""), code: mismatch},
		{name: "no signature", after: func(r *http.Request) { r.Header.Del("Authorization") }, code: missing},
		{name: "empty", after: setHeader("Authorization", ""), code: missing},
		{name: "basic", after: setHeader("Authorization", "Basic dTpw"), code: malformed},
		{name: "another algorithm", after: auth("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), code: malformed},
		{name: "no parts", after: setHeader("Authorization", "AWS4-HMAC-SHA256"), code: malformed},
		{name: "a part without a value", after: auth("SignedHeaders=", "SignedHeaders"), code: malformed},
		{name: "a part missing", after: auth("SignedHeaders=", "Other="), code: malformed},
		{name: "a part twice", after: auth("SignedHeaders=", "Credential="), code: malformed},
		{name: "a short scope", after: auth("/kinesis/aws4_request", ""), code: malformed},
		{name: "a short signature", after: auth("Signature=", "Signature=,X="), code: malformed},
		{name: "no date", after: func(r *http.Request) { r.Header.Del("X-Amz-Date") }, code: malformed},
		{name: "a date that is none", after: setHeader("X-Amz-Date", "yesterday"), code: malformed},
		{name: "two dates", after: func(r *http.Request) { r.Header.Add("X-Amz-Date", "20261122T100000Z") }, code: malformed},
		{name: "both forms", after: func(r *http.Request) { r.URL.RawQuery = "X-Amz-Algorithm=AWS4-HMAC-SHA256" }, code: mismatch},
	}
}

// TestSignatureIsVerified changes every part of a signed request, with keys
// configured: each change is refused.
func TestSignatureIsVerified(t *testing.T) {
	b := start(t, kinesisapi.Config{Keys: testKeys()}, spool.Config{})
	b.create("s", 1)
	for _, c := range append(requestTamperings(b.clock.Now()), authTamperings()...) {
		t.Run(c.name, func(t *testing.T) {
			r := b.request("PutRecord", signedBody, b.clock.Now().Add(c.at), c.before)
			if c.after != nil {
				c.after(r)
			}
			resp, answer := b.do(&http.Transport{}, r)
			if c.code == "" {
				if resp.StatusCode != 200 {
					t.Errorf("refused: %s %s", resp.Status, answer)
				}
				return
			}
			if resp.StatusCode != 400 || !strings.Contains(answer, `"__type":"`+c.code+`"`) {
				t.Errorf("answered %s %s, want %s", resp.Status, answer, c.code)
			}
		})
	}
	cl := b.client()
	if _, err := cl.PutRecord(t.Context(), putRecord("s", "k", "x")); err != nil {
		t.Error(err)
	}
	bad := b.client(func(o *kinesis.Options) {
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIDTEST", SecretAccessKey: "wrong"}, nil
		})
	})
	_, err := bad.PutRecord(t.Context(), putRecord("s", "k", "x"))
	refused(t, err, mismatch, "The request signature we calculated does not match")
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestPresigned(t *testing.T) {
	b := start(t, kinesisapi.Config{Keys: testKeys()}, spool.Config{})
	b.create("s", 1)
	const body = `{"StreamName":"s","PartitionKey":"k","Data":"aGk="}`
	presign := func(at time.Time, expires, payload string) *http.Request {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url()+"/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		r.Header.Set("X-Amz-Target", "Kinesis_20131202.PutRecord")
		if expires != "" {
			r.URL.RawQuery = "X-Amz-Expires=" + expires
		}
		uri, signed, err := v4.NewSigner().PresignHTTP(t.Context(), testCreds, r, payload, "kinesis", "eu-north-1", at)
		if err != nil {
			t.Fatal(err)
		}
		out, err := http.NewRequestWithContext(t.Context(), http.MethodPost, uri, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range signed {
			if name != "Host" && name != "Content-Length" {
				out.Header[name] = v
			}
		}
		return out
	}
	replace := func(old, new string) func(*http.Request) {
		return func(r *http.Request) { r.URL.RawQuery = strings.Replace(r.URL.RawQuery, old, new, 1) }
	}
	for _, c := range []struct {
		name    string
		at      time.Duration
		expires string
		change  func(*http.Request)
		code    string
	}{
		{name: "as signed"},
		{name: "within its life", at: -50 * time.Minute, expires: "3600"},
		{name: "past its life", at: -70 * time.Minute, expires: "3600", code: "InvalidSignatureException"},
		{name: "no life given", at: -6 * time.Minute, code: "InvalidSignatureException"},
		{name: "too long a life", expires: "604801", code: "IncompleteSignatureException"},
		{name: "no life at all", expires: "0", code: "IncompleteSignatureException"},
		{name: "life stretched", at: -70 * time.Minute, expires: "3600", change: replace("X-Amz-Expires=3600", "X-Amz-Expires=7200"), code: "InvalidSignatureException"},
		{name: "target changed", change: replace("PutRecord", "ListStreams"), code: "InvalidSignatureException"},
		{name: "target twice, alike", change: func(r *http.Request) { r.Header.Set("X-Amz-Target", "Kinesis_20131202.PutRecord") }},
		{name: "target twice", change: func(r *http.Request) { r.Header.Set("X-Amz-Target", "Kinesis_20131202.ListStreams") }, code: "InvalidSignatureException"},
		{name: "a parameter twice", change: func(r *http.Request) { r.URL.RawQuery += "&X-Amz-Expires=1&X-Amz-Expires=2" }, code: "IncompleteSignatureException"},
		{name: "signature missing", change: replace("X-Amz-Signature", "X-Amz-Sig"), code: "IncompleteSignatureException"},
		{name: "another algorithm", change: replace("AWS4-HMAC-SHA256", "AWS4-X"), code: "IncompleteSignatureException"},
		{name: "content type changed", change: func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, code: "InvalidSignatureException"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := presign(b.clock.Now().Add(c.at), c.expires, hexSum(body))
			if c.change != nil {
				c.change(r)
			}
			resp, answer := b.do(&http.Transport{}, r)
			if ok := resp.StatusCode == 200; ok != (c.code == "") || !strings.Contains(answer, c.code) {
				t.Errorf("answered %s %s, want %q", resp.Status, answer, c.code)
			}
		})
	}
}

// TestWithoutKeys: any well-formed signature passes, nothing else does.
func TestWithoutKeys(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		code   string
	}{
		{"as signed", nil, ""},
		{"a wrong signature", func(r *http.Request) {
			a := r.Header.Get("Authorization")
			r.Header.Set("Authorization", a[:len(a)-64]+strings.Repeat("0", 64))
		}, ""},
		{"a date of 2015", func(r *http.Request) { r.Header.Set("X-Amz-Date", "20150830T123600Z") }, ""},
		{"unsigned", func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationTokenException"},
		{"malformed", func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=x") }, "IncompleteSignatureException"},
		{"of another service", func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "/kinesis/", "/s3/", 1))
		}, "InvalidSignatureException"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := b.request("ListStreams", "{}", b.clock.Now(), nil)
			if c.change != nil {
				c.change(r)
			}
			resp, answer := b.do(&http.Transport{}, r)
			if ok := resp.StatusCode == 200; ok != (c.code == "") || !strings.Contains(answer, c.code) {
				t.Errorf("answered %s %s, want %q", resp.Status, answer, c.code)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	for _, c := range []struct {
		name, op, body string
		change         func(*http.Request)
		status         int
		code           string
	}{
		{name: "empty body", op: "ListStreams", status: 200},
		{name: "members unknown", op: "ListStreams", body: `{"Other":{"a":[1,{}]}}`, status: 200},
		{name: "plain JSON type", op: "ListStreams", body: `{}`, change: func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=utf-8") }, status: 200},
		{name: "a reserved member", op: "DescribeStreamSummary", body: `{"StreamName":"s","StreamId":"abc"}`, status: 200},
		{name: "only a reserved member", op: "DescribeStreamSummary", body: `{"StreamId":"abc"}`, status: 400, code: "InvalidArgumentException"},
		{name: "not JSON", op: "PutRecord", body: `{`, status: 400, code: "SerializationException"},
		{name: "a list", op: "PutRecord", body: `[]`, status: 400, code: `"SerializationException","message":"The request is not one JSON object but array."`},
		{name: "two values", op: "ListStreams", body: `{} {}`, status: 400, code: "SerializationException"},
		{name: "a wrong type", op: "PutRecord", body: `{"StreamName":1}`, status: 400, code: "SerializationException"},
		{name: "bad base64", op: "PutRecord", body: `{"StreamName":"s","PartitionKey":"k","Data":"***"}`, status: 400, code: `"SerializationException","message":"A blob is not in base64: illegal base64 data at input byte 0."`},
		{name: "data of a wrong type", op: "PutRecord", body: `{"StreamName":"s","PartitionKey":"k","Data":5}`, status: 400, code: `"message":"number can not be converted to the type of 'Data'."`},
		{name: "not UTF-8", op: "PutRecord", body: "{\"StreamName\":\"s\",\"PartitionKey\":\"\xff\",\"Data\":\"\"}", status: 400, code: "SerializationException"},
		{name: "null members", op: "PutRecord", body: `{"StreamName":"s","PartitionKey":null,"Data":null}`, status: 400, code: "2 validation errors detected: Value null at 'data' failed to satisfy constraint: Member must not be null; Value null at 'partitionKey'"},
		{name: "records null", op: "PutRecords", body: `{"StreamName":"s"}`, status: 400, code: "Value null at 'records' failed to satisfy constraint: Member must not be null"},
		{name: "many faults", op: "PutRecords", body: `{"StreamName":"s","Records":[` + strings.Repeat(`{},`, 99) + `{}]}`, status: 400, code: "200 validation errors detected"},
		{name: "a time that is none", op: "GetShardIterator", body: `{"StreamName":"s","ShardId":"shardId-000000000000","ShardIteratorType":"AT_TIMESTAMP","Timestamp":"now"}`, status: 400, code: `"SerializationException","message":"value can not be converted to the type of 'Timestamp'."`},
		{name: "empty data", op: "PutRecord", body: `{"StreamName":"s","PartitionKey":"k","Data":""}`, status: 200},
		{name: "unknown operation", op: "Nonsense", body: `{}`, status: 400, code: "UnknownOperationException"},
		{name: "no operation", body: `{}`, change: func(r *http.Request) { r.Header.Del("X-Amz-Target") }, status: 400, code: "UnknownOperationException"},
		{name: "another API", body: `{}`, change: func(r *http.Request) { r.Header.Set("X-Amz-Target", "Logs_20140328.ListStreams") }, status: 400, code: "UnknownOperationException"},
		{name: "another API than it is signed for", body: `{}`, change: func(r *http.Request) { r.Header.Set("X-Amz-Target", "Firehose_20150804.ListDeliveryStreams") }, status: 400, code: "Credential should be scoped to correct service: 'firehose'."},
		{name: "another CBOR", op: "ListStreams", body: "\xa0", change: func(r *http.Request) { r.Header.Set("Content-Type", "application/cbor") }, status: 404, code: "UnknownOperationException"},
		{name: "another method", change: func(r *http.Request) { r.Method = http.MethodGet }, status: 404, code: "UnknownOperationException"},
		{name: "another path", change: func(r *http.Request) { r.URL.Path = "/x" }, status: 404, code: "UnknownOperationException"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, answer := b.do(&http.Transport{}, b.request(c.op, c.body, b.clock.Now(), c.change))
			if resp.StatusCode != c.status || !strings.Contains(answer, c.code) {
				t.Errorf("answered %s %s, want %d %q", resp.Status, answer, c.status, c.code)
			}
			if len(resp.Header.Get("X-Amzn-Requestid")) != 36 {
				t.Error("no request id")
			}
		})
	}
}

func TestLargeBodies(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	// Announced too large: refused before it is sent.
	r := b.request("PutRecord", "{}", b.clock.Now(), nil)
	r.Body, r.ContentLength = io.NopCloser(blocked{}), 33<<20
	r.Header.Set("Expect", "100-continue")
	resp, answer := b.do(&http.Transport{ExpectContinueTimeout: time.Minute}, r)
	if resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(answer, "RequestEntityTooLargeException") {
		t.Errorf("answered %s %s", resp.Status, answer)
	}
	// Not announced: read up to the limit.
	r = b.request("PutRecord", "{}", b.clock.Now(), nil)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(make([]byte, 33<<20))), -1
	tr := h2c()
	resp, answer = b.do(tr, r)
	if resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(answer, "RequestEntityTooLargeException") {
		t.Errorf("answered %s %s", resp.Status, answer)
	}
	// Unsigned: refused before it is read.
	r = b.request("PutRecord", "{}", b.clock.Now(), nil)
	r.Header.Del("Authorization")
	r.Header.Set("Expect", "100-continue")
	r.Body, r.ContentLength = io.NopCloser(blocked{}), 1<<20
	resp, answer = b.do(&http.Transport{ExpectContinueTimeout: time.Minute}, r)
	if resp.StatusCode != 400 || !strings.Contains(answer, "MissingAuthenticationTokenException") {
		t.Errorf("answered %s %s", resp.Status, answer)
	}
	// The largest request there is passes.
	in := &kinesis.PutRecordsInput{StreamName: aws.String("s")}
	for range 10 {
		in.Records = append(in.Records, entry("k", bytes.Repeat([]byte("x"), 1<<20-1)))
	}
	if out, err := b.client().PutRecords(t.Context(), in); err != nil || *out.FailedRecordCount != 0 {
		t.Errorf("ten megabytes: %v", err)
	}
}

// blocked is a body that must not be read.
type blocked struct{}

func (blocked) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestPanicIsContained(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	b.in.before = func(context.Context, string, []record.Record, func([]record.Result)) (bool, error) { panic("boom") }
	cl := b.client()
	_, err := cl.PutRecord(t.Context(), putRecord("s", "k", "x"))
	refused(t, err, "InternalFailureException", "Internal Service Failure")
	b.in.before = nil
	if _, err := cl.PutRecord(t.Context(), putRecord("s", "k", "x")); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	if b.srv.Errors() != 1 {
		t.Errorf("%d errors counted", b.srv.Errors())
	}
}
