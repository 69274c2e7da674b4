package sigv4

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// The example of the Amazon S3 API Reference, "Signature Calculations for the
// Authorization Header: Transferring Payload in Multiple Chunks": 65 KiB of
// "a" in a chunk of 64 KiB and one of 1 KiB, and the same with a trailing
// checksum.
const (
	chunkSeed  = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
	chunkFirst = "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"
	chunkNext  = "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"
	chunkLast  = "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"

	trailerSeed  = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
	trailerFirst = "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"
	trailerNext  = "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"
	trailerLast  = "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"
	trailerEnd   = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
)

const docsHead = `PUT /examplebucket/chunkObject.txt HTTP/1.1
Host: s3.amazonaws.com
X-Amz-Date: 20130524T000000Z
X-Amz-Storage-Class: REDUCED_REDUNDANCY
Content-Encoding: aws-chunked
X-Amz-Decoded-Content-Length: 66560
`

func docsChunked() (head, body string) {
	head = docsHead + `X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD
Content-Length: 66824
Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class,Signature=` + chunkSeed
	body = "10000;chunk-signature=" + chunkFirst + "\r\n" + strings.Repeat("a", 65536) + "\r\n" +
		"400;chunk-signature=" + chunkNext + "\r\n" + strings.Repeat("a", 1024) + "\r\n" +
		"0;chunk-signature=" + chunkLast + "\r\n\r\n"
	return head, body
}

func docsTrailer() (head, body string) {
	head = docsHead + `X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER
X-Amz-Trailer: x-amz-checksum-crc32c
Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer,Signature=` + trailerSeed
	body = "10000;chunk-signature=" + trailerFirst + "\r\n" + strings.Repeat("a", 65536) + "\r\n" +
		"400;chunk-signature=" + trailerNext + "\r\n" + strings.Repeat("a", 1024) + "\r\n" +
		"0;chunk-signature=" + trailerLast + "\r\n" +
		"x-amz-checksum-crc32c:sOO8/Q==\r\n" +
		"x-amz-trailer-signature:" + trailerEnd + "\r\n\r\n"
	return head, body
}

func docsVerifier(with bool) *Verifier {
	o := Options{Now: func() time.Time { return time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC) }}
	if with {
		o.Secret = func(accessKey string) (string, bool, error) {
			return exampleSecretS3, accessKey == "AKIAIOSFODNN7EXAMPLE", nil
		}
	}
	return New(o)
}

// take parses and verifies a request in two parts. length is what the body's
// was when it was signed.
func take(t *testing.T, v *Verifier, head string, length int, body string, mayBeUnsigned bool) ([]byte, *http.Request, error) {
	t.Helper()
	r, _ := readVector(t, []byte(head+"\n\n"))
	r.ContentLength = int64(length)
	sig, err := Parse(r)
	if err != nil {
		return nil, r, err
	}
	if err := v.Precheck(sig, "s3", "kinesis"); err != nil {
		return nil, r, err
	}
	payload, err := v.Verify(r, sig, []byte(body), mayBeUnsigned)
	return payload, r, err
}

func codeOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("error %v has no code", err)
	}
	return e.Code
}

func TestPublishedChunks(t *testing.T) {
	want := strings.Repeat("a", 66560)
	for name, f := range map[string]func() (string, string){"chunks": docsChunked, "trailer": docsTrailer} {
		for _, withKeys := range []bool{true, false} {
			head, body := f()
			if name == "chunks" && len(body) != 66824 {
				t.Fatalf("the body has %d bytes", len(body))
			}
			payload, r, err := take(t, docsVerifier(withKeys), head, len(body), body, false)
			if err != nil || string(payload) != want {
				t.Errorf("%s, keys %v: %d bytes, %v", name, withKeys, len(payload), err)
			}
			if v := r.Header.Values("Content-Encoding"); len(v) > 0 {
				t.Errorf("%s: Content-Encoding is still %q", name, v)
			}
		}
	}
	// As the reference writes a trailer: with a line feed of its own.
	head, body := docsTrailer()
	if _, _, err := take(t, docsVerifier(true), head, len(body), strings.Replace(body, "sOO8/Q==\r\n", "sOO8/Q==\n\r\n", 1), false); err != nil {
		t.Error(err)
	}
}

