package s3_test

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	accessKey = "AKIDTEST"
	secretKey = "not/a+secret"
	region    = "eu-central-1"
	bucket    = "lake-1"
)

// far is a bucket that holds its client to the protocol: the signature of
// version 4, the checksums, conditional writes; and that misbehaves as it is
// told.
type far struct {
	t   testing.TB
	srv *httptest.Server

	mu      sync.Mutex
	objects map[string]object
	asked   map[string]int // requests by operation
	log     []string
	fault   func(op, key string) string // "", or the name of a fault
	late    []func()                    // PUTs that the far side does later
	skew    time.Duration
	old     bool // ignores If-None-Match
	most    int  // bytes of a body that get through; 0: all
	listed  int  // objects in all lists
}

type object struct {
	body   []byte
	header http.Header
}

func newFar(t testing.TB) *far {
	f := &far{t: t, objects: make(map[string]object), asked: make(map[string]int)}
	f.srv = httptest.NewServer(f)
	t.Cleanup(f.srv.Close)
	return f
}

func (f *far) misbehave(fault func(op, key string) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// limit cuts what has a larger body.
func (f *far) limit(most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.most = most
}

func (f *far) keys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.objects))
}

func (f *far) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[op]
}

func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.most > 0 && len(body) > f.most {
		panic(http.ErrAbortHandler)
	}
	now := time.Now().Add(f.skew)
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	w.Header().Set("X-Amz-Request-Id", "1")
	name, key, err := target(r)
	if err != nil {
		refuse(w, 400, "InvalidURI", err.Error())
		return
	}
	op := operation(r, key)
	f.asked[op]++
	f.log = append(f.log, op+" "+key)
	if code, text := f.signed(r, body, now); code != "" {
		refuse(w, 403, code, text)
		return
	}
	fault := ""
	if f.fault != nil {
		fault = f.fault(op, key)
	}
	switch fault {
	case "503":
		refuse(w, 503, "SlowDown", "Please reduce your request rate.")
		return
	case "500":
		refuse(w, 500, "InternalError", "We encountered an internal error. Please try again.")
		return
	case "denied":
		refuse(w, 403, "AccessDenied", "Access Denied")
		return
	case "conflict":
		refuse(w, 409, "ConditionalRequestConflict", "A conflicting operation occurred.")
		return
	case "html":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html><body>Welcome! Please accept the terms.</body></html>")
		return
	case "cut before":
		panic(http.ErrAbortHandler)
	}
	if name != bucket {
		refuse(w, 404, "NoSuchBucket", "The specified bucket does not exist")
		return
	}
	answer := httptest.NewRecorder()
	do := func() {
		switch op {
		case "PUT":
			f.put(answer, r, key, body)
		case "HEAD", "GET":
			f.get(answer, op, key)
		case "LIST":
			f.list(answer, r.URL.Query())
		default:
			refuse(answer, 405, "MethodNotAllowed", op)
		}
	}
	if fault == "late" {
		f.late = append(f.late, do)
		panic(http.ErrAbortHandler)
	}
	do()
	switch fault {
	case "500 after":
		refuse(w, 500, "InternalError", "We encountered an internal error. Please try again.")
	case "cut after":
		panic(http.ErrAbortHandler)
	default:
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		if op != "HEAD" {
			_, _ = w.Write(answer.Body.Bytes()) // the client may have gone
		}
	}
}

// settle does what was put off.
func (f *far) settle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, do := range f.late {
		do()
	}
	f.late = nil
}

func operation(r *http.Request, key string) string {
	if r.Method == http.MethodGet && key == "" && r.URL.Query().Get("list-type") == "2" {
		return "LIST"
	}
	return r.Method
}

// target is bucket and key, from the host or the path.
func target(r *http.Request) (name, key string, err error) {
	path, err := url.PathUnescape(r.URL.EscapedPath())
	if err != nil {
		return "", "", err
	}
	path = strings.TrimPrefix(path, "/")
	if host, ok := strings.CutSuffix(r.Host, ".s3.test"); ok {
		return host, path, nil
	}
	name, key, _ = strings.Cut(path, "/")
	return name, key, nil
}

