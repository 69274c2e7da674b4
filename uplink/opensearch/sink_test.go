package opensearch_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
	"forebay/uplink/opensearch"
	"forebay/uplink/web"
)

var home = lane.Home{Uplink: "search", ID: record.Identity{Gateway: "edge-07", Epoch: 0x1234}, Log: slog.New(slog.DiscardHandler)}

// cluster answers as it is told; bulk requests document by document.
type cluster struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	item     func(id, doc string) (status int, kind, reason string) // of one document; 0: take it
	answer   func(w http.ResponseWriter, r *http.Request, body []byte) bool
	docs     map[string]string // by index/id
	order    []string          // of what was taken
	requests []string
	headers  []http.Header
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, docs: make(map[string]string)}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func fail(w http.ResponseWriter, status int, kind, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "error": map[string]any{"type": kind, "reason": reason}}) // the client may have gone
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(in)
		if err != nil {
			c.t.Errorf("body: %v", err)
			return
		}
		in = z
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return // the client has gone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, r.Method+" "+r.URL.Path)
	c.headers = append(c.headers, r.Header)
	w.Header().Set("Content-Type", "application/json")
	switch {
	case c.answer != nil && c.answer(w, r, body):
	case r.URL.Path == "/_bulk":
		c.bulk(w, body)
	case strings.HasPrefix(r.URL.Path, "/_index_template/"):
		fmt.Fprint(w, `{"index_templates":[]}`)
	default:
		fail(w, 400, "illegal_argument_exception", "no handler")
	}
}