// TestChunksAreVerified changes what may be changed of a body in chunks.
func TestChunksAreVerified(t *testing.T) {
	const sig, cut = "InvalidSignatureException", "IncompleteBody"
	first := "10000;chunk-signature=" + chunkFirst + "\r\n" + strings.Repeat("a", 65536) + "\r\n"
	for _, c := range []struct {
		name, old, new, code string
		trailer              bool
	}{
		{name: "data changed", old: "aaaaa\r\n0;", new: "aaaab\r\n0;", code: sig},
		{name: "first chunk's data changed", old: "a\r\n400;", new: "b\r\n400;", code: sig},
		{name: "first chunk left out", old: first, code: sig},
		{name: "first chunk twice", old: first, new: first + first, code: sig},
		{name: "signatures exchanged", old: chunkFirst, new: chunkNext, code: sig},
		{name: "a signature changed", old: chunkNext, new: "1" + chunkNext[1:], code: sig},
		{name: "the last signature changed", old: chunkLast, new: "c" + chunkLast[1:], code: sig},
		{name: "a signature in upper case", old: chunkNext, new: strings.ToUpper(chunkNext), code: cut},
		{name: "a signature too short", old: chunkNext, new: chunkNext[1:], code: cut},
		{name: "a signature missing", old: ";chunk-signature=" + chunkNext, code: cut},
		{name: "another extension", old: "400;chunk-signature", new: "400;chunk-sig", code: cut},
		{name: "the end missing", old: "0;chunk-signature=" + chunkLast + "\r\n\r\n", code: cut},
		{name: "the end's line missing", old: chunkLast + "\r\n\r\n", new: chunkLast + "\r\n", code: cut},
		{name: "something behind the end", old: chunkLast + "\r\n\r\n", new: chunkLast + "\r\n\r\nx", code: cut},
		{name: "a chunk's line end missing", old: "a\r\n400;", new: "a400;", code: cut},
		{name: "no size", old: "400;", new: ";", code: cut},
		{name: "a signed size", old: "400;", new: "+400;", code: cut},
		{name: "a size that is none", old: "400;", new: "4x0;", code: cut},
		{name: "a size too large", old: "400;", new: "40000000;", code: cut},
		{name: "a size of 17 digits", old: "400;", new: "10000000000000400;", code: cut},
		{name: "a long line", old: "400;", new: strings.Repeat("0", 200) + "400;", code: cut},
		{name: "a bare line feed", old: chunkNext + "\r\n", new: chunkNext + "\n", code: cut},
		{name: "a small chunk before the last", old: first, new: "1;chunk-signature=" + chunkFirst + "\r\na\r\n", code: sig},
		{trailer: true, name: "checksum changed", old: "sOO8/Q==", new: "sOO8/A==", code: sig},
		{trailer: true, name: "trailer signature changed", old: trailerEnd, new: "e" + trailerEnd[1:], code: sig},
		{trailer: true, name: "trailer signature missing", old: "x-amz-trailer-signature:" + trailerEnd + "\r\n", code: cut},
		{trailer: true, name: "trailer missing", old: "x-amz-checksum-crc32c:sOO8/Q==\r\n", code: sig},
		{trailer: true, name: "trailer twice", old: "x-amz-checksum", new: "x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-checksum", code: cut},
		{trailer: true, name: "another trailer", old: "x-amz-checksum-crc32c", new: "x-amz-checksum-crc32", code: cut},
		{trailer: true, name: "behind the signature", old: "x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:" + trailerEnd, new: "x-amz-trailer-signature:" + trailerEnd + "\r\nx-amz-checksum-crc32c:sOO8/Q==", code: cut},
		{trailer: true, name: "no header", old: "crc32c:sOO8", new: "crc32c sOO8", code: cut},
		{trailer: true, name: "no end", old: trailerEnd + "\r\n\r\n", new: trailerEnd + "\r\n", code: cut},
		{trailer: true, name: "a long trailer", old: "sOO8/Q==", new: strings.Repeat(" ", 300) + "sOO8/Q==", code: cut},
	} {
		t.Run(c.name, func(t *testing.T) {
			head, body := docsChunked()
			if c.trailer {
				head, body = docsTrailer()
			}
			if strings.Count(body, c.old) == 0 {
				t.Fatalf("nothing to change")
			}
			_, _, err := take(t, docsVerifier(true), head, len(body), strings.Replace(body, c.old, c.new, 1), false)
			if got := codeOf(t, err); got != c.code {
				t.Errorf("answered %q (%v), want %q", got, err, c.code)
			}
		})
	}
}

// The signer of AWS's SDK signs chunks too, as the events of an event stream
// without headers.
var sdkCreds = aws.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: exampleSecretS3}

