package kinesis_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/kinesis"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x0123456789abcdef}

const secret = "wJalrXUtnFEMI-very-secret"

func config(endpoint string) kinesis.Config {
	return kinesis.Config{Stream: "target", Access: aws.Access{
		Endpoint: endpoint, Region: "eu-central-1", AccessKey: "AKIDTEST", SecretKey: conf.NewSecret(secret),
	}}
}

func open(t *testing.T, cfg kinesis.Config) *kinesis.Sink {
	t.Helper()
	s, err := kinesis.New(cfg, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func batch(shard record.ShardID, payloads ...string) lane.Batch {
	b := lane.Batch{Lane: lane.Lane{Stream: "mqtt", Shard: shard, Hash: record.HashOf(fmt.Sprint(shard))}}
	for i, p := range payloads {
		b.Recs = append(b.Recs, record.Record{Key: "k", Data: []byte(p), Pos: record.Pos{Shard: shard, Seq: uint64(i + 1)}})
	}
	return b
}

type put struct {
	StreamName string
	Records    []struct {
		Data                          []byte
		PartitionKey, ExplicitHashKey string
	}
}

// serve answers PutRecords by f, and everything else as a stream that is there.
func serve(t *testing.T, f func(w http.ResponseWriter, r *http.Request, in put)) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(handler(t, f))
	t.Cleanup(srv.Close)
	return srv
}

func handler(t *testing.T, f func(w http.ResponseWriter, r *http.Request, in put)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Target") != "Kinesis_20131202.PutRecords" {
			fmt.Fprint(w, `{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}`)
			return
		}
		var in put
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("request: %v", err)
			return
		}
		if r.Header.Get("Content-Type") != cborMedia {
			if err := json.Unmarshal(body, &in); err != nil {
				t.Errorf("request: %v", err)
			}
			f(w, r, in)
			return
		}
		if err := cbor.Unmarshal(body, &in); err != nil || body[0] != 0xa2 {
			t.Errorf("request: %v, or not a map of two members", err)
		}
		f(inCBOR{w}, r, in)
	})
}

const cborMedia = "application/x-amz-cbor-1.1"

// inCBOR writes in CBOR what a test answers in JSON.
type inCBOR struct{ http.ResponseWriter }

