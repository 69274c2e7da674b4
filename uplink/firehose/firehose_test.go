package firehose_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/envelope"
	"forebay/uplink/firehose"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x0123456789abcdef}

const (
	secret = "wJalrXUtnFEMI-very-secret"
	active = `{"DeliveryStreamDescription":{"DeliveryStreamStatus":"ACTIVE","DeliveryStreamType":"DirectPut"}}`
)

func config(endpoint string) firehose.Config {
	return firehose.Config{Stream: "target", Access: aws.Access{
		Endpoint: endpoint, Region: "eu-central-1", AccessKey: "AKIDTEST", SecretKey: conf.NewSecret(secret),
	}}
}

func open(t *testing.T, cfg firehose.Config) *firehose.Sink {
	t.Helper()
	s, err := firehose.New(cfg, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
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
	b := lane.Batch{Lane: lane.Lane{Stream: "mqtt", Shard: shard}}
	for i, p := range payloads {
		b.Recs = append(b.Recs, record.Record{Key: "k", Data: []byte(p), Pos: record.Pos{Shard: shard, Seq: uint64(i + 1)}})
	}
	return b
}

type put struct {
	DeliveryStreamName string
	Records            []struct{ Data []byte }
}

// A door is a Firehose: its answers to PutRecordBatch are answer's, or else it
// takes everything.
type door struct {
	*httptest.Server
	mu       sync.Mutex
	describe string
	answer   func(w http.ResponseWriter, in put) bool // true: it has answered
	taken    []string
	requests int
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{describe: active}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if r.Header.Get("X-Amz-Target") != "Firehose_20150804.PutRecordBatch" {
			if strings.HasPrefix(d.describe, `{"__type"`) {
				w.WriteHeader(400)
			}
			fmt.Fprint(w, d.describe)
			return
		}
		d.requests++
		var in put
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Errorf("request: %v", err)
		}
		if d.answer != nil && d.answer(w, in) {
			return
		}
		entries := make([]string, len(in.Records))
		for i, e := range in.Records {
			d.taken = append(d.taken, string(e.Data))
			entries[i] = `{"RecordId":"r"}`
		}
		fmt.Fprintf(w, `{"FailedPutCount":0,"RequestResponses":[%s]}`, strings.Join(entries, ","))
	}))
	t.Cleanup(d.Close)
	return d
}

// Each class of failure, and the words for it; no error holds a secret.
func TestAnswers(t *testing.T) {
	says := func(status int, body string) func(http.ResponseWriter, put) bool {
		return func(w http.ResponseWriter, _ put) bool {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	entry := func(code, text string) func(http.ResponseWriter, put) bool {
		return says(200, `{"FailedPutCount":1,"RequestResponses":[{"ErrorCode":"`+code+`","ErrorMessage":"`+text+`"}]}`)
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, put) bool
		class  lane.Class
		words  string
	}{
		"slow down":         {says(500, `{"__type":"ServiceUnavailableException","message":"Slow down."}`), lane.Throttled, "Slow down"},
		"slow down, one":    {entry("ServiceUnavailableException", "Slow down."), lane.Throttled, "Slow down"},
		"failure, one":      {entry("InternalFailure", ""), lane.Transient, "InternalFailure"},
		"limit":             {says(400, `{"__type":"LimitExceededException"}`), lane.Throttled, "Limit"},
		"failure":           {says(500, `{"__type":"InternalFailure"}`), lane.Ambiguous, "InternalFailure"},
		"no such stream":    {says(400, `{"__type":"ResourceNotFoundException","message":"Firehose target under account 1 not found."}`), lane.Misconfigured, "not found"},
		"another source":    {says(400, `{"__type":"InvalidSourceException","message":"Only Direct PUT"}`), lane.Misconfigured, "Direct PUT"},
		"key":               {says(400, `{"__type":"InvalidKMSResourceException"}`), lane.Misconfigured, "KMS"},
		"name":              {says(400, `{"__type":"ValidationException","message":"Value at 'deliveryStreamName' failed"}`), lane.Misconfigured, "deliveryStreamName"},
		"something invalid": {says(400, `{"__type":"InvalidArgumentException","message":"not now"}`), lane.Misconfigured, "not now"},
		"the record":        {says(400, `{"__type":"ValidationException","message":"Value at 'records.1.member.data' failed"}`), lane.Poison, "member.data"},
		"denied":            {says(400, `{"__type":"AccessDeniedException"}`), lane.Auth, "refuses the credentials"},
		"a page":            {says(200, `<html>`), lane.Offline, "not Firehose"},
		"nothing":           {says(200, ``), lane.Offline, "captive portal?"},
		"too few":           {says(200, `{"RequestResponses":[]}`), lane.Offline, "0 answers to 1 records"},
		"nothing said":      {says(200, `{"RequestResponses":[{}]}`), lane.Ambiguous, "neither"},
		"cut":               {func(http.ResponseWriter, put) bool { panic(http.ErrAbortHandler) }, lane.Ambiguous, "cut"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t)
			d.answer = c.answer
			o := open(t, config(d.URL)).Send(t.Context(), []lane.Batch{batch(1, `{"a":1}`)})[0]
			if o.Done != 0 || o.Class != c.class || o.Err == nil || !strings.Contains(o.Err.Error(), c.words) {
				t.Fatalf("%+v, want %v and %q", o, c.class, c.words)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", o.Err, o.Err, o.Err), secret) {
				t.Error("the secret is in the error")
			}
		})
	}
}

