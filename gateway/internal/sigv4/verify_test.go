package sigv4_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"forebay/gateway/internal/sigv4"
)

const testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

var (
	testCreds = aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: testSecret}
	testNow   = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
)

func secretOf(accessKey string) (string, bool, error) {
	switch accessKey {
	case "AKIDEXAMPLE":
		return testSecret, true, nil
	case "OTHER":
		return "another secret", true, nil
	case "BROKEN":
		return "", true, errors.New("no file")
	case "EMPTY":
		return "", true, nil
	}
	return "", false, nil
}

func verifier() *sigv4.Verifier {
	return sigv4.New(sigv4.Options{Secret: secretOf, Now: func() time.Time { return testNow }})
}

// A wire is a request as it arrives.
type wire struct {
	r    *http.Request
	body []byte
}

func (w wire) clone() wire {
	r := w.r.Clone(context.Background())
	return wire{r, slices.Clone(w.body)}
}

// arrive makes of a client's request what a server sees.
func arrive(r *http.Request, body []byte) wire {
	in := &http.Request{Method: r.Method, URL: &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}, Host: r.Host, Header: r.Header.Clone(), ContentLength: int64(len(body))}
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	in.RequestURI = r.URL.RequestURI()
	return wire{in, body}
}

func newRequest(t testing.TB, target string, header http.Header) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://box.example:4567"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range header {
		r.Header[name] = slices.Clone(v)
	}
	return r
}

func hexSum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// signed is a request that AWS's SDK has signed in its headers.
func signed(t testing.TB, target string, header http.Header, body []byte, at time.Time) wire {
	t.Helper()
	r := newRequest(t, target, header)
	r.ContentLength = int64(len(body))
	if err := v4.NewSigner().SignHTTP(t.Context(), testCreds, r, hexSum(body), "kinesis", "eu-north-1", at); err != nil {
		t.Fatal(err)
	}
	return arrive(r, body)
}

// presigned is a request that AWS's SDK has signed in its URL.
func presigned(t testing.TB, target string, header http.Header, body []byte, at time.Time) wire {
	t.Helper()
	r := newRequest(t, target, header)
	uri, kept, err := v4.NewSigner().PresignHTTP(t.Context(), testCreds, r, hexSum(body), "kinesis", "eu-north-1", at)
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.Parse(uri); err != nil {
		t.Fatal(err)
	}
	r.Header = kept.Clone()
	r.Header.Del("Host")
	r.Header.Del("Content-Length")
	return arrive(r, body)
}

// check takes a request through all of the verifier.
func check(v *sigv4.Verifier, w wire) error {
	sig, err := sigv4.Parse(w.r)
	if err != nil {
		return err
	}
	if err := v.Precheck(sig, "kinesis"); err != nil {
		return err
	}
	_, err = v.Verify(w.r, sig, w.body, false)
	return err
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return e.Code
	}
	if err != nil {
		return "no code: " + err.Error()
	}
	return ""
}

var testHeaders = http.Header{
	"Content-Type":         {"application/x-amz-json-1.1"},
	"X-Amz-Target":         {"Kinesis_20131202.PutRecord"},
	"X-Amz-Security-Token": {"a token"},
	"X-Thing":              {"a", "b c"},
	"Accept-Encoding":      {"identity"},
}

// TestSignedByTheSDK takes requests as AWS's SDK signs them, whatever they
// look like. (It leaves dot segments in a path, which the test suite takes out.)
func TestSignedByTheSDK(t *testing.T) {
	v := verifier()
	for _, target := range []string{
		"/", "/?a=1", "/?b=2&a=%20%2B&c&a=1&A=3&a-b=4", "/a/b", "/a%20b/%E1%88%B4", "/?x=%E1%88%B4&y=*~'()", "/ingest/line-1?key=a%2Fb",
	} {
		for _, body := range []string{"", "{}", strings.Repeat("x", 100_000)} {
			for name, sign := range map[string]func(testing.TB, string, http.Header, []byte, time.Time) wire{"header": signed, "URL": presigned} {
				if err := check(v, sign(t, target, testHeaders, []byte(body), testNow)); err != nil {
					t.Errorf("%s, signed in the %s: %v", target, name, err)
				}
			}
		}
	}
}

// A mutation is a change to a request on its way.
type mutation struct {
	name   string
	change func(wire) wire
}

// flips are the values that a text may be turned into without saying the same
// any more.
func flips(s string) []string {
	out := []string{s + "x", "x" + s, ""}
	for i := range len(s) {
		for _, bit := range []byte{0x01, 0x04, 0x20} {
			b := []byte(s)
			if b[i] ^= bit; b[i] > ' ' && b[i] < 0x7f {
				out = append(out, string(b))
			}
		}
	}
	return slices.DeleteFunc(out, func(f string) bool { return f == s })
}

