package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

const (
	// metaLast is the sequence number of an object's last record, metaCount
	// how many there are, metaFormat what a line of it is: what the object's
	// name does not say.
	metaLast   = "X-Amz-Meta-Forebay-Last"
	metaCount  = "X-Amz-Meta-Forebay-Records"
	metaFormat = "X-Amz-Meta-Forebay-Format"
	// metaCover is what else the object says of its records, see lane.Cover.
	metaCover = "X-Amz-Meta-Forebay-Cover"
	// slowest is the link on which a request may take its time, in bytes a
	// second.
	slowest = 4 << 10
)

// A store is the bucket.
type store struct {
	client *aws.Client
	cfg    *Config
	base   url.URL // of the bucket, ends with a slash
}

func newStore(cfg *Config, log *slog.Logger) (*store, error) {
	c, err := aws.NewClient(cfg.Access, aws.Options{
		Service: "s3", Name: "S3", Timeout: cfg.RequestTimeout.D(), Conns: 2 * parallel, Classify: classify, Log: log,
	})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(c.Endpoint())
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	s := &store{client: c, cfg: cfg, base: url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}}
	if cfg.Addressing == "virtual" {
		s.base.Host = cfg.Bucket + "." + u.Host
	} else {
		s.base.Path = "/" + cfg.Bucket + "/"
	}
	return s, nil
}

// classify knows S3's own codes (API reference, Error responses).
func classify(code, message string, status int) (lane.Class, bool) {
	switch code {
	case "ServiceUnavailable":
		if strings.Contains(message, "reduce") {
			return lane.Throttled, true
		}
	case "ConditionalRequestConflict", "OperationAborted", "BadDigest", "XAmzContentSHA256Mismatch",
		"XAmzContentChecksumMismatch", "IncompleteBody", "InvalidDigest", "NotFound", "NoSuchKey":
		return lane.Transient, true
	case "NotImplemented", "EntityTooLarge", "QuotaExceeded", "InsufficientStorage", "XMinioStorageFull":
		return lane.Misconfigured, true
	}
	return lane.OK, false
}

// asError is err as a *lane.Error; one that is none is Transient.
func asError(err error) *lane.Error {
	if e := (*lane.Error)(nil); errors.As(err, &e) {
		return e
	}
	return &lane.Error{Class: lane.Transient, Text: "the request failed", Err: err}
}

// url is the address of an object, "" for the bucket itself.
func (s *store) url(name string, q url.Values) string {
	u := s.base
	u.Path += name
	u.RawPath = escapePath(u.Path)
	u.RawQuery = q.Encode()
	return u.String()
}