// What a delivery stream is decides whether records go there.
func TestStreams(t *testing.T) {
	for describe, want := range map[string]struct {
		send, probe lane.Class
	}{
		active: {lane.OK, lane.OK},
		`{"DeliveryStreamDescription":{"DeliveryStreamStatus":"CREATING"}}`:                                            {lane.Transient, lane.OK},
		`{"DeliveryStreamDescription":{"DeliveryStreamStatus":"DELETING"}}`:                                            {lane.Misconfigured, lane.OK},
		`{"DeliveryStreamDescription":{"DeliveryStreamStatus":"ACTIVE","DeliveryStreamType":"KinesisStreamAsSource"}}`: {lane.Misconfigured, lane.OK},
		`{"__type":"ResourceNotFoundException"}`:                                                                       {lane.Misconfigured, lane.OK},
		`{"__type":"AccessDeniedException"}`:                                                                           {lane.OK, lane.OK},
		`{"__type":"LimitExceededException"}`:                                                                          {lane.OK, lane.OK},
		`{"__type":"ExpiredTokenException"}`:                                                                           {lane.Auth, lane.Auth},
		`{"__type":"ValidationException","message":"record"}`:                                                          {lane.Misconfigured, lane.Misconfigured},
		`<html>`: {lane.Offline, lane.Offline},
	} {
		d := newDoor(t)
		d.describe = describe
		s := open(t, config(d.URL))
		var e *lane.Error
		if err := s.Probe(t.Context()); errors.As(err, &e) != (want.probe != lane.OK) || e != nil && e.Class != want.probe {
			t.Errorf("%s: Probe: %v", describe, err)
		}
		if o := s.Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Class != want.send {
			t.Errorf("%s: %+v, want %v", describe, o, want.send)
		}
	}
}

// A lane stops where a Firehose record of it failed, the others go on.
func TestPartialFailure(t *testing.T) {
	d := newDoor(t)
	first := true
	d.answer = func(w http.ResponseWriter, in put) bool {
		if !first || len(in.Records) != 3 {
			return false
		}
		first = false
		d.taken = append(d.taken, string(in.Records[0].Data), string(in.Records[2].Data))
		fmt.Fprint(w, `{"FailedPutCount":1,"RequestResponses":[{"RecordId":"a"},{"ErrorCode":"ServiceUnavailableException","ErrorMessage":"Slow down."},{"RecordId":"b"}]}`)
		return true
	}
	cfg := config(d.URL)
	cfg.Format, cfg.PerRecord = "raw", 2
	out := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "a1", "a2", "a3"), batch(2, "b1", "b2", "b3"), batch(3, "c1", "c2", "c3")})
	if out[0].Done != 3 || out[1].Done != 0 || out[1].Class != lane.Throttled || out[2].Done != 3 {
		t.Errorf("%+v", out)
	}
	if want := []string{"a1\na2\n", "c1\nc2\n", "a3\n", "c3\n"}; !slices.Equal(d.taken, want) {
		t.Errorf("taken %q, want %q", d.taken, want)
	}
	if n := out[0].Requests + out[1].Requests + out[2].Requests; n != 2 || out[0].Units != 2 || out[1].Units != 0 {
		t.Errorf("%d requests, %d and %d units", n, out[0].Units, out[1].Units)
	}
}