// mutations changes every part of a request that its signature covers: the
// method, the host, the path, each parameter, each header, the body.
func mutations(w wire) []mutation {
	var all []mutation
	add := func(name string, change func(wire) wire) { all = append(all, mutation{name, change}) }
	for _, m := range []string{"GET", "PUT", "post"} {
		add("method "+m, func(w wire) wire { w.r.Method = m; return w })
	}
	for _, h := range flips(w.r.Host) {
		add("host "+h, func(w wire) wire { w.r.Host = h; return w })
	}
	path, query, _ := strings.Cut(w.r.RequestURI, "?")
	for _, p := range []string{path + "x", path + "x/", "/x" + path, path + "%2F", path + "/..%2F"} {
		add("path "+p, func(w wire) wire { return w.at(p, query) })
	}
	all = append(all, queryMutations(path, query)...)
	for name, values := range w.r.Header {
		for i, v := range values {
			for _, f := range flips(v) {
				add("header "+name+" "+f, func(w wire) wire { w.r.Header[name][i] = f; return w })
			}
		}
		add("header "+name+" twice", func(w wire) wire { w.r.Header.Add(name, values[0]); return w })
		add("header "+name+" gone", func(w wire) wire { delete(w.r.Header, name); return w })
	}
	for _, name := range []string{"X-Amz-Target2", "X-Amz-Content-Sha256", "X-Amz-User-Agent", "X-Amz-Decoded-Content-Length"} {
		add("header "+name+" added", func(w wire) wire { w.r.Header.Set(name, "UNSIGNED-PAYLOAD"); return w })
	}
	for i := 0; i < len(w.body); i += max(1, len(w.body)/64) {
		add(fmt.Sprint("body, byte ", i), func(w wire) wire { w.body[i] ^= 1; return w })
	}
	add("body longer", func(w wire) wire { w.body = append(w.body, ' '); return w })
	add("body shorter", func(w wire) wire { w.body = w.body[:len(w.body)-1]; return w })
	add("body gone", func(w wire) wire { w.body = nil; return w })
	return all
}

func (w wire) at(path, query string) wire {
	w.r.RequestURI = path + "?" + query
	w.r.URL.RawQuery = query
	return w
}

func queryMutations(path, query string) []mutation {
	all := []mutation{{"a parameter added", func(w wire) wire { return w.at(path, query+"&zz=1") }}}
	parts := strings.Split(query, "&")
	for i, p := range parts {
		if p == "" {
			continue
		}
		replaced := func(by ...string) string {
			return strings.Join(slices.Concat(parts[:i:i], by, parts[i+1:]), "&")
		}
		all = append(all,
			mutation{"parameter " + p + " gone", func(w wire) wire { return w.at(path, replaced()) }},
			mutation{"parameter " + p + " twice", func(w wire) wire { return w.at(path, replaced(p, p)) }},
		)
		for _, f := range flips(p) {
			if a, err := url.PathUnescape(f); err == nil && !strings.ContainsAny(f, "&#") && f != "" {
				b, err := url.PathUnescape(p)
				// "=" may stand or not where the value is empty, %4a is %4A.
				if err != nil || strings.TrimSuffix(a, "=") == strings.TrimSuffix(b, "=") {
					continue
				}
			}
			all = append(all, mutation{"parameter " + p + " is " + f, func(w wire) wire { return w.at(path, replaced(f)) }})
		}
	}
	return all
}

// TestEveryChangeIsRefused changes signed requests in some thousand ways.
func TestEveryChangeIsRefused(t *testing.T) {
	v := verifier()
	header := http.Header{}
	for name, values := range testHeaders {
		if name != "Accept-Encoding" { // which the SDK does not sign
			header[name] = values
		}
	}
	body := []byte(`{"StreamName":"s","PartitionKey":"k","Data":"aGk="}`)
	for name, w := range map[string]wire{
		"header": signed(t, "/?b=2&a=%41", header, body, testNow),
		"URL":    presigned(t, "/?b=2&X-Amz-Expires=60", header, body, testNow),
	} {
		if err := check(v, w.clone()); err != nil {
			t.Fatalf("signed in the %s: %v", name, err)
		}
		all := mutations(w)
		if len(all) < 500 {
			t.Fatalf("only %d changes", len(all))
		}
		codes := map[string]int{}
		for _, m := range all {
			err := check(v, m.change(w.clone()))
			code := codeOf(err)
			codes[code]++
			if code == "" || strings.HasPrefix(code, "no code") {
				t.Errorf("signed in the %s, %s: %v", name, m.name, err)
			}
		}
		t.Logf("signed in the %s: %d changes, refused as %v", name, len(all), codes)
	}
}