func (c *cluster) bulk(w io.Writer, body []byte) {
	lines := bytes.Split(body, []byte("\n"))
	var items []any
	for i := 0; i+1 < len(lines); i += 2 {
		var a map[string]struct {
			Index string `json:"_index"`
			ID    string `json:"_id"`
		}
		if err := json.Unmarshal(lines[i], &a); err != nil || !json.Valid(lines[i+1]) {
			c.t.Errorf("%q, %q: %v", lines[i], lines[i+1], err)
		}
		for op, to := range a {
			it := map[string]any{"status": 201}
			status, kind, reason := 0, "", ""
			if c.item != nil {
				status, kind, reason = c.item(to.ID, string(lines[i+1]))
			}
			key := to.Index + "/" + to.ID
			if _, there := c.docs[key]; status == 0 && there && op == "create" {
				status, kind, reason = 409, "version_conflict_engine_exception", "document already exists"
			}
			if status == 0 {
				c.docs[key] = string(lines[i+1])
				c.order = append(c.order, key)
			} else {
				it = map[string]any{"status": status, "error": map[string]any{"type": kind, "reason": reason}}
			}
			items = append(items, map[string]any{op: it})
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": false, "items": items}) // the client may have gone
}

func open(t *testing.T, cfg opensearch.Config) *opensearch.Sink {
	if cfg.Compression == "" {
		cfg.Compression = "off"
	}
	s, err := opensearch.New(cfg, home)
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

var arrived = time.Date(2026, 11, 23, 8, 0, 0, 123456789, time.UTC)

func batch(shard, from int, payloads ...string) lane.Batch {
	b := lane.Batch{Lane: lane.Lane{Stream: "mqtt", Shard: record.ShardID(shard)}}
	for i, p := range payloads {
		b.Recs = append(b.Recs, record.Record{
			Key: "k", Source: "mqtt", Data: []byte(p), Arrived: arrived, Pos: record.Pos{Shard: record.ShardID(shard), Seq: uint64(from + i)},
		})
	}
	return b
}

func numbers(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(`{"n":%d}`, i))
	}
	return out
}

func send(t *testing.T, s *opensearch.Sink, b ...lane.Batch) lane.Outcome {
	t.Helper()
	out := s.Send(t.Context(), b)
	for i, o := range out {
		if (o.Err == nil) != (o.Class == lane.OK) || (o.Class == lane.OK) != (o.Done == len(b[i].Recs)) {
			t.Fatalf("%+v of %d records", o, len(b[i].Recs))
		}
	}
	return out[0]
}

func want(t *testing.T, o lane.Outcome, done int, class lane.Class, text string) {
	t.Helper()
	if o.Done != done || o.Class != class || class != lane.OK && !strings.Contains(o.Err.Error(), text) {
		t.Errorf("%+v; want %d done, %s, %q", o, done, class, text)
	}
}

// One document of ten fails in each of the service's ways. What lies before it
// is done, and behind it is not, though the target has taken it.
func TestOneItemFails(t *testing.T) {
	for _, f := range []struct {
		status       int
		kind, reason string
		class        lane.Class
		text         string
	}{
		{429, "es_rejected_execution_exception", "rejected execution", lane.Throttled, "rejected execution"},
		{429, "cluster_block_exception", "index [x] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark]", lane.Throttled, "disk is full"},
		{503, "unavailable_shards_exception", "primary shard is not active", lane.Transient, "primary shard"},
		{500, "null_pointer_exception", "", lane.Ambiguous, "null_pointer"},
		{404, "index_not_found_exception", "no such index", lane.Misconfigured, "auto_create_index"},
		{403, "cluster_block_exception", "index read-only", lane.Misconfigured, "read-only"},
		{403, "security_exception", "no permissions", lane.Auth, "may not write"},
		{400, "index_closed_exception", "closed", lane.Misconfigured, "closed"},
		{400, "illegal_argument_exception", "Document ID is not supported in create/index operation request", lane.Misconfigured, "choose ids"},
		{400, "illegal_argument_exception", "only write ops with an op_type of create are allowed in data streams", lane.Misconfigured, "data_stream"},
		{400, "illegal_argument_exception", "Limit of total fields [1000] has been exceeded", lane.Misconfigured, "total_fields"},
		{400, "illegal_argument_exception", "pipeline with id [x] does not exist", lane.Misconfigured, "pipeline"},
		{400, "mapper_parsing_exception", "failed to parse field [data.mqtt.n] of type [double]", lane.Poison, "data.mqtt.n"},
		{400, "document_parsing_exception", "object mapping for [data.mqtt.n] tried to parse as object", lane.Poison, "tried to parse"},
		{413, "x", "too large", lane.Poison, "too large"},
		{418, "x", "teapot", lane.Misconfigured, "teapot"},
	} {
		t.Run(f.kind, func(t *testing.T) {
			c := newCluster(t)
			c.item = func(id, _ string) (int, string, string) {
				if strings.HasSuffix(id, "/3/5") {
					return f.status, f.kind, f.reason
				}
				return 0, "", ""
			}
			s := open(t, opensearch.Config{URL: c.URL})
			other := batch(4, 1, numbers(10)...)
			out := s.Send(t.Context(), []lane.Batch{batch(3, 1, numbers(10)...), other})
			want(t, out[0], 4, f.class, f.text)
			want(t, out[1], 10, lane.OK, "")
			if len(c.docs) != 19 {
				t.Errorf("%d documents are there, want 19", len(c.docs))
			}
			// Behind it everything is there already.
			c.item = nil
			want(t, send(t, s, batch(3, 5, numbers(6)...)), 6, lane.OK, "")
			if len(c.docs) != 20 || len(c.order) != 20 {
				t.Errorf("%d documents, %d were written", len(c.docs), len(c.order))
			}
		})
	}
}

func TestTheProofOfPoison(t *testing.T) {
	c := newCluster(t)
	bad := func(what string) func(string, string) (int, string, string) {
		return func(_, doc string) (int, string, string) {
			if strings.Contains(doc, what) {
				return 400, "mapper_parsing_exception", "failed to parse"
			}
			return 0, "", ""
		}
	}
	c.item = bad("bad")
	s := open(t, opensearch.Config{URL: c.URL})
	// Nothing was taken yet: a person has time to look.
	for range 5 {
		want(t, send(t, s, batch(3, 1, `{"bad":1}`)), 0, lane.Misconfigured, "has taken no document")
	}
	want(t, send(t, s, batch(3, 1, `{"bad":1}`)), 0, lane.Poison, "failed to parse")
	want(t, send(t, s, batch(3, 2, "1")), 1, lane.OK, "")
	// Now there is a control.
	want(t, send(t, s, batch(3, 3, `{"bad":1}`)), 0, lane.Poison, "failed to parse")
	c.item = bad("")
	for range 10 {
		want(t, send(t, s, batch(3, 4, numbers(50)...)), 0, lane.Misconfigured, "refuses everything")
	}
	c.item = nil
	want(t, send(t, s, batch(3, 4, numbers(50)...)), 50, lane.OK, "")
	if len(c.docs) != 51 {
		t.Errorf("%d documents", len(c.docs))
	}
}

// A whole answer that is no success, or not the service's.
func TestWholeAnswers(t *testing.T) {
	for _, f := range []struct {
		status     int
		kind, body string
		class      lane.Class
		text       string
	}{
		{200, "text/html", "<html>hi</html>", lane.Offline, "captive portal"},
		{200, "application/json", "{}", lane.Offline, "0 answers to 2 documents"},
		{200, "application/json", `{"items":[{"create":{"status":201}}]}`, lane.Offline, "1 answers to 2"},
		{200, "application/json", `{"items":[{"create":{"status":201}},{"create":{"status":400}}]}`, lane.Offline, "status 400"},
		{200, "application/json", `{"items":[{"create":{"status":201}},{"delete":{"status":200}}]}`, lane.Offline, "operation"},
		{200, "application/json", `{"items":[{"create":{"status":201}},`, lane.Offline, "not the target"},
		{302, "text/html", "", lane.Offline, "redirect"},
		{400, "application/json", `{"error":{"type":"illegal_argument_exception","reason":"bad bulk"},"status":400}`, lane.Misconfigured, "bad bulk"},
		{401, "application/json", `{"error":{"type":"security_exception","reason":"missing authentication"},"status":401}`, lane.Auth, "missing authentication"},
		{401, "text/plain", "Unauthorized", lane.Auth, "credentials"},
		{403, "application/json", `{"Message":"User: anonymous is not authorized"}`, lane.Auth, "anonymous"},
		{403, "application/json", `{"message":"Signature expired: 20200101T000000Z is now earlier than"}`, lane.ClockSkew, "clock is wrong"},
		{404, "application/json", `{"error":"no handler found"}`, lane.Misconfigured, "no handler"},
		{408, "", "", lane.Transient, "408"},
		{429, "application/json", `{"error":{"type":"circuit_breaking_exception","reason":"Data too large"},"status":429}`, lane.Throttled, "Data too large"},
		{429, "text/plain", "429 Too Many Requests /_bulk", lane.Throttled, "less"},
		{500, "application/json", `{"error":{"type":"x","reason":"y","caused_by":{"type":"z","reason":"deeper"}}}`, lane.Ambiguous, "y: deeper"},
		{502, "text/html", "<html>bad gateway</html>", lane.Ambiguous, "502"},
		{503, "application/json", `{"error":{"type":"master_not_discovered_exception","reason":null}}`, lane.Transient, "master_not"},
		{511, "text/html", "", lane.Offline, "login"},
	} {
		t.Run(fmt.Sprint(f.status, f.text), func(t *testing.T) {
			c := newCluster(t)
			c.answer = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
				if r.URL.Path != "/_bulk" {
					return false
				}
				w.Header().Set("Content-Type", f.kind)
				w.WriteHeader(f.status)
				fmt.Fprint(w, f.body)
				return true
			}
			want(t, send(t, open(t, opensearch.Config{URL: c.URL}), batch(3, 1, "1", "2")), 0, f.class, f.text)
		})
	}
}