// Delimiters, one record each, and gzip.
func TestForms(t *testing.T) {
	for name, c := range map[string]struct {
		change func(c *firehose.Config)
		want   []string
	}{
		"lines":    {func(*firehose.Config) {}, []string{"one\ntwo\n\nthree\n"}},
		"comma":    {func(c *firehose.Config) { c.Delimiter = ",, " }, []string{"one,, two\n,, ,, three,, "}},
		"one each": {func(c *firehose.Config) { c.PerRecord, c.Delimiter = 1, "none" }, []string{"one", "two\n", "", "three"}},
		"two each": {func(c *firehose.Config) { c.PerRecord = 2 }, []string{"one\ntwo\n", "\nthree\n"}},
		"gzip":     {func(c *firehose.Config) { c.Compression = "gzip" }, []string{"one\ntwo\n\nthree\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t)
			cfg := config(d.URL)
			cfg.Format = "raw"
			c.change(&cfg)
			if err := cfg.Check(); err != nil {
				t.Fatal(err)
			}
			if o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "one", "two\n", "", "three")})[0]; o.Done != 4 {
				t.Fatalf("%+v", o)
			}
			got := d.taken
			if cfg.Compression == "gzip" {
				// Firehose writes what it took one behind the other: a gzip file.
				z, err := gzip.NewReader(strings.NewReader(strings.Join(d.taken, "")))
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(z)
				if err != nil {
					t.Fatal(err)
				}
				got = []string{string(b)}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// An aggregate that was stored as one record goes as its records, in as many
// Firehose records as it needs; what was taken of it is not sent again.
func TestAggregates(t *testing.T) {
	d := newDoor(t)
	var enc kpl.Encoder
	var want []string
	for i := range 40 {
		data := bytes.Repeat([]byte{'a' + byte(i%26)}, 25_000)
		enc.Add(fmt.Sprint("key", i), "", data)
		want = append(want, string(data))
	}
	failing := true
	d.answer = func(w http.ResponseWriter, _ put) bool {
		if failing && len(d.taken) > 0 {
			w.WriteHeader(500)
			fmt.Fprint(w, `{"__type":"ServiceUnavailableException"}`)
			return true
		}
		return false
	}
	s := open(t, config(d.URL))
	b := batch(1, string(enc.AppendTo(nil)), "after")
	b.Recs[0].Key = "outer"
	want = append(want, "after")
	if o := s.Send(t.Context(), []lane.Batch{b})[0]; o.Done != 0 || o.Class != lane.Throttled {
		t.Fatalf("%+v", o)
	}
	d.mu.Lock()
	failing = false
	d.mu.Unlock()
	if o := s.Send(t.Context(), []lane.Batch{b})[0]; o.Done != 2 {
		t.Fatalf("%+v", o)
	}
	var got []string
	for _, data := range d.taken {
		if len(data) > 1000<<10 {
			t.Errorf("a Firehose record of %d bytes", len(data))
		}
		for line := range strings.Lines(data) {
			o, err := envelope.Open([]byte(strings.TrimSuffix(line, "\n")))
			if err != nil {
				t.Fatal(err)
			}
			if id := fmt.Sprintf("edge-07/0123456789abcdef/1/1/%d", len(got)+1); len(got) < 40 && (o.ID != id || o.Key != fmt.Sprint("key", len(got))) {
				t.Fatalf("%s of %s, want %s", o.ID, o.Key, id)
			}
			got = append(got, string(o.Data))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d records arrived, want %d in order", len(got), len(want))
	}
}

// Where the target calls a request invalid, the one record that is to blame is
// found, and everything else arrives, in order.
func TestFindsTheGuilty(t *testing.T) {
	d := newDoor(t)
	d.answer = func(w http.ResponseWriter, in put) bool {
		for _, r := range in.Records {
			if bytes.Contains(r.Data, []byte("guilty")) {
				w.WriteHeader(400)
				fmt.Fprint(w, `{"__type":"ValidationException","message":"Value at 'records.1.member.data' failed"}`)
				return true
			}
		}
		return false
	}
	cfg := config(d.URL)
	cfg.Format = "raw"
	var payloads []string
	for i := range 100 {
		payloads = append(payloads, fmt.Sprint(i))
	}
	bad := slices.Clone(payloads)
	bad[70] = "guilty"
	out := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, payloads...), batch(2, bad...)})
	if out[0].Done != 100 || out[1].Done != 70 || out[1].Class != lane.Poison {
		t.Errorf("%+v", out)
	}
	if d.requests > 20 {
		t.Errorf("%d requests to find one record of 200", d.requests)
	}
	if got, want := strings.Join(d.taken, ""), strings.Join(payloads, "\n")+"\n"+strings.Join(payloads[:70], "\n")+"\n"; got != want {
		t.Errorf("taken %q", got)
	}
}