// TestDates: five minutes either way, a life in the URL, and a server that
// does not trust its clock.
func TestDates(t *testing.T) {
	trusted := true
	lax := sigv4.New(sigv4.Options{Secret: secretOf, Now: func() time.Time { return testNow }, AnyDate: func() bool { return !trusted }})
	for _, c := range []struct {
		name     string
		off      time.Duration
		life     string // in the URL, "" in the header
		untimely bool
	}{
		{name: "now"},
		{name: "on the edge", off: -5 * time.Minute},
		{name: "on the other edge", off: 5 * time.Minute},
		{name: "old", off: -5*time.Minute - time.Second, untimely: true},
		{name: "ahead", off: 5*time.Minute + time.Second, untimely: true},
		{name: "years ago", off: -30 * 365 * 24 * time.Hour, untimely: true},
		{name: "in years", off: 30 * 365 * 24 * time.Hour, untimely: true},
		{name: "URL", life: "60"},
		{name: "URL in its life", off: -59 * time.Second, life: "60"},
		{name: "URL behind its life", off: -61 * time.Second, life: "60", untimely: true},
		{name: "URL in a long life", off: -6 * 24 * time.Hour, life: "604800"},
		{name: "URL behind a long life", off: -8 * 24 * time.Hour, life: "604800", untimely: true},
		{name: "URL ahead", off: 6 * time.Minute, life: "604800", untimely: true},
	} {
		w := signed(t, "/", testHeaders, nil, testNow.Add(c.off))
		if c.life != "" {
			w = presigned(t, "/?X-Amz-Expires="+c.life, testHeaders, nil, testNow.Add(c.off))
		}
		want := ""
		if c.untimely {
			want = "InvalidSignatureException"
		}
		trusted = true
		for name, v := range map[string]*sigv4.Verifier{"strict": verifier(), "lax, but in time": lax} {
			err := check(v, w)
			if got := codeOf(err); got != want {
				t.Errorf("%s, %s: answered %q (%v), want %q", c.name, name, got, err, want)
			}
			if err != nil && !strings.Contains(err.Error(), "20261122T100000Z") {
				t.Errorf("%s: the answer does not say the time: %v", c.name, err)
			}
		}
		trusted = false
		if c.life == "" {
			want = ""
		}
		if got := codeOf(check(lax, w)); got != want {
			t.Errorf("%s, clock not trusted: answered %q, want %q", c.name, got, want)
		}
		w.r.Header.Add("X-Amz-Target", "x")
		if codeOf(check(lax, w)) == "" {
			t.Errorf("%s: a changed request is taken while the clock is not trusted", c.name)
		}
	}
}

// TestRefusals: what a signature may not say, and how it is told.
func TestRefusals(t *testing.T) {
	v := verifier()
	const malformed, mismatch, unknown = "IncompleteSignatureException", "InvalidSignatureException", "UnrecognizedClientException"
	for _, c := range []struct{ name, old, new, code, text string }{
		{"as signed", "", "", "", ""},
		{"Signature Version 4A", "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", malformed, "Signature Version 4A"},
		{"another algorithm", "AWS4-HMAC-SHA256", "AWS3", malformed, "use 'AWS4-HMAC-SHA256'"},
		{"another service", "/kinesis/", "/s3/", mismatch, "scoped to correct service: 'kinesis'"},
		{"another region", "eu-north-1", "eu-north-2", mismatch, "does not match"},
		{"no region", "eu-north-1", "", malformed, "a region"},
		{"no key", "AKIDEXAMPLE", "", malformed, "an access key"},
		{"another key", "AKIDEXAMPLE", "OTHER", mismatch, "does not match"},
		{"an unknown key", "AKIDEXAMPLE", "NOBODY", unknown, "security token"},
		{"a key without a secret", "AKIDEXAMPLE", "BROKEN", "no code: no file", ""},
		{"a key with an empty secret", "AKIDEXAMPLE", "EMPTY", `no code: access key "EMPTY": the secret is empty`, ""},
		{"another day", "/20261122/", "/20261121/", mismatch, "'20261121' != '20261122'"},
		{"a day that is none", "/20261122/", "/20261322/", malformed, "YYYYMMDD"},
		{"another end", "aws4_request", "aws4", mismatch, "valid terminator"},
		{"a header in upper case", "host;", "Host;", malformed, "lower-case"},
		{"a header twice", "host;", "host;host;", malformed, "each once"},
		{"many headers", "host;", "host;" + strings.Repeat("h;", 300), malformed, "more than 256"},
		{"no host", "host;", "", mismatch, "'Host' or ':authority'"},
		{"no date", "x-amz-date;", "", mismatch, "'x-amz-date'"},
		{"headers in another order", "content-type;host", "host;content-type", mismatch, "does not match"},
		{"a header more", "host;", "host;x-none;", mismatch, "does not match"},
		{"a part twice", "Signature=", "Signature=00, Signature=", malformed, "twice"},
		{"a part that is none", "Signature=", "What, Signature=", malformed, "not a valid key=value pair"},
		{"a short signature", "Signature=", "Signature=0", malformed, "64 lower-case"},
	} {
		w := signed(t, "/", testHeaders, []byte("{}"), testNow)
		auth := w.r.Header.Get("Authorization")
		if !strings.Contains(auth, c.old) {
			t.Fatalf("%s: nothing to change in %s", c.name, auth)
		}
		w.r.Header.Set("Authorization", strings.Replace(auth, c.old, c.new, 1))
		err := check(v, w)
		if got := codeOf(err); got != c.code || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: answered %v, want %s with %q", c.name, err, c.code, c.text)
		}
	}
}

