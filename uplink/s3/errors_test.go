package s3_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

// What S3 and what is not S3 answers to a PUT, and what it means.
func TestErrorsByClass(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string // "-": an answer that is not S3's
		class  lane.Class
	}{
		{503, "SlowDown", lane.Throttled},
		{503, "ServiceUnavailable", lane.Transient},
		{500, "InternalError", lane.Ambiguous},
		{409, "ConditionalRequestConflict", lane.Transient},
		{409, "OperationAborted", lane.Transient},
		{400, "BadDigest", lane.Transient},
		{400, "RequestTimeout", lane.Transient},
		{400, "IncompleteBody", lane.Transient},
		{400, "EntityTooLarge", lane.Misconfigured},
		{400, "InvalidStorageClass", lane.Misconfigured},
		{501, "NotImplemented", lane.Misconfigured},
		{404, "NoSuchBucket", lane.Misconfigured},
		{301, "PermanentRedirect", lane.Misconfigured},
		{403, "AccessDenied", lane.Auth},
		{403, "InvalidAccessKeyId", lane.Auth},
		{403, "SignatureDoesNotMatch", lane.Auth},
		{400, "ExpiredToken", lane.Auth},
		{403, "RequestTimeTooSkewed", lane.ClockSkew},
		{413, "-", lane.Misconfigured},
		{503, "-", lane.Transient},
		{502, "-", lane.Ambiguous},
		{200, "-", lane.Offline},
		{302, "-", lane.Offline},
		{412, "-", lane.Offline},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c.code == "-" {
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(c.status)
				fmt.Fprint(w, "<html>Welcome</html>")
				return
			}
			refuse(w, c.status, c.code, "because")
		}))
		cfg := s3.Config{Bucket: bucket}
		cfg.Access = aws.Access{Endpoint: srv.URL, Region: region, AccessKey: accessKey, SecretKey: conf.NewSecret(secretKey)}
		s, err := s3.New(cfg, lane.Home{ID: identity})
		if err != nil {
			t.Fatal(err)
		}
		b := []lane.Batch{batchOf(laneOf(1), 1, 3)}
		for range 2 {
			o := s.Send(t.Context(), b)[0]
			if o.Done != 0 || o.Class != c.class || o.Err == nil || strings.Contains(o.Err.Error(), secretKey) {
				t.Errorf("HTTP %d %s: %+v, want %v", c.status, c.code, o, c.class)
			}
		}
		srv.Close()
	}
}

// One lane's failure is its own.
func TestLanesFailAlone(t *testing.T) {
	f := newFar(t)
	s := f.open(s3.Config{})
	f.misbehave(func(op, key string) string {
		if op == "PUT" && strings.Contains(key, ".2.") {
			return "503"
		}
		return ""
	})
	out := s.Send(t.Context(), []lane.Batch{batchOf(laneOf(1), 1, 9), batchOf(laneOf(2), 1, 9), batchOf(laneOf(3), 1, 9)})
	if out[0].Done != 9 || out[2].Done != 9 || out[1].Done != 0 || out[1].Class != lane.Throttled {
		t.Errorf("%+v", out)
	}
}

// What was done before the failure counts.
func TestTheFirstObjectsOfABatchCount(t *testing.T) {
	f := newFar(t)
	s := f.open(s3.Config{})
	f.misbehave(func(op, key string) string {
		if op == "PUT" && strings.Contains(key, "hr=13") {
			return "cut before"
		}
		return ""
	})
	if o := s.Send(t.Context(), []lane.Batch{batchOf(laneOf(1), 1, 2000)})[0]; o.Done != 1799 || o.Class == lane.OK {
		t.Errorf("%+v", o)
	}
	f.misbehave(nil)
	sendAll(t, s, batchOf(laneOf(1), 1800, 2000))
	f.exactly(laneOf(1), 2000)
}