func refuse(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message><RequestId>1</RequestId></Error>`, code, text)
}

func (f *far) put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	sum := sha256.Sum256(body)
	if got := r.Header.Get("X-Amz-Checksum-Sha256"); got != base64.StdEncoding.EncodeToString(sum[:]) {
		refuse(w, 400, "BadDigest", "The checksum you specified did not match: "+got)
		return
	}
	if len(key) > 1024 {
		refuse(w, 400, "KeyTooLongError", "Your key is too long")
		return
	}
	if _, there := f.objects[key]; there && r.Header.Get("If-None-Match") == "*" && !f.old {
		refuse(w, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
		return
	}
	f.objects[key] = object{bytes.Clone(body), r.Header.Clone()}
	w.Header().Set("Etag", `"`+hex.EncodeToString(sum[:16])+`"`)
	w.WriteHeader(200)
}

func (f *far) get(w http.ResponseWriter, op, key string) {
	o, there := f.objects[key]
	if !there {
		refuse(w, 404, "NoSuchKey", "The specified key does not exist.")
		return
	}
	sum := sha256.Sum256(o.body)
	w.Header().Set("Etag", `"`+hex.EncodeToString(sum[:16])+`"`)
	w.Header().Set("Content-Type", o.header.Get("Content-Type"))
	w.Header().Set("Content-Length", strconv.Itoa(len(o.body)))
	for k, v := range o.header {
		if strings.HasPrefix(k, "X-Amz-Meta-") {
			w.Header()[k] = v
		}
	}
	w.WriteHeader(200)
	_, _ = w.Write(o.body) // a recorder
}

type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Name                  string
	Prefix                string
	IsTruncated           bool
	KeyCount              int
	NextContinuationToken string `xml:",omitempty"`
	Contents              []listed
	CommonPrefixes        []common
}

type listed struct {
	Key  string
	Size int
}

type common struct{ Prefix string }

func (f *far) list(w http.ResponseWriter, q url.Values) {
	most := 1000
	if n, err := strconv.Atoi(q.Get("max-keys")); err == nil {
		most = min(n, 1000)
	}
	after := max(q.Get("start-after"), q.Get("continuation-token"))
	prefix, delimiter := q.Get("prefix"), q.Get("delimiter")
	out := listing{Name: bucket, Prefix: prefix}
	last := ""
	for _, k := range slices.Sorted(maps.Keys(f.objects)) {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok || k <= after {
			continue
		}
		show := k
		if i := strings.Index(rest, delimiter); delimiter != "" && i >= 0 {
			show = prefix + rest[:i+1]
			if show == last || strings.HasPrefix(after, show) {
				continue
			}
		}
		if len(out.Contents)+len(out.CommonPrefixes) == most {
			out.IsTruncated, out.NextContinuationToken = true, last
			break
		}
		if show == k {
			out.Contents = append(out.Contents, listed{k, len(f.objects[k].body)})
		} else {
			out.CommonPrefixes = append(out.CommonPrefixes, common{show})
		}
		last = show
	}
	f.listed += len(out.Contents)
	out.KeyCount = len(out.Contents) + len(out.CommonPrefixes)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(200)
	_ = xml.NewEncoder(w).Encode(out) // a recorder
}

// signed checks the signature, version 4 (AWS, Signature Calculations for the
// Authorization Header, single chunk); an error code, or "".
func (f *far) signed(r *http.Request, body []byte, now time.Time) (code, text string) {
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return "AccessDenied", "no signature"
	}
	parts := make(map[string]string)
	for p := range strings.SplitSeq(auth, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		parts[k] = v
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil {
		return "AccessDenied", "no date"
	}
	if d := now.Sub(at); d > 15*time.Minute || d < -15*time.Minute {
		return "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
	}
	scope := date[:8] + "/" + region + "/s3/aws4_request"
	if parts["Credential"] != accessKey+"/"+scope {
		return "AuthorizationHeaderMalformed", "the scope is " + parts["Credential"]
	}
	sum := sha256.Sum256(body)
	if r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
		return "XAmzContentSHA256Mismatch", "the payload's hash is another"
	}
	names := strings.Split(parts["SignedHeaders"], ";")
	if !slices.IsSorted(names) || !slices.Contains(names, "host") {
		return "AccessDenied", "signed headers"
	}
	for k := range r.Header {
		if k = strings.ToLower(k); strings.HasPrefix(k, "x-amz-") && !slices.Contains(names, k) {
			return "AccessDenied", "there is a header that was not signed: " + k
		}
	}
	var canon strings.Builder
	raw := r.URL.EscapedPath()
	plain, err := url.PathUnescape(raw)
	if err != nil {
		return "InvalidURI", err.Error()
	}
	fmt.Fprintf(&canon, "%s\n%s\n%s\n", r.Method, uriEncode(plain, false), canonicalQuery(r.URL.Query()))
	for _, n := range names {
		v := r.Header.Get(n)
		switch n {
		case "host":
			v = r.Host
		case "content-length":
			v = cmp.Or(v, strconv.FormatInt(r.ContentLength, 10))
		}
		fmt.Fprintf(&canon, "%s:%s\n", n, strings.Join(strings.Fields(v), " "))
	}
	fmt.Fprintf(&canon, "\n%s\n%s", parts["SignedHeaders"], r.Header.Get("X-Amz-Content-Sha256"))
	hash := sha256.Sum256([]byte(canon.String()))
	key := []byte("AWS4" + secretKey)
	for _, s := range []string{date[:8], region, "s3", "aws4_request"} {
		key = mac(key, s)
	}
	want := hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+hex.EncodeToString(hash[:])))
	if parts["Signature"] != want {
		return "SignatureDoesNotMatch", "of " + r.Method + " " + raw
	}
	return "", ""
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}

func uriEncode(s string, slash bool) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.~", c) >= 0, c == '/' && !slash:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func canonicalQuery(q url.Values) string {
	var out []string
	for k, vs := range q {
		for _, v := range vs {
			out = append(out, uriEncode(k, true)+"="+uriEncode(v, true))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "&")
}
