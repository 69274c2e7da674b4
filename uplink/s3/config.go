// Package s3 is the uplink to Amazon S3 and to whatever speaks its protocol:
// versitygw, MinIO, Ceph, Garage.
//
// Records become objects of many records, NDJSON or Parquet, partitioned by
// stream and by the hour of their arrival; the bytes of a video chunk become
// an object of their own.
//
// Exactly once: an object is named after the first record in it and is created
// only where that name is free (If-None-Match: *); how far it goes stands in
// its metadata. So of two tries that begin with the same record, whatever
// their lengths, the target keeps one, also where the first arrives late. What
// the target holds of a lane is asked when the lane is met and after every
// failure, and records that are there count as delivered; see
// docs/decisions/0018-s3-objects.md.
package s3

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
)

const (
	defaultObject = 8 << 20
	minObject     = 64 << 10
	maxObject     = 64 << 20
	defaultAge    = time.Minute
	maxAge        = time.Hour
	defaultLimit  = time.Minute
	defaultPrefix = "forebay"
)

// Config is the table [uplink.s3] of the config file. Zero means the
// documented default.
type Config struct {
	// Where the service is and who we are there. The region is the bucket's.
	aws.Access
	// Bucket is the target's name. It must exist. Required.
	Bucket string `toml:"bucket"`
	// Prefix is what the names of all objects begin with, without a slash at
	// its ends. Default "forebay".
	Prefix string `toml:"prefix"`
	// Addressing says where the bucket's name stands: "path" in the path,
	// "virtual" before the host's name. Default: "path" where an endpoint is
	// given, else "virtual".
	Addressing string `toml:"addressing"`
	// Objects is what records become: "ndjson" (a JSON object a line) or
	// "parquet". Default "ndjson".
	Objects string `toml:"objects"`
	// Format is what a line of NDJSON is: "envelope" (JSON with id, times,
	// source, attributes and data; what came here in an envelope keeps that
	// one) or "raw" (the payload alone; ids, times and attributes are lost).
	// Parquet has a column for each instead. Default "envelope".
	Format string `toml:"format"`
	// Compression of NDJSON is "zstd", "gzip" or "none". Parquet is always
	// compressed inside, with zstd. Default "zstd".
	Compression string `toml:"compression"`
	// ObjectSize is how many bytes of keys and payloads an object holds at
	// most where a backlog is sent, before compression; 64KiB to 64MiB. A
	// single record may be larger. Default 8MiB.
	ObjectSize conf.Size `toml:"object_size"`
	// MaxAge is how long a record waits for others to share an object with,
	// at most 1h. Each lane (a shard of a stream) makes an object of its own in
	// that time, and each object is a PUT to pay for. Default 1m.
	MaxAge conf.Duration `toml:"max_age"`
	// StorageClass is what objects are stored as, such as "STANDARD_IA" or
	// "INTELLIGENT_TIERING". Default: the bucket's.
	StorageClass string `toml:"storage_class"`
	// Encryption asks for encryption at the target: "AES256", "aws:kms" or
	// "aws:kms:dsse". Default: what the bucket does by itself.
	Encryption string `toml:"encryption"`
	// KMSKey is the id or ARN of the key, with encryption = "aws:kms" or
	// "aws:kms:dsse". Default: the account's own key for S3.
	KMSKey string `toml:"kms_key"`
	// Conditional is "on" or "off". On, objects are created with
	// If-None-Match, and a target that ignores it is refused. Off is for a
	// target that knows no conditional writes: duplicates are then kept out
	// by asking what is there, but not where a request arrives long after the
	// gateway gave it up. Default "on".
	Conditional string `toml:"conditional"`
	// RequestTimeout bounds one request, beside the time that its bytes need
	// on a slow link. Default 1m.
	RequestTimeout conf.Duration `toml:"request_timeout"`
}