func TestAClockThatIsWrong(t *testing.T) {
	for _, skew := range []time.Duration{24 * time.Hour, -24 * time.Hour, 10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
		f := newFar(t)
		f.skew = skew
		s := f.open(s3.Config{})
		b := []lane.Batch{batchOf(laneOf(1), 1, 3)}
		if o := s.Send(t.Context(), b)[0]; o.Class != lane.ClockSkew {
			t.Fatalf("%v: %+v", skew, o)
		}
		sendAll(t, s, b[0])
		if off := s.ClockOffset() - skew; off > 2*time.Minute || off < -2*time.Minute {
			t.Errorf("offset %v, want %v", s.ClockOffset(), skew)
		}
	}
}

func TestProbe(t *testing.T) {
	f := newFar(t)
	s := f.open(s3.Config{})
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := s3.Config{Bucket: "another"}
	cfg.Access = aws.Access{Endpoint: f.srv.URL, Region: region, AccessKey: accessKey, SecretKey: conf.NewSecret(secretKey)}
	no, err := s3.New(cfg, lane.Home{ID: identity})
	if err != nil {
		t.Fatal(err)
	}
	e, ok := errors.AsType[*lane.Error](no.Probe(t.Context()))
	if !ok || e.Class != lane.Misconfigured || e.Code != "NoSuchBucket" {
		t.Errorf("a bucket that is not there: %v", e)
	}
	cfg.SecretKey = conf.NewSecret("another")
	if no, err = s3.New(cfg, lane.Home{ID: identity}); err != nil {
		t.Fatal(err)
	}
	if e, ok = errors.AsType[*lane.Error](no.Probe(t.Context())); !ok || e.Class != lane.Auth || !strings.Contains(e.Error(), "SignatureDoesNotMatch") {
		t.Errorf("a wrong key: %v", e)
	}
	f.misbehave(func(string, string) string { return "html" })
	if e, ok = errors.AsType[*lane.Error](s.Probe(t.Context())); !ok || e.Class != lane.Offline {
		t.Errorf("a captive portal: %v", e)
	}
}

func TestConfig(t *testing.T) {
	good := s3.Config{Bucket: "lake-1", Access: aws.Access{Region: "eu-central-1"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*s3.Config){
		"bucket":          func(c *s3.Config) { c.Bucket = "a/b" },
		"prefix":          func(c *s3.Config) { c.Prefix = "/a" },
		"endpoint":        func(c *s3.Config) { c.Endpoint = "s3" },
		"region":          func(c *s3.Config) { c.Region = "Mars" },
		"addressing":      func(c *s3.Config) { c.Addressing, c.Endpoint = "virtual", "http://10.0.0.5:9000" },
		"objects":         func(c *s3.Config) { c.Objects = "csv" },
		"format":          func(c *s3.Config) { c.Format, c.Objects = "raw", "parquet" },
		"compression":     func(c *s3.Config) { c.Compression = "lz4" },
		"object_size":     func(c *s3.Config) { c.ObjectSize = 1 << 10 },
		"max_age":         func(c *s3.Config) { c.MaxAge = conf.Duration(2 * time.Hour) },
		"storage_class":   func(c *s3.Config) { c.StorageClass = "cold please" },
		"encryption":      func(c *s3.Config) { c.Encryption = "rot13" },
		"kms_key":         func(c *s3.Config) { c.KMSKey = "x" },
		"conditional":     func(c *s3.Config) { c.Conditional = "maybe" },
		"access_key":      func(c *s3.Config) { c.AccessKey = "x" },
		"request_timeout": func(c *s3.Config) { c.RequestTimeout = 1 },
	} {
		c := good
		change(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := s3.New(c, lane.Home{ID: identity}); err == nil {
			t.Errorf("%s: a sink is made of it", want)
		}
	}
	for _, prefix := range []string{"a//b", "a/../b", ".", "a/", "ä", "a b", "a%"} {
		c := good
		c.Prefix = prefix
		if c.Check() == nil {
			t.Errorf("prefix %q is taken", prefix)
		}
	}
	if got := good.Target(); got != "Amazon S3 eu-central-1, lake-1/forebay" {
		t.Errorf("target %q", got)
	}
}
