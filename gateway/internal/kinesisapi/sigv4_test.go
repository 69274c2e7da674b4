package kinesisapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
)

// TestPublishedVectors checks the signatures of AWS's published examples: the
// Signature Version 4 test suite, the IAM User Guide's and the Amazon S3 API
// reference's. Each file in testdata/sigv4 is one request as it is sent.
func TestPublishedVectors(t *testing.T) {
	const secret, secretS3 = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	files, err := filepath.Glob("testdata/sigv4/*.req")
	if err != nil || len(files) < 25 {
		t.Fatalf("found %d vectors, error %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".req"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")))))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(body)
			sig, payload, key := parseVector(t, r), hex.EncodeToString(sum[:]), secret
			if sig.service == "s3" {
				key = secretS3
				if sig.presigned {
					payload = unsignedPayload
				}
			}
			canonical := canonicalRequest(r, sig, payload)
			if got := sign(key, sig, canonical); got != sig.sum {
				t.Errorf("signature %x, published %x, canonical request:\n%s", got, sig.sum, canonical)
			}
			if got := sign(key+"x", sig, canonical); got == sig.sum {
				t.Error("another secret gives the same signature")
			}
		})
	}
}

func parseVector(t *testing.T, r *http.Request) *signature {
	t.Helper()
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	var sig *signature
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
	sig := &signature{headers: []string{":authority", "content-length", "x-a"}}
	r := &http.Request{Method: "POST", RequestURI: "/", Host: "box:4567", ContentLength: 12, Header: http.Header{"X-A": {" 1  2 ", "3"}}}
	const want = "POST\n/\n\n:authority:box:4567\ncontent-length:12\nx-a:1 2,3\n\n:authority;content-length;x-a\nHASH"
	if got := canonicalRequest(r, sig, "HASH"); got != want {
		t.Errorf("canonical request\n%s\nwant\n%s", got, want)
	}
}

// FuzzSignature looks for requests that are taken without the secret, and for
// panics.
func FuzzSignature(f *testing.F) {
	const good = "AWS4-HMAC-SHA256 Credential=AK/20261122/us-east-1/kinesis/aws4_request, SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
	f.Add(good, "20261122T100000Z", "", "")
	f.Add("", "", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20261122%2Fus-east-1%2Fkinesis%2Faws4_request&X-Amz-Date=20261122T100000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00", "")
	f.Add(good, "20261122T100000Z", "a=%zz&=&&", "UNSIGNED-PAYLOAD")
	f.Add("AWS4-HMAC-SHA256 Credential=////,SignedHeaders=;,Signature=", "x", "X-Amz-Signature", "STREAMING-")
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, auth, date, query, sha string) {
		r := &http.Request{
			Method: http.MethodPost, Host: "localhost", Header: http.Header{},
			URL: &url.URL{Path: "/", RawQuery: query}, RequestURI: "/?" + query,
		}
		for name, v := range map[string]string{"Authorization": auth, "X-Amz-Date": date, "X-Amz-Content-Sha256": sha} {
			if v != "" {
				r.Header[name] = []string{v}
			}
		}
		for _, keys := range []map[string]Key{nil, {"AK": {AccessKey: "AK", SecretKey: conf.NewSecret("a secret nobody guesses 9f1c")}}} {
			v := &verifier{keys: keys, now: func() time.Time { return now }}
			sig, err := v.parse(r)
			if err != nil {
				if _, ok := errors.AsType[*apiError](err); !ok {
					t.Fatalf("error %v has no code", err)
				}
				continue
			}
			if err := v.precheck(sig); err != nil {
				continue
			}
			if err := v.verify(r, sig, nil, true); err == nil && keys != nil {
				t.Fatalf("taken without the secret: %q %q %q %q", auth, date, query, sha)
			}
		}
	})
}