var (
	bucketRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9]$`)
	prefixRE = regexp.MustCompile(`^[a-zA-Z0-9!_.*'()=-]+(/[a-zA-Z0-9!_.*'()=-]+)*$`)
	classRE  = regexp.MustCompile(`^[A-Z0-9_]{1,40}$`)
)

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if !bucketRE.MatchString(c.Bucket) {
		return fmt.Errorf("bucket: %q is not the name of a bucket; use 3 to 63 of a-z, 0-9, . and -", c.Bucket)
	}
	if c.Prefix != "" && (!prefixRE.MatchString(c.Prefix) || len(c.Prefix) > 256 || dotted(c.Prefix)) {
		return fmt.Errorf("prefix: %q is not a prefix; use at most 256 letters, digits and !_.*'()=- with / between them, and none at the ends", c.Prefix)
	}
	if err := c.checkWhere(); err != nil {
		return err
	}
	for _, w := range []struct {
		name, value string
		words       []string
	}{
		{"addressing", c.Addressing, []string{"path", "virtual"}},
		{"objects", c.Objects, []string{"ndjson", "parquet"}},
		{"format", c.Format, []string{"envelope", "raw"}},
		{"compression", c.Compression, []string{"zstd", "gzip", "none"}},
		{"encryption", c.Encryption, []string{"AES256", "aws:kms", "aws:kms:dsse"}},
		{"conditional", c.Conditional, []string{"on", "off"}},
	} {
		if err := word(w.name, w.value, w.words); err != nil {
			return err
		}
	}
	if c.Objects == "parquet" {
		if c.Format == "raw" {
			return fmt.Errorf("format: \"raw\" goes with objects = \"ndjson\"; Parquet has columns for what an envelope holds")
		}
		if c.Compression != "" && c.Compression != "zstd" {
			return fmt.Errorf("compression: %q goes with objects = \"ndjson\"; Parquet is compressed inside, with zstd", c.Compression)
		}
	}
	if n := c.ObjectSize; n != 0 && (n < minObject || n > maxObject) {
		return fmt.Errorf("object_size: %s is not between 64KiB and 64MiB", n)
	}
	if d := c.MaxAge.D(); d > maxAge {
		return fmt.Errorf("max_age: %s is more than 1h", c.MaxAge)
	}
	if c.StorageClass != "" && !classRE.MatchString(c.StorageClass) {
		return fmt.Errorf("storage_class: %q is not a storage class; write for example \"STANDARD_IA\"", c.StorageClass)
	}
	if c.KMSKey != "" && !strings.HasPrefix(c.Encryption, "aws:kms") {
		return fmt.Errorf("kms_key: goes with encryption = \"aws:kms\"")
	}
	if strings.ContainsFunc(c.KMSKey, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("kms_key: %q is not the id or ARN of a key", c.KMSKey)
	}
	if d := c.RequestTimeout.D(); d != 0 && (d < time.Second || d > time.Hour) {
		return fmt.Errorf("request_timeout: %s is not between 1s and 1h", c.RequestTimeout)
	}
	return nil
}

// checkWhere says whether the place can be meant.
func (c Config) checkWhere() error {
	if err := c.Access.Check(); err != nil {
		return err
	}
	if err := c.CheckWhere(); err != nil {
		return err
	}
	if c.Addressing == "virtual" && c.Endpoint != "" {
		if u, err := url.Parse(c.Endpoint); err == nil && net.ParseIP(u.Hostname()) != nil {
			return fmt.Errorf("addressing: \"virtual\" needs an endpoint with a name; %s is an address", u.Hostname())
		}
	}
	return nil
}

func word(name, value string, words []string) error {
	if value == "" || slices.Contains(words, value) {
		return nil
	}
	return fmt.Errorf("%s: %q is not \"%s\"", name, value, strings.Join(words, "\" or \""))
}

// dotted reports whether a part of a path is "." or "..", which some targets
// take for a directory.
func dotted(path string) bool {
	for p := range strings.SplitSeq(path, "/") {
		if p == "." || p == ".." {
			return true
		}
	}
	return false
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	return c.Where("Amazon S3") + ", " + c.Bucket + "/" + c.WithDefaults().Prefix
}

// WithDefaults fills in what was left out and does not depend on the machine.
func (c Config) WithDefaults() Config {
	def := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	def(&c.Prefix, defaultPrefix)
	if c.Endpoint != "" {
		def(&c.Addressing, "path")
	}
	def(&c.Addressing, "virtual")
	def(&c.Objects, "ndjson")
	def(&c.Format, "envelope")
	def(&c.Compression, "zstd")
	def(&c.Conditional, "on")
	c.ObjectSize = conf.Size(c.ObjectSize.Or(defaultObject))
	c.MaxAge = conf.Duration(c.MaxAge.Or(defaultAge))
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(defaultLimit))
	return c
}