func TestBasic(t *testing.T) {
	free := sigv4.New(sigv4.Options{Now: time.Now})
	for _, c := range []struct{ user, password, code, free string }{
		{"AKIDEXAMPLE", testSecret, "", ""},
		{"OTHER", "another secret", "", ""},
		{"AKIDEXAMPLE", "another secret", "UnrecognizedClientException", ""},
		{"AKIDEXAMPLE", testSecret + "x", "UnrecognizedClientException", ""},
		{"AKIDEXAMPLE", "", "UnrecognizedClientException", ""},
		{"NOBODY", "", "UnrecognizedClientException", ""},
		{"", "", "UnrecognizedClientException", ""},
		{"BROKEN", "", "no code: no file", ""},
		{"EMPTY", "", `no code: access key "EMPTY": the secret is empty`, ""},
	} {
		r := newRequest(t, "/", nil)
		r.SetBasicAuth(c.user, c.password)
		if !sigv4.Basic(r) {
			t.Errorf("%q is not Basic", r.Header)
		}
		who, err := verifier().VerifyBasic(r)
		if got := codeOf(err); got != c.code || err == nil && who != c.user {
			t.Errorf("%s:%s is %q, %v; want %q", c.user, c.password, who, err, c.code)
		}
		if who, err := free.VerifyBasic(r); err != nil || who != c.user {
			t.Errorf("%s:%s without keys is %q, %v", c.user, c.password, who, err)
		}
	}
	for _, auth := range []string{"", "Basic", "Basic !", "Bearer x", "AWS4-HMAC-SHA256 Credential=a"} {
		r := newRequest(t, "/", http.Header{"Authorization": {auth}})
		_, err := verifier().VerifyBasic(r)
		if sigv4.Basic(r) || codeOf(err) != "MissingAuthenticationTokenException" {
			t.Errorf("%q is Basic, %v", auth, err)
		}
	}
}

// TestChangedSecret: a derived key is of no use once its secret has changed.
func TestChangedSecret(t *testing.T) {
	secret := testSecret
	v := sigv4.New(sigv4.Options{
		Secret: func(string) (string, bool, error) { return secret, true, nil },
		Now:    func() time.Time { return testNow },
	})
	w := signed(t, "/", nil, nil, testNow)
	for range 3 {
		if err := check(v, w); err != nil {
			t.Fatal(err)
		}
		secret = "new"
		if err := check(v, w); codeOf(err) != "InvalidSignatureException" {
			t.Fatalf("signed with the secret before: %v", err)
		}
		secret = testSecret
	}
}

// TestUnsigned: an unsigned payload is for connections that nobody changes.
func TestUnsigned(t *testing.T) {
	v := verifier()
	r := newRequest(t, "/", http.Header{"X-Amz-Content-Sha256": {"UNSIGNED-PAYLOAD"}})
	if err := v4.NewSigner().SignHTTP(t.Context(), testCreds, r, "UNSIGNED-PAYLOAD", "kinesis", "eu-north-1", testNow); err != nil {
		t.Fatal(err)
	}
	w := arrive(r, []byte("anything"))
	sig, err := sigv4.Parse(w.r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := v.Verify(w.r, sig, w.body, true); err != nil || !bytes.Equal(got, w.body) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := v.Verify(w.r, sig, w.body, false); codeOf(err) != "InvalidSignatureException" {
		t.Errorf("over an open connection: %v", err)
	}
	if sig.AccessKey != "AKIDEXAMPLE" || sig.Region != "eu-north-1" || sig.Service != "kinesis" || !sig.At.Equal(testNow) || sig.Presigned {
		t.Errorf("signature is %+v", sig)
	}
}