// An aggregate's records are documents of their own, and one that needs many
// requests gets on.
func TestAnAggregateIsOpened(t *testing.T) {
	var enc kpl.Encoder
	for i := range 40 {
		enc.Add("k", "", fmt.Appendf(nil, `{"n":%d,"pad":%q}`, i, strings.Repeat("x", 5000)))
	}
	c := newCluster(t)
	requests := 0
	c.answer = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		switch {
		case r.URL.Path != "/_bulk":
			return false
		case len(body) > 60_000:
			w.WriteHeader(413)
			return true
		}
		if requests++; requests == 3 {
			fail(w, 503, "unavailable", "")
			return true
		}
		return false
	}
	s := open(t, opensearch.Config{URL: c.URL})
	b := batch(3, 1, "1", string(enc.AppendTo(nil)), "2")
	want(t, send(t, s, b), 1, lane.Transient, "unavailable")
	b.Recs = b.Recs[1:]
	want(t, send(t, s, b), 2, lane.OK, "")
	if len(c.order) != 42 || len(c.docs) != 42 || c.order[1] != "forebay-mqtt-2026.11.23/edge-07/0000000000001234/3/2/1" {
		t.Errorf("%d documents, %d written: %.300q", len(c.docs), len(c.order), c.order)
	}
	if !strings.Contains(c.docs[c.order[40]], `"seq":2,"part":40`) {
		t.Errorf("%.300s", c.docs[c.order[40]])
	}
}