// escapePath escapes as S3 wants it signed: all but the unreserved characters
// of RFC 3986 and the slash.
func escapePath(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; strings.IndexByte(plain, c) >= 0 || c == '.' || c == '~' || c == '/' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// An upload is an object to create.
type upload struct {
	name, kind string
	once       bool // only where nothing has its name
	meta       map[string]string
	size       int64
	sum        []byte // SHA-256
	body       *aws.Buffer
	open       func() (io.ReadCloser, error) // where there is no body
}

// put creates an object. false: there is one of that name.
func (s *store) put(ctx context.Context, o *upload) (bool, error) {
	if o.body != nil {
		sum := sha256.Sum256(o.body.B)
		o.sum, o.size = sum[:], int64(len(o.body.B))
	}
	h := make(http.Header)
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("Content-Type", o.kind)
	set("X-Amz-Checksum-Sha256", base64.StdEncoding.EncodeToString(o.sum))
	set("X-Amz-Storage-Class", s.cfg.StorageClass)
	set("X-Amz-Server-Side-Encryption", s.cfg.Encryption)
	set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", s.cfg.KMSKey)
	if o.once {
		set("If-None-Match", "*")
	}
	for k, v := range o.meta {
		set(k, v)
	}
	r := &aws.Request{
		Method: http.MethodPut, URL: s.url(o.name, nil), Header: h, Timeout: s.limit(o.size),
		Body: o.body, Stream: o.open, Size: o.size, Sum: hex.EncodeToString(o.sum),
	}
	a, err := s.client.Send(ctx, r)
	if err != nil {
		e := asError(err)
		switch {
		case o.once && e.Code == "PreconditionFailed":
			return false, nil
		case e.Code == "NotImplemented" && o.once:
			e.Text = "the target knows no conditional writes (If-None-Match), which keep duplicates out; set conditional = \"off\" to do without: " + e.Text
		case e.Class == lane.Poison: // of an object of many records
			e.Class, e.Text = lane.Misconfigured, "the target takes no object as large as this one; set object_size lower: "+e.Text
		}
		return false, e
	}
	if a.Header.Get("ETag") == "" || page(a) {
		return false, &lane.Error{Class: lane.Offline, Text: s.client.Portal(a.Status, a.Header)}
	}
	s.client.Learn(a)
	return true, nil
}

// page reports whether an answer to a PUT, which is empty where it is S3's, is
// a page: web servers give an ETag to those, too.
func page(a *aws.Answer) bool {
	kind := strings.ToLower(a.Header.Get("Content-Type"))
	return strings.HasPrefix(kind, "text/html") || strings.HasPrefix(kind, "application/xhtml") ||
		strings.HasPrefix(http.DetectContentType(a.Body), "text/html")
}

// limit is how long a request with a body of that size may take.
func (s *store) limit(size int64) time.Duration {
	return s.cfg.RequestTimeout.D() + time.Duration(size/slowest)*time.Second
}

// head gives the header of an object; nil if there is none.
func (s *store) head(ctx context.Context, name string) (http.Header, error) {
	a, err := s.client.Send(ctx, &aws.Request{Method: http.MethodHead, URL: s.url(name, nil)})
	if a == nil {
		return nil, err
	}
	there := err == nil
	if !there && asError(err).Code != "NotFound" {
		if s.stranger(a) && a.Status < 500 && page(a) {
			err = &lane.Error{Class: lane.Offline, Text: s.client.Portal(a.Status, a.Header)}
		}
		return nil, err
	}
	if s.stranger(a) && a.Header.Get(metaLast) == "" {
		if err := s.confirm(ctx, a, name, there); err != nil {
			return nil, err
		}
	}
	if !there {
		return nil, nil
	}
	if a.Header.Get("ETag") == "" {
		return nil, &lane.Error{Class: lane.Offline, Text: s.client.Portal(a.Status, a.Header)}
	}
	s.client.Learn(a)
	return a.Header, nil
}

// stranger reports whether an answer may be anybody's: it came over plain HTTP
// and has none of the headers that S3 (Common Response Headers) and most that
// speak its protocol set. Some set none.
func (s *store) stranger(a *aws.Answer) bool {
	if s.base.Scheme == "https" {
		return false
	}
	for name := range a.Header {
		if strings.HasPrefix(name, "X-Amz-") || strings.HasPrefix(name, "X-Goog-") || strings.HasPrefix(name, "X-Guploader-") {
			return false
		}
	}
	return true
}

// confirm asks by a list, whose answer only S3 writes, for what a stranger's
// answer without a body says of an object.
func (s *store) confirm(ctx context.Context, a *aws.Answer, name string, there bool) error {
	if page(a) {
		return &lane.Error{Class: lane.Offline, Text: s.client.Portal(a.Status, a.Header)}
	}
	l, err := s.list(ctx, url.Values{"prefix": {name}, "max-keys": {"1"}})
	if err != nil {
		return err
	}
	if found := len(l.Contents) > 0 && l.Contents[0].Key == name; found != there {
		return &lane.Error{Class: lane.Transient, Text: fmt.Sprintf("the target says both that the object %s is there and that it is not", name)}
	}
	return nil
}

// get opens an object.
func (s *store) get(ctx context.Context, name string, size int64) (*http.Response, error) {
	resp, err := s.client.Open(ctx, &aws.Request{Method: http.MethodGet, URL: s.url(name, nil), Timeout: s.limit(size)})
	if err != nil {
		return nil, err
	}
	if resp.Header.Get("ETag") == "" {
		resp.Body.Close()
		return nil, &lane.Error{Class: lane.Offline, Text: s.client.Portal(resp.StatusCode, resp.Header)}
	}
	return resp, nil
}

// A listing is an answer to ListObjectsV2.
type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string
	Contents              []struct {
		Key  string
		Size int64
	}
	CommonPrefixes []struct{ Prefix string }
}

// list lists what begins with a prefix and comes behind a name, or goes on
// with a token.
func (s *store) list(ctx context.Context, q url.Values) (*listing, error) {
	q.Set("list-type", "2")
	a, err := s.client.Send(ctx, &aws.Request{Method: http.MethodGet, URL: s.url("", q)})
	if err != nil {
		return nil, err
	}
	var out listing
	if err := xml.Unmarshal(a.Body, &out); err != nil {
		return nil, &lane.Error{Class: lane.Offline, Text: s.client.Portal(a.Status, a.Header)}
	}
	s.client.Learn(a)
	return &out, nil
}

// metaNumber reads a number out of an object's metadata.
func metaNumber(h http.Header, name string) (uint64, bool) {
	n, err := strconv.ParseUint(h.Get(name), 10, 64)
	return n, err == nil
}