// inChunks makes a signed request whose body comes in chunks of the sizes
// given.
func inChunks(t *testing.T, form, trailer string, payload []byte, sizes ...int) (head string, body []byte) {
	t.Helper()
	at := docsVerifier(false).now()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://box/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Content-Sha256", form)
	r.Header.Set("X-Amz-Decoded-Content-Length", strconv.Itoa(len(payload)))
	r.Header.Set("Content-Encoding", "gzip,aws-chunked")
	if trailer != "" {
		r.Header.Set("X-Amz-Trailer", trailer[:strings.IndexByte(trailer, ':')])
	}
	if err := v4.NewSigner().SignHTTP(t.Context(), sdkCreds, r, form, "kinesis", "eu-north-1", at); err != nil {
		t.Fatal(err)
	}
	auth := r.Header.Get("Authorization")
	seed, err := hex.DecodeString(auth[len(auth)-64:])
	if err != nil {
		t.Fatal(err)
	}
	chunks := v4.NewStreamSigner(sdkCreds, "kinesis", "eu-north-1", seed)
	last := seed
	for _, n := range append(sizes, 0) {
		var data []byte
		data, payload = payload[:n], payload[n:]
		body = strconv.AppendInt(body, int64(n), 16)
		if form != streamingPlain {
			if last, err = chunks.GetSignature(t.Context(), nil, data, at); err != nil {
				t.Fatal(err)
			}
			body = fmt.Appendf(body, ";chunk-signature=%x", last)
		}
		body = append(append(body, "\r\n"...), data...)
		if n > 0 {
			body = append(body, "\r\n"...)
		}
	}
	if trailer != "" {
		body = append(append(body, trailer...), "\r\n"...)
	}
	if form == streamingTrailer {
		text := fmt.Sprintf("AWS4-HMAC-SHA256-TRAILER\n20130524T000000Z\n20130524/eu-north-1/kinesis/aws4_request\n%x\n%x", last, sha256.Sum256([]byte(trailer+"\n")))
		key := derive(sdkCreds.SecretAccessKey, &Signature{date: "20130524", Region: "eu-north-1", Service: "kinesis"})
		body = fmt.Appendf(body, "x-amz-trailer-signature:%x\r\n", mac(key[:], []byte(text)))
	}
	body = append(body, "\r\n"...)
	head = "POST / HTTP/1.1\nHost: box"
	for name, values := range r.Header {
		head += "\n" + name + ": " + values[0]
	}
	return head, body
}