func TestCredentials(t *testing.T) {
	c := newCluster(t)
	t.Setenv("FOREBAY_TEST_KEY", "a2V5")
	keys := aws.Access{AccessKey: "AKIDTEST", SecretKey: conf.NewSecret("hush"), Region: "eu-central-1"}
	for want, cfg := range map[string]opensearch.Config{
		"ApiKey a2V5":    {APIKey: conf.NewSecret("env:FOREBAY_TEST_KEY")},
		"Basic dTpw":     {User: "u", Password: conf.NewSecret("p")},
		"/es/aws4":       {AWS: &opensearch.AWS{Access: keys}},
		"/aoss/aws4_req": {AWS: &opensearch.AWS{Service: "aoss", Access: keys}},
	} {
		cfg.URL = c.URL
		if o := send(t, open(t, cfg), batch(3, 1, "1")); o.Class != lane.OK {
			t.Errorf("%+v", o)
		}
		h := c.headers[len(c.headers)-1]
		if got := h.Get("Authorization"); !strings.Contains(got, want) {
			t.Errorf("Authorization %q, want %q in it", got, want)
		}
		if cfg.AWS != nil && (len(h.Get("X-Amz-Content-Sha256")) != 64 || !strings.Contains(h.Get("Authorization"), "x-amz-content-sha256")) {
			t.Errorf("the body's digest is not signed: %q", h)
		}
	}
}

// The service's time is learned from its refusal and signed with.
func TestAWrongClockIsSignedAround(t *testing.T) {
	c := newCluster(t)
	now := time.Now().Add(25 * time.Hour)
	c.answer = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if d := now.Sub(at); err != nil || d.Abs() > 5*time.Minute {
			w.WriteHeader(403)
			fmt.Fprint(w, `{"message":"Signature expired: it is now earlier than"}`)
			return true
		}
		return false
	}
	s := open(t, opensearch.Config{URL: c.URL, AWS: &opensearch.AWS{Access: aws.Access{AccessKey: "A", SecretKey: conf.NewSecret("s")}}})
	want(t, send(t, s, batch(3, 1, "1")), 0, lane.ClockSkew, "clock")
	want(t, send(t, s, batch(3, 1, "1")), 1, lane.OK, "")
	if off := s.ClockOffset(); off < 24*time.Hour || off > 26*time.Hour {
		t.Errorf("offset %s", off)
	}
}