func TestCheck(t *testing.T) {
	good := firehose.Config{Access: aws.Access{Region: "eu-central-1"}, Stream: "site-{stream}"}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(c *firehose.Config){
		"stream: the":     func(c *firehose.Config) { c.Stream = "" },
		"stream: ":        func(c *firehose.Config) { c.Stream = strings.Repeat("x", 65) },
		"region: ":        func(c *firehose.Config) { c.Region = "Frankfurt" },
		"format: ":        func(c *firehose.Config) { c.Format = "xml" },
		"delimiter: ":     func(c *firehose.Config) { c.Delimiter = "none" },
		"delimiter: \"":   func(c *firehose.Config) { c.Delimiter = strings.Repeat("x", 17) },
		"per_record: ":    func(c *firehose.Config) { c.PerRecord = -1 },
		"compression: ":   func(c *firehose.Config) { c.Compression = "zstd" },
		"request_timeout": func(c *firehose.Config) { c.RequestTimeout = 1 },
	} {
		c := good
		change(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s%v", field, err)
		}
		if _, err := firehose.New(c, lane.Home{ID: identity}); err == nil {
			t.Errorf("%sNew takes it", field)
		}
	}
	if got := good.Target(); got != "Amazon Data Firehose eu-central-1, delivery stream site-{stream}" {
		t.Error(got)
	}
}

// Nothing travels beside a Firehose record, so the envelope names the key,
// also of a record that came from another gateway without.
func TestEnvelopesNameTheKey(t *testing.T) {
	d := newDoor(t)
	b := batch(1, `{"a":1}`)
	first := record.Record{Key: "far", Data: []byte("1"), Pos: record.Pos{Shard: 3, Seq: 9}}
	data := envelope.NewBeside(record.Identity{Gateway: "cell", Epoch: 7}).Append(nil, "mqtt", &first)
	b.Recs = append(b.Recs, record.Record{Key: "far", Data: data, Pos: record.Pos{Shard: 1, Seq: 2}})
	if o := open(t, config(d.URL)).Send(t.Context(), []lane.Batch{b})[0]; o.Done != 2 {
		t.Fatalf("%+v", o)
	}
	var got []string
	for line := range strings.Lines(strings.Join(d.taken, "")) {
		o, err := envelope.Open([]byte(strings.TrimSuffix(line, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, o.ID+" "+o.Key)
	}
	if want := []string{"edge-07/0123456789abcdef/1/1 k", "cell/0000000000000007/3/9 far"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