func (w inCBOR) Write(b []byte) (int, error) {
	var v map[string]any
	if json.Unmarshal(b, &v) != nil {
		return w.ResponseWriter.Write(b)
	}
	out, err := cbor.Marshal(v)
	if err != nil {
		return 0, err
	}
	if _, err = w.ResponseWriter.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (w inCBOR) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

func accept(w http.ResponseWriter, in put) {
	entries := make([]string, len(in.Records))
	for i := range entries {
		entries[i] = `{"SequenceNumber":"1","ShardId":"shardId-000000000000"}`
	}
	fmt.Fprintf(w, `{"FailedRecordCount":0,"Records":[%s]}`, strings.Join(entries, ","))
}

// Answers that are not an acknowledgement are none, and their words are for
// an operator; no error ever holds a secret.
func TestAnswers(t *testing.T) {
	for _, wire := range []string{"cbor", "json"} {
		t.Run(wire, func(t *testing.T) { answers(t, wire) })
	}
}

func answers(t *testing.T, wire string) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, in put)
		class  lane.Class
		words  string
	}{
		"portal": {func(w http.ResponseWriter, _ put) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, "<html>Welcome</html>")
		}, lane.Offline, "captive portal?"},
		"redirect": {func(w http.ResponseWriter, _ put) {
			w.Header().Set("Location", "http://portal.invalid/")
			w.WriteHeader(302)
		}, lane.Offline, "redirect"},
		"empty 200":      {func(http.ResponseWriter, put) {}, lane.Offline, "captive portal?"},
		"other JSON":     {func(w http.ResponseWriter, _ put) { fmt.Fprint(w, `{"ok":true}`) }, lane.Offline, "0 answers to 1 records"},
		"too few":        {func(w http.ResponseWriter, _ put) { fmt.Fprint(w, `{"Records":[]}`) }, lane.Offline, "0 answers"},
		"nothing said":   {func(w http.ResponseWriter, _ put) { fmt.Fprint(w, `{"Records":[{}]}`) }, lane.Ambiguous, "neither"},
		"an endless one": {func(w http.ResponseWriter, _ put) { fmt.Fprint(w, strings.Repeat(" ", 8<<20)) }, lane.Offline, "captive portal?"},
		"cut in the middle": {func(w http.ResponseWriter, _ put) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"Records":[`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, lane.Ambiguous, "cut"},
		"cut": {func(http.ResponseWriter, put) { panic(http.ErrAbortHandler) }, lane.Ambiguous, "cut"},
		"retry after": {func(w http.ResponseWriter, _ put) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
		}, lane.Throttled, "429"},
		"bad secret": {func(w http.ResponseWriter, _ put) {
			w.WriteHeader(403)
			fmt.Fprint(w, `{"__type":"InvalidSignatureException","message":"The request signature we calculated does not match"}`)
		}, lane.Auth, "refuses the credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request, in put) { c.answer(w, in) })
			cfg := config(srv.URL)
			cfg.Wire = wire
			o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, `{"a":1}`)})[0]
			if o.Done != 0 || o.Class != c.class || o.Err == nil || !strings.Contains(o.Err.Error(), c.words) {
				t.Fatalf("%+v, want %v and %q", o, c.class, c.words)
			}
			if name == "retry after" && o.RetryAfter != 7*time.Second {
				t.Errorf("RetryAfter %v", o.RetryAfter)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", o.Err, o.Err, o.Err), secret) {
				t.Error("the secret is in the error")
			}
		})
	}
}

// A target that takes the connection and says nothing.
func TestHalfOpen(t *testing.T) {
	gone := make(chan struct{})
	srv := serve(t, func(http.ResponseWriter, *http.Request, put) { <-gone })
	defer close(gone)
	cfg := config(srv.URL)
	cfg.RequestTimeout = conf.Duration(time.Second)
	o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "1")})[0]
	if o.Class != lane.Ambiguous || !strings.Contains(o.Err.Error(), "no answer") {
		t.Errorf("%+v", o)
	}
}

// Where only a lookup was sent and cut, no record can have been taken: the
// target is not there.
func TestLookupWithoutAnAnswer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer srv.Close()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	s := open(t, config(srv.URL))
	if o := s.Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Class != lane.Offline || !strings.Contains(o.Err.Error(), "cut") {
		t.Errorf("%+v", o)
	}
	if e, ok := errors.AsType[*lane.Error](s.Probe(t.Context())); !ok || e.Class != lane.Offline {
		t.Errorf("probe: %v", e)
	}
}

// Where the target calls a request invalid, the one record that is to blame is
// found, and everything else arrives, in order.
func TestFindsTheGuilty(t *testing.T) {
	var requests atomic.Int32
	taken := make(map[string][]string)
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request, in put) {
		requests.Add(1)
		for _, r := range in.Records {
			if strings.Contains(string(r.Data), "guilty") {
				w.WriteHeader(400)
				fmt.Fprint(w, `{"__type":"ValidationException","message":"1 validation error detected: Value at 'records.1.member.data' failed"}`)
				return
			}
		}
		for _, r := range in.Records {
			if a, err := kpl.Decode(r.Data); err == nil {
				for _, u := range a.All() {
					taken[r.ExplicitHashKey] = append(taken[r.ExplicitHashKey], string(u.Data))
				}
			} else {
				taken[r.ExplicitHashKey] = append(taken[r.ExplicitHashKey], string(r.Data))
			}
		}
		accept(w, in)
	})
	cfg := config(srv.URL)
	cfg.Format = "raw"
	s := open(t, cfg)
	var payloads []string
	for i := range 100 {
		payloads = append(payloads, fmt.Sprint(i))
	}
	bad := slices.Clone(payloads)
	bad[70] = "guilty"
	out := s.Send(t.Context(), []lane.Batch{batch(1, payloads...), batch(2, bad...), batch(3, payloads...)})
	if out[0].Done != 100 || out[2].Done != 100 {
		t.Errorf("the innocent: %+v, %+v", out[0], out[2])
	}
	if o := out[1]; o.Done != 70 || o.Class != lane.Poison || !strings.Contains(o.Err.Error(), "ValidationException") {
		t.Errorf("the guilty: %+v", o)
	}
	if n := requests.Load(); n > 20 {
		t.Errorf("%d requests to find one record of 300", n)
	}
	for hash, got := range taken {
		if !slices.Equal(got, payloads[:len(got)]) {
			t.Errorf("lane %s: %v", hash, got)
		}
	}
}

// In the format raw an aggregate's records travel one by one: consumers unpack
// one level only.
func TestRawUnpacksAggregates(t *testing.T) {
	var got []string
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request, in put) {
		for _, r := range in.Records {
			a, err := kpl.Decode(r.Data)
			if err != nil {
				t.Errorf("%v", err)
				continue
			}
			for _, u := range a.All() {
				if u.HashKey != r.ExplicitHashKey {
					t.Errorf("hash key %q inside, %q outside", u.HashKey, r.ExplicitHashKey)
				}
				got = append(got, u.Key+"="+string(u.Data))
			}
		}
		accept(w, in)
	})
	cfg := config(srv.URL)
	cfg.Format = "raw"
	var enc kpl.Encoder
	enc.Add("a", "", []byte("1"))
	enc.Add("b", "77", []byte("2"))
	o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "before", string(enc.AppendTo(nil)), "after")})[0]
	if o.Done != 3 {
		t.Fatalf("%+v", o)
	}
	if want := []string{"k=before", "a=1", "b=2", "k=after"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestTLS(t *testing.T) {
	var proto atomic.Int32
	srv := httptest.NewUnstartedServer(handler(t, func(w http.ResponseWriter, r *http.Request, in put) {
		proto.Store(int32(r.ProtoMajor))
		accept(w, in)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	cfg := config(srv.URL)
	o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "1")})[0]
	if o.Class != lane.Offline || !strings.Contains(o.Err.Error(), "set ca") {
		t.Errorf("an unknown authority: %+v", o)
	}
	cfg.CA = filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(cfg.CA, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Done != 1 || proto.Load() != 2 {
		t.Errorf("%+v over HTTP/%d", o, proto.Load())
	}
}

func TestCredentials(t *testing.T) {
	var auth atomic.Value
	srv := serve(t, func(w http.ResponseWriter, r *http.Request, in put) {
		auth.Store(r.Header.Get("Authorization"))
		accept(w, in)
	})
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"} {
		t.Setenv(name, "")
	}
	file := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	cfg := config(srv.URL)
	cfg.AccessKey, cfg.SecretKey, cfg.Region = "", conf.Secret{}, ""
	o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "1")})[0]
	if o.Class != lane.Auth || !strings.Contains(o.Err.Error(), "no credentials") {
		t.Errorf("without any: %+v", o)
	}
	if err := os.WriteFile(file, []byte("[plant]\naws_access_key_id = AKIDFILE\naws_secret_access_key = x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Profile = "plant"
	if o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Done != 1 || !strings.Contains(auth.Load().(string), "Credential=AKIDFILE/") {
		t.Errorf("profile: %+v, %v", o, auth.Load())
	}
	cfg.Profile = ""
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	if o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Done != 1 || !strings.Contains(auth.Load().(string), "Credential=AKIDENV/") {
		t.Errorf("environment: %+v, %v", o, auth.Load())
	}
	cfg.AccessKey, cfg.SecretKey = "AKIDTEST", conf.NewSecret("env:NO_SUCH_VARIABLE_HERE")
	if o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Class != lane.Auth || !strings.Contains(o.Err.Error(), "secret_key") {
		t.Errorf("a secret that cannot be read: %+v", o)
	}
}

func TestCheck(t *testing.T) {
	good := kinesis.Config{Access: aws.Access{Region: "eu-central-1"}, Stream: "site-{stream}"}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(c *kinesis.Config){
		"stream":          func(c *kinesis.Config) { c.Stream = "a b" },
		"endpoint":        func(c *kinesis.Config) { c.Endpoint = "https://user:" + secret + "@host" },
		"region":          func(c *kinesis.Config) { c.Region = "Frankfurt" },
		"create_shards":   func(c *kinesis.Config) { c.CreateShards = -1 },
		"format":          func(c *kinesis.Config) { c.Format = "xml" },
		"aggregate":       func(c *kinesis.Config) { c.Aggregate = "maybe" },
		"access_key":      func(c *kinesis.Config) { c.AccessKey = "A" },
		"secret_key":      func(c *kinesis.Config) { c.SecretKey = conf.NewSecret(secret) },
		"profile":         func(c *kinesis.Config) { c.AccessKey, c.SecretKey, c.Profile = "A", conf.NewSecret(secret), "p" },
		"ca":              func(c *kinesis.Config) { c.CA = "/no/such/file" },
		"wire":            func(c *kinesis.Config) { c.Wire = "xml" },
		"max_record":      func(c *kinesis.Config) { c.MaxRecord = 1 },
		"request_timeout": func(c *kinesis.Config) { c.RequestTimeout = 1 },
	} {
		c := good
		change(&c)
		err := c.Check()
		if err == nil || !strings.HasPrefix(err.Error(), field+": ") || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := (kinesis.Config{}).Check(); err == nil {
		t.Error("an empty config passes")
	}
}

func TestProbe(t *testing.T) {
	status, body := 200, `{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer srv.Close()
	s := open(t, config(srv.URL))
	for _, c := range []struct {
		status int
		body   string
		class  lane.Class
	}{
		{200, body, lane.OK},
		{400, `{"__type":"ResourceNotFoundException"}`, lane.OK},
		{400, `{"__type":"UnknownOperationException"}`, lane.OK},
		{400, `{"__type":"LimitExceededException"}`, lane.OK},
		{400, `{"__type":"AccessDeniedException"}`, lane.OK},
		{400, `{"__type":"ExpiredTokenException"}`, lane.Auth},
		{400, `{"__type":"ValidationException","message":"x"}`, lane.Misconfigured},
		{200, `<html>`, lane.Offline},
		{200, ``, lane.Offline},
		{500, ``, lane.Ambiguous},
	} {
		status, body = c.status, c.body
		err := s.Probe(t.Context())
		var e *kinesis.Error
		if got := errors.As(err, &e); got != (c.class != lane.OK) || (got && e.LaneClass() != c.class) {
			t.Errorf("%d %s: %v, want %v", c.status, c.body, err, c.class)
		}
	}
}
