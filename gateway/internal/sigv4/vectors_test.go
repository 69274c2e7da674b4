package sigv4

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The secrets of AWS's published examples. Amazon S3's has a slash for the
// plus.
const (
	exampleSecret   = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	exampleSecretS3 = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// offTheWire are the vectors that net/http does not take from a connection: a
// blank in the path, and a folded header line, whose lines it joins otherwise
// (RFC 9112, 5.2 has folding refused or joined by blanks).
var offTheWire = []string{"get-space", "get-header-value-multiline"}

// TestPublishedVectors checks AWS's published examples: the Signature Version
// 4 test suite, the IAM User Guide's and the Amazon S3 API Reference's. Each
// .req in testdata/vectors is one request as it is sent, .creq its canonical
// request, .sts its string to sign.
func TestPublishedVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/vectors/*.req")
	if err != nil || len(files) < 37 {
		t.Fatalf("found %d vectors, error %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".req")
		t.Run(name, func(t *testing.T) {
			raw := readFile(t, file)
			r, body := readVector(t, raw)
			checkVector(t, strings.TrimSuffix(file, ".req"), r, body)
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")))))
			if slices.Contains(offTheWire, name) {
				if err == nil && !strings.Contains(string(raw), "\n ") {
					t.Error("net/http takes it now")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkVector(t, strings.TrimSuffix(file, ".req"), r, body)
		})
	}
}

func checkVector(t *testing.T, base string, r *http.Request, body []byte) {
	t.Helper()
	hash := sha256.Sum256(body)
	sig, payload, secret := parseVector(t, r), hex.EncodeToString(hash[:]), exampleSecret
	if sig.Service == "s3" {
		secret = exampleSecretS3
		if sig.Presigned {
			payload = unsignedPayload
		}
	}
	canonical := appendCanonical(nil, r, sig, payload)
	if want := readFile(t, base+".creq"); !bytes.Equal(canonical, want) {
		t.Errorf("canonical request\n%s\nwant\n%s", canonical, want)
	}
	sum := sha256.Sum256(canonical)
	if got, want := appendStringToSign(nil, sig, sum), readFile(t, base+".sts"); !bytes.Equal(got, want) {
		t.Errorf("string to sign\n%s\nwant\n%s", got, want)
	}
	key := derive(secret, sig)
	if got := sign(&key, sig, sum); got != sig.sum {
		t.Errorf("signature %x, published %x", got, sig.sum)
	}
	key = derive(secret+"x", sig)
	if got := sign(&key, sig, sum); got == sig.sum {
		t.Error("another secret gives the same signature")
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readVector reads a request as the suite writes it, with what no connection
// would let through.
func readVector(t *testing.T, raw []byte) (*http.Request, []byte) {
	t.Helper()
	head, body, ok := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	method, rest, ok1 := strings.Cut(lines[0], " ")
	target, ok2 := strings.CutSuffix(rest, " HTTP/1.1")
	if !ok || !ok1 || !ok2 {
		t.Fatalf("no request: %q", raw)
	}
	r := &http.Request{Method: method, RequestURI: target, URL: &url.URL{}, Header: http.Header{}, ContentLength: int64(len(body))}
	_, r.URL.RawQuery, _ = strings.Cut(target, "?")
	last := ""
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if strings.HasPrefix(line, " ") {
			name, value, ok = last, line, true
		}
		if !ok {
			t.Fatalf("no header: %q", line)
		}
		last = name
		if strings.EqualFold(name, "host") {
			r.Host = strings.TrimSpace(value)
			continue
		}
		r.Header.Add(name, strings.Trim(value, " ")) // as net/http does
	}
	return r, body
}

func parseVector(t *testing.T, r *http.Request) *Signature {
	t.Helper()
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	var sig *Signature
	if auth := r.Header.Get("Authorization"); auth != "" {
		sig, err = parseAuthorization(auth, r.Header)
	} else {
		sig, err = parsePresigned(query)
	}
	if err != nil {
		t.Fatal(err)
	}
	sig.query = query
	return sig
}

// TestAuthority: HTTP/2 clients in JavaScript sign ":authority" for the host.
func TestAuthority(t *testing.T) {
	sig := &Signature{headers: []string{":authority", "content-length", "transfer-encoding", "x-a"}}
	r := &http.Request{
		Method: "POST", RequestURI: "/", Host: "box:4567", ContentLength: 12, TransferEncoding: []string{"chunked"},
		Header: http.Header{"X-A": {" 1  2\t", "3"}},
	}
	const want = "POST\n/\n\n:authority:box:4567\ncontent-length:12\ntransfer-encoding:chunked\nx-a:1 2,3\n\n:authority;content-length;transfer-encoding;x-a\nHASH"
	if got := string(appendCanonical(nil, r, sig, "HASH")); got != want {
		t.Errorf("canonical request\n%s\nwant\n%s", got, want)
	}
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]string{
		"":                "/",
		"/":               "/",
		"/a":              "/a",
		"/a/":             "/a/",
		"//a///b//":       "/a/b/",
		"/..":             "/",
		"/../..":          "/",
		"/a/..":           "/",
		"/a/../":          "/",
		"/a/b/../c":       "/a/c",
		"/a/b/../../../c": "/c",
		"/./a/.":          "/a",
		"/a%20b?x=/y":     "/a%2520b",
		"/-_.~*":          "/-_.~%2A",
	} {
		if got := string(appendPath([]byte("x"), &http.Request{RequestURI: path, URL: &url.URL{}})); got != "x"+want {
			t.Errorf("the path %q is %q in canonical form, want %q", path, got[1:], want)
		}
	}
	if got := string(appendPath(nil, &http.Request{RequestURI: "http://box/a%20b", URL: &url.URL{Path: "/a b"}})); got != "/a%2520b" {
		t.Errorf("a path in absolute form is %q", got)
	}
}

// TestDateHeader: a signature may be dated by Date, which then is part of it.
func TestDateHeader(t *testing.T) {
	now := time.Date(2013, 5, 24, 0, 1, 0, 0, time.UTC)
	r := &http.Request{Method: "GET", RequestURI: "/", URL: &url.URL{Path: "/"}, Host: "box", Header: http.Header{"Date": {"Fri, 24 May 2013 00:00:00 GMT"}}}
	sig := &Signature{headers: []string{"host"}, stamp: "20130524T000000Z", date: "20130524", Region: "r", Service: "kinesis"}
	key := derive(exampleSecretS3, sig)
	signature := sign(&key, sig, canonicalHash(r, sig, emptySum))
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/r/kinesis/aws4_request, SignedHeaders=host, Signature="+hex.EncodeToString(signature[:]))
	v := docsVerifier(true)
	v.now = func() time.Time { return now }
	check := func() string {
		sig, err := Parse(r)
		if err == nil {
			err = v.Precheck(sig, "kinesis")
		}
		if err == nil {
			_, err = v.Verify(r, sig, nil, false)
		}
		return codeOf(t, err)
	}
	for date, want := range map[string]string{
		"Fri, 24 May 2013 00:00:00 GMT": "",
		"Fri, 24 May 2013 00:00:01 GMT": "InvalidSignatureException",
		"Fri, 24 May 2013 00:06:01 GMT": "InvalidSignatureException",
		"yesterday":                     "IncompleteSignatureException",
		"":                              "IncompleteSignatureException",
	} {
		r.Header.Set("Date", date)
		if got := check(); got != want {
			t.Errorf("dated %q: answered %q, want %q", date, got, want)
		}
	}
}

// FuzzSignature looks for requests that are taken without the secret, and for
// panics.
func FuzzSignature(f *testing.F) {
	const good = "AWS4-HMAC-SHA256 Credential=AK/20261122/us-east-1/kinesis/aws4_request, SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
	f.Add(good, "20261122T100000Z", "", "", []byte(nil))
	f.Add("", "", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20261122%2Fus-east-1%2Fkinesis%2Faws4_request&X-Amz-Date=20261122T100000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00", "", []byte(nil))
	f.Add(good, "20261122T100000Z", "a=%zz&=&&", "UNSIGNED-PAYLOAD", []byte("x"))
	f.Add(good, "20261122T100000Z", "", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", []byte("0;chunk-signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31\r\n\r\n"))
	f.Add("AWS4-HMAC-SHA256 Credential=////,SignedHeaders=;,Signature=", "x", "X-Amz-Signature", "STREAMING-", []byte(nil))
	f.Add("Basic QUs6eA==", "", "", "", []byte(nil))
	now := func() time.Time { return time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC) }
	f.Fuzz(func(t *testing.T, auth, date, query, sha string, body []byte) {
		r := &http.Request{
			Method: http.MethodPost, Host: "localhost", Header: http.Header{"X-Amz-Decoded-Content-Length": {"0"}},
			URL: &url.URL{Path: "/", RawQuery: query}, RequestURI: "/?" + query,
		}
		for name, v := range map[string]string{"Authorization": auth, "X-Amz-Date": date, "X-Amz-Content-Sha256": sha} {
			if v != "" {
				r.Header[name] = []string{v}
			}
		}
		secret := func(accessKey string) (string, bool, error) {
			return "a secret nobody guesses 9f1c", accessKey == "AK", nil
		}
		for _, v := range []*Verifier{New(Options{Now: now}), New(Options{Now: now, Secret: secret})} {
			if _, err := v.VerifyBasic(r); err == nil && v.secret != nil {
				t.Fatalf("taken without the secret: %q", auth)
			}
			sig, err := Parse(r)
			if err != nil {
				codeOf(t, err)
				continue
			}
			if err := v.Precheck(sig, "kinesis"); err != nil {
				codeOf(t, err)
			}
			_, err = v.Verify(r, sig, bytes.Clone(body), true)
			if codeOf(t, err) == "" && v.secret != nil {
				t.Fatalf("taken without the secret: %q %q %q %q", auth, date, query, sha)
			}
		}
	})
}