// The checksums of "123456789", the check values of the catalogues of CRCs and
// of FIPS 180.
var checkValues = map[string]string{
	"crc32":     "cbf43926",
	"crc32c":    "e3069283",
	"crc64nvme": "ae8b14860a799888",
	"sha1":      "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
	"sha256":    "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}

func TestTrailingChecksums(t *testing.T) {
	for name, digits := range checkValues {
		sum, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		good := base64.StdEncoding.EncodeToString(sum)
		sum[0] ^= 1
		for _, c := range []struct{ value, code string }{
			{good, ""},
			{" " + good + " ", ""},
			{base64.StdEncoding.EncodeToString(sum), "BadDigest"},
			{base64.StdEncoding.EncodeToString(sum[1:]), "InvalidRequest"},
			{"?", "InvalidRequest"},
			{"", "InvalidRequest"},
		} {
			head, body := inChunks(t, streamingPlain, "x-amz-checksum-"+name+":"+c.value, []byte("123456789"), 4, 5)
			payload, r, err := take(t, docsVerifier(true), head, len(body), string(body), true)
			if got := codeOf(t, err); got != c.code || err == nil && string(payload) != "123456789" {
				t.Errorf("%s %q: answered %q (%v), want %q", name, c.value, got, err, c.code)
			}
			if err == nil && r.Header.Get("Content-Encoding") != "gzip" {
				t.Errorf("Content-Encoding is %q", r.Header.Values("Content-Encoding"))
			}
			if _, _, err := take(t, docsVerifier(true), head, len(body), string(body), false); codeOf(t, err) != "InvalidSignatureException" {
				t.Errorf("unsigned chunks over an open connection: %v", err)
			}
		}
	}
}

// TestChunksOfTheSDK checks bodies that the SDK's signer has signed, and the
// sizes that chunks may have.
func TestChunksOfTheSDK(t *testing.T) {
	payload := []byte(strings.Repeat("0123456789abcdef", 4<<10))
	for _, c := range []struct {
		name  string
		sizes []int
		code  string
	}{
		{"one", []int{len(payload)}, ""},
		{"four", []int{8 << 10, 16 << 10, 32 << 10, 8 << 10}, ""},
		{"a small last one", []int{len(payload) - 1, 1}, ""},
		{"a small one in between", []int{32 << 10, 8<<10 - 1, 24<<10 + 1}, "InvalidChunkSizeError"},
		{"part of it", []int{32 << 10}, "IncompleteBody"},
	} {
		for _, form := range []string{streamingSigned, streamingTrailer} {
			trailer := ""
			if form == streamingTrailer {
				h := newChecksum("x-amz-checksum-crc64nvme")
				h.Write(payload)
				trailer = "x-amz-checksum-crc64nvme:" + base64.StdEncoding.EncodeToString(h.Sum(nil))
			}
			head, body := inChunks(t, form, trailer, payload, c.sizes...)
			got, _, err := take(t, docsVerifier(true), head, len(body), string(body), false)
			if code := codeOf(t, err); code != c.code || err == nil && string(got) != string(payload) {
				t.Errorf("%s, %s: answered %q (%v), want %q", c.name, form, code, err, c.code)
			}
		}
	}
	head, body := inChunks(t, streamingSigned, "", nil)
	if got, _, err := take(t, docsVerifier(true), head, len(body), string(body), false); err != nil || len(got) > 0 {
		t.Errorf("an empty payload: %q, %v", got, err)
	}
}

// TestChunkedHeaders: what the headers of a body in chunks must say.
func TestChunkedHeaders(t *testing.T) {
	for _, c := range []struct{ name, old, new, code string }{
		{"no length", "X-Amz-Decoded-Content-Length: 9\n", "", "MissingContentLength"},
		{"a length that is none", "Length: 9", "Length: -9", "MissingContentLength"},
		{"another length", "Length: 9", "Length: 8", "IncompleteBody"},
		{"no trailer named", "X-Amz-Trailer: x-amz-checksum-crc32\n", "", "InvalidRequest"},
		{"an unknown trailer", "checksum-crc32", "checksum-md5", "InvalidRequest"},
		{"a trailer twice", "x-amz-checksum-crc32", "x-amz-checksum-crc32, x-amz-checksum-crc32", "InvalidRequest"},
		{"a trailer that does not come", "x-amz-checksum-crc32", "x-amz-checksum-crc32,x-amz-checksum-sha1", "InvalidRequest"},
		{"two hashes", "X-Amz-Decoded-", "X-Amz-Content-Sha256: UNSIGNED-PAYLOAD\nX-Amz-Decoded-", "InvalidSignatureException"},
		{"an unknown form", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "InvalidSignatureException"},
	} {
		// Without keys, so that the headers may be changed.
		head, body := inChunks(t, streamingPlain, "x-amz-checksum-crc32:y/Q5Jg==", []byte("123456789"), 9)
		head += "\n"
		if _, _, err := take(t, docsVerifier(false), head[:len(head)-1], len(body), string(body), true); err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(head, c.old, c.new, 1)
		if changed == head {
			t.Fatalf("%s: nothing to change in %q", c.name, head)
		}
		_, _, err := take(t, docsVerifier(false), strings.TrimSuffix(changed, "\n"), len(body), string(body), true)
		if got := codeOf(t, err); got != c.code {
			t.Errorf("%s: answered %q (%v), want %q", c.name, got, err, c.code)
		}
	}
}

// FuzzChunks looks for bodies that are taken without the secret, and for
// panics.
func FuzzChunks(f *testing.F) {
	_, chunked := docsChunked()
	_, trailer := docsTrailer()
	f.Add([]byte(chunked), "66560", "")
	f.Add([]byte(trailer), "66560", "x-amz-checksum-crc32c")
	f.Add([]byte("4\r\n1234\r\n5\r\n56789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n"), "9", "x-amz-checksum-crc32")
	f.Add([]byte("0;chunk-signature="+chunkLast+"\r\n\r\n"), "0", "")
	f.Fuzz(func(t *testing.T, body []byte, length, trailer string) {
		for _, form := range []string{streamingSigned, streamingTrailer, streamingPlain} {
			how, _ := formOf(form)
			h := http.Header{"X-Amz-Decoded-Content-Length": {length}, "X-Amz-Trailer": {trailer}}
			u := unchunker{form: how}
			payload, err := u.payload(&http.Request{Header: h.Clone()}, append([]byte(nil), body...))
			if err != nil {
				codeOf(t, err)
				continue
			}
			if len(payload) > len(body) || strconv.Itoa(len(payload)) != strings.TrimLeft(length, "0") && len(payload) > 0 {
				t.Fatalf("%d bytes of %d, announced as %s", len(payload), len(body), length)
			}
			if !how.signed {
				continue
			}
			key := derive("a secret nobody guesses 9f1c", &Signature{})
			u = unchunker{form: how, key: &key, sig: &Signature{}}
			if _, err := u.payload(&http.Request{Header: h}, append([]byte(nil), body...)); err == nil {
				t.Fatalf("taken without the secret: %q", body)
			}
		}
	})
}