func TestProbe(t *testing.T) {
	open1 := func(url string) *opensearch.Sink { return open(t, opensearch.Config{URL: url}) }
	for _, f := range []struct {
		status     int
		kind, body string
		class      lane.Class
		text       string
	}{
		{200, "application/json", `{"version":{"distribution":"opensearch","number":"2.11.0"}}`, lane.OK, ""},
		{200, "application/json", `{"version":{"number":"8.15.1"},"tagline":"You Know, for Search"}`, lane.OK, ""},
		{200, "application/json", `{"version":{"number":"6.8.1"},"tagline":"You Know, for Search"}`, lane.Misconfigured, "Elasticsearch 6.8.1"},
		{200, "application/json", `{"status":"ok"}`, lane.Offline, "not the target"},
		{200, "text/html", `<html>`, lane.Offline, "portal"},
		{302, "", "", lane.Offline, "redirect"},
		{403, "application/json", `{"error":{"type":"security_exception","reason":"no permissions for [cluster:monitor/main]"}}`, lane.OK, ""},
		{403, "text/html", "<html>", lane.Auth, "credentials"},
		{401, "application/json", `{"error":{"type":"security_exception","reason":"x"}}`, lane.Auth, "x"},
		{503, "", "", lane.Transient, "503"},
	} {
		c := newCluster(t)
		c.answer = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.Header().Set("Content-Type", f.kind)
			w.WriteHeader(f.status)
			fmt.Fprint(w, f.body)
			return true
		}
		err := open1(c.URL).Probe(t.Context())
		if f.class == lane.OK {
			if err != nil {
				t.Errorf("%d %s: %v", f.status, f.body, err)
			}
			continue
		}
		e, ok := errors.AsType[*lane.Error](err)
		if !ok || e.Class != f.class || !strings.Contains(e.Error(), f.text) {
			t.Errorf("%d %s: %#v, want %s", f.status, f.body, err, f.class)
		}
	}
	c := newCluster(t)
	c.Close()
	if open1(c.URL).Probe(t.Context()) == nil {
		t.Error("finds what is gone")
	}
}

func TestTheTemplate(t *testing.T) {
	get, put := 404, 200
	var made []byte
	newOne := func(cfg opensearch.Config) (*cluster, *opensearch.Sink) {
		c := newCluster(t)
		c.answer = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if r.URL.Path != "/_index_template/forebay-search" {
				return false
			}
			status := get
			if r.Method == http.MethodPut {
				status, made = put, body
			}
			if status == 200 {
				fmt.Fprint(w, `{"acknowledged":true}`)
			} else {
				fail(w, status, "some_exception", "because")
			}
			return true
		}
		cfg.URL = c.URL
		return c, open(t, cfg)
	}
	c, s := newOne(opensearch.Config{DataStream: true})
	want(t, send(t, s, batch(3, 1, "1")), 1, lane.OK, "")
	want(t, send(t, s, batch(3, 2, "1")), 1, lane.OK, "")
	if got := strings.Join(c.requests, ", "); got != "GET /_index_template/forebay-search, PUT /_index_template/forebay-search, POST /_bulk, POST /_bulk" {
		t.Errorf("requests: %s", got)
	}
	var tpl struct {
		Patterns   []string        `json:"index_patterns"`
		DataStream json.RawMessage `json:"data_stream"`
		Template   struct {
			Mappings struct {
				Properties map[string]struct{ Type string }
			}
		}
	}
	if err := json.Unmarshal(made, &tpl); err != nil || len(tpl.Patterns) != 1 || tpl.Patterns[0] != "forebay-*" || tpl.DataStream == nil ||
		tpl.Template.Mappings.Properties["@timestamp"].Type != "date" {
		t.Errorf("template %s: %v", made, err)
	}
	if c.order[0] != "forebay-mqtt/edge-07/0000000000001234/3/1" {
		t.Error(c.order)
	}
	get, made = 200, nil
	_, s = newOne(opensearch.Config{})
	want(t, send(t, s, batch(3, 1, "1")), 1, lane.OK, "")
	if made != nil {
		t.Error("a template that is there was replaced")
	}
	get = 403
	_, s = newOne(opensearch.Config{})
	want(t, send(t, s, batch(3, 1, "1")), 1, lane.OK, "")
	get, put = 404, 400
	_, s = newOne(opensearch.Config{})
	want(t, send(t, s, batch(3, 1, "1")), 0, lane.Misconfigured, "template to \"off\"")
	put = 503
	_, s = newOne(opensearch.Config{})
	want(t, send(t, s, batch(3, 1, "1")), 0, lane.Transient, "because")
}

func TestTheProxyAndTheTimeout(t *testing.T) {
	c := newCluster(t)
	s := open(t, opensearch.Config{URL: "http://search.test:9200", Access: web.Access{Proxy: c.URL}})
	want(t, send(t, s, batch(3, 1, "1")), 1, lane.OK, "")
}
