package http_test

import (
	"encoding/json"
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
	httpuplink "forebay/uplink/http"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

var home = lane.Home{ID: record.Identity{Gateway: "edge-07", Epoch: 0x1234}, Log: slog.New(slog.DiscardHandler)}

// post is a request as it came.
type post struct {
	path, key, text string
	header          http.Header
}

// server answers each request as `answer` says, and keeps what came.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	posts  []post
	answer func(w http.ResponseWriter, p post)
}

func newServer(t *testing.T, answer func(w http.ResponseWriter, p post)) *server {
	s := &server{answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := post{r.URL.Path, r.Header.Get("Idempotency-Key"), string(b), r.Header}
	s.posts = append(s.posts, p)
	if s.answer != nil {
		s.answer(w, p)
	}
}

func (s *server) become(answer func(w http.ResponseWriter, p post)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.posts = answer, nil
}

// turn is become that forgets nothing.
func (s *server) turn(answer func(w http.ResponseWriter, p post)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *server) came() []post {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]post(nil), s.posts...)
}

func open(t *testing.T, cfg httpuplink.Config) *httpuplink.Sink {
	s, err := httpuplink.New(cfg, home)
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

func batch(from int, payloads ...string) lane.Batch {
	b := lane.Batch{Lane: lane.Lane{Stream: "s", Shard: 3}}
	for i, p := range payloads {
		b.Recs = append(b.Recs, record.Record{
			Key: "k", Source: "s", Data: []byte(p), Arrived: time.UnixMilli(1_000), Pos: record.Pos{Shard: 3, Seq: uint64(from + i)},
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

func send(t *testing.T, s *httpuplink.Sink, b lane.Batch) lane.Outcome {
	t.Helper()
	o := s.Send(t.Context(), []lane.Batch{b})[0]
	if (o.Err == nil) != (o.Class == lane.OK) || (o.Class == lane.OK) != (o.Done == len(b.Recs)) {
		t.Fatalf("%+v of %d records", o, len(b.Recs))
	}
	return o
}

func want(t *testing.T, o lane.Outcome, done int, class lane.Class, text string) {
	t.Helper()
	if o.Done != done || o.Class != class || class != lane.OK && !strings.Contains(o.Err.Error(), text) {
		t.Errorf("%+v; want %d done, %s, %q", o, done, class, text)
	}
}

// A batch that may have arrived goes out again as it was, also when the next
// one offers more; what it offers beyond goes behind it.
func TestAnAmbiguousBatchIsSentAgainAsItWas(t *testing.T) {
	cut := func(http.ResponseWriter, post) { panic(http.ErrAbortHandler) }
	srv := newServer(t, cut)
	s := open(t, httpuplink.Config{URL: srv.URL})
	want(t, send(t, s, batch(1, numbers(3)...)), 0, lane.Ambiguous, "cut")
	srv.turn(func(w http.ResponseWriter, _ post) { w.WriteHeader(429) })
	// Not Throttled, which would make the pump offer less.
	want(t, send(t, s, batch(1, numbers(5)...)), 0, lane.Transient, "asks for less")
	srv.turn(nil)
	want(t, send(t, s, batch(1, numbers(7)...)), 7, lane.OK, "")
	p := srv.came()
	if len(p) != 4 || p[0].key != p[1].key || p[0].text != p[1].text || p[1].key != p[2].key || p[2].text != p[0].text {
		t.Fatalf("the batch was not repeated as it was: %q", p)
	}
	if !strings.HasPrefix(p[0].key, "edge-07/0000000000001234/3/1-3-") || !strings.HasPrefix(p[3].key, "edge-07/0000000000001234/3/4-7-") {
		t.Errorf("keys %s, %s", p[0].key, p[3].key)
	}
}

// Where less is offered than may have arrived, it goes under a key of its own:
// a key never stands for other bytes.
func TestASmallerBatchHasAnotherKey(t *testing.T) {
	srv := newServer(t, func(w http.ResponseWriter, _ post) { w.WriteHeader(500) })
	s := open(t, httpuplink.Config{URL: srv.URL})
	want(t, send(t, s, batch(1, numbers(5)...)), 0, lane.Ambiguous, "500")
	srv.turn(nil)
	want(t, send(t, s, batch(1, numbers(2)...)), 2, lane.OK, "")
	want(t, send(t, s, batch(3, numbers(3)...)), 3, lane.OK, "")
	p := srv.came()
	if len(p) != 3 || p[0].key == p[1].key || p[1].key == p[2].key {
		t.Errorf("%q", p)
	}
	// Another sink, after a restart, makes the same key of the same batch.
	again := open(t, httpuplink.Config{URL: srv.URL})
	want(t, send(t, again, batch(1, numbers(2)...)), 2, lane.OK, "")
	if last := srv.came()[3]; last.key != p[1].key {
		t.Errorf("after a restart the key is %s, was %s", last.key, p[1].key)
	}
}

func refuses(what string, status int) func(http.ResponseWriter, post) {
	return func(w http.ResponseWriter, p post) {
		if strings.Contains(p.text, what) {
			w.WriteHeader(status)
			fmt.Fprint(w, "unknown field x")
		}
	}
}

// The record to blame is found among many, and the target's taking the others
// is the proof.
func TestARefusedRecordIsFoundAmongOthers(t *testing.T) {
	for _, status := range []int{400, 422} {
		srv := newServer(t, refuses("bad", status))
		s := open(t, httpuplink.Config{URL: srv.URL})
		payloads := numbers(40)
		payloads[21] = `"bad"`
		want(t, send(t, s, batch(1, payloads...)), 21, lane.Poison, "unknown field x")
		want(t, send(t, s, batch(23, numbers(18)...)), 18, lane.OK, "")
		if n := len(srv.came()); n > 24 {
			t.Errorf("%d: %d requests", status, n)
		}
	}
}

// A record that is refused alone is set aside when the target still takes
// what it took before; it sees that under the key that it knows.
func TestALoneRefusedRecordIsProvedByAControl(t *testing.T) {
	srv := newServer(t, refuses("bad", 400))
	s := open(t, httpuplink.Config{URL: srv.URL})
	want(t, send(t, s, batch(1, numbers(3)...)), 3, lane.OK, "")
	want(t, send(t, s, batch(4, `"bad"`)), 0, lane.Poison, "refuses the record")
	p := srv.came()
	if len(p) != 3 || p[2].key != p[0].key || p[2].text != p[0].text {
		t.Fatalf("no control: %q", p)
	}
	srv.become(refuses("", 400))
	for range 20 {
		want(t, send(t, s, batch(5, numbers(30)...)), 0, lane.Misconfigured, "refuses everything")
	}
	if n := len(srv.came()); n > 50 {
		t.Errorf("%d requests to a target that refuses everything", n)
	}
	srv.become(nil)
	want(t, send(t, s, batch(5, numbers(30)...)), 30, lane.OK, "")
}

// A large request serves as the control where there was no small one.
func TestALargeControl(t *testing.T) {
	srv := newServer(t, refuses("bad", 400))
	s := open(t, httpuplink.Config{URL: srv.URL})
	want(t, send(t, s, batch(1, `"`+strings.Repeat("x", 100_000)+`"`)), 1, lane.OK, "")
	want(t, send(t, s, batch(2, `"bad"`)), 0, lane.Poison, "refuses the record")
	if p := srv.came(); len(p) != 3 || p[2].key != p[0].key || len(p[2].text) < 100_000 {
		t.Errorf("%d requests", len(p))
	}
}

// Where nothing was taken yet there is no control: a person has time to look
// before the first record is set aside.
func TestTheFirstRecordIsNotSetAsideAtOnce(t *testing.T) {
	srv := newServer(t, refuses("bad", 422))
	s := open(t, httpuplink.Config{URL: srv.URL})
	for range 5 {
		want(t, send(t, s, batch(1, `"bad"`, "1")), 0, lane.Misconfigured, "has taken nothing yet")
	}
	want(t, send(t, s, batch(1, `"bad"`, "1")), 0, lane.Poison, "unknown field")
	want(t, send(t, s, batch(2, "1")), 1, lane.OK, "")
}

func TestATooLargeBatchIsHalved(t *testing.T) {
	srv := newServer(t, func(w http.ResponseWriter, p post) {
		if len(p.text) > 4000 {
			w.WriteHeader(413)
		}
	})
	s := open(t, httpuplink.Config{URL: srv.URL})
	payloads := numbers(100)
	payloads[50] = `"` + strings.Repeat("x", 5000) + `"`
	want(t, send(t, s, batch(1, payloads...)), 50, lane.Poison, "larger than the target takes")
	want(t, send(t, s, batch(52, numbers(100)...)), 100, lane.OK, "")
	refused := 0
	for _, p := range srv.came() {
		if len(p.text) > 4000 {
			refused++
		}
	}
	if refused > 6 {
		t.Errorf("%d requests were too large", refused)
	}
}

// An aggregate's records go out one by one, in requests of any size, and the
// parts that have arrived are not sent again.
func TestAnAggregateIsOpened(t *testing.T) {
	var enc kpl.Encoder
	for i := range 10 {
		enc.Add("k", "", fmt.Appendf(nil, "%d", i))
	}
	n := 0
	srv := newServer(t, func(w http.ResponseWriter, _ post) {
		if n++; n == 3 {
			w.WriteHeader(503)
		}
	})
	s := open(t, httpuplink.Config{URL: srv.URL, MaxRecords: 4})
	b := batch(1, "first", string(enc.AppendTo(nil)), "last")
	want(t, send(t, s, b), 1, lane.Transient, "503")
	b.Recs = b.Recs[1:]
	want(t, send(t, s, b), 2, lane.OK, "")
	var ids []string
	for i, p := range srv.came() {
		if i == 2 {
			continue // refused
		}
		for line := range strings.Lines(p.text) {
			var e struct{ ID string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, strings.TrimPrefix(e.ID, "edge-07/0000000000001234/3/"))
		}
	}
	if got := strings.Join(ids, " "); got != "1 2/1 2/2 2/3 2/4 2/5 2/6 2/7 2/8 2/9 2/10 3" {
		t.Errorf("arrived: %s", got)
	}
	if p := srv.came(); !strings.Contains(p[1].key, "/3/2/4-2/7-") || p[2].key != p[3].key {
		t.Errorf("keys %s, %s, %s", p[1].key, p[2].key, p[3].key)
	}
}

func TestRecordsOfTwoEpochsShareNoBatch(t *testing.T) {
	srv := newServer(t, nil)
	s := open(t, httpuplink.Config{URL: srv.URL})
	b := batch(1, "1", "2", "3")
	b.Recs[0].Origin = &record.Origin{Gateway: "edge-07", Epoch: 7}
	b.Recs[1].Origin = &record.Origin{Gateway: "edge-07", Epoch: 7}
	want(t, send(t, s, b), 3, lane.OK, "")
	if p := srv.came(); len(p) != 2 || !strings.HasPrefix(p[0].key, "edge-07/0000000000000007/3/1-2-") || !strings.HasPrefix(p[1].key, "edge-07/0000000000001234/3/3-") {
		t.Errorf("%q", p)
	}
}

func TestRawBodies(t *testing.T) {
	srv := newServer(t, nil)
	s := open(t, httpuplink.Config{URL: srv.URL + "/{stream}", Format: "raw"})
	want(t, send(t, s, batch(1, "21.5", "{\"a\":\n1}", "on\tfire", "", "\xff")), 4, lane.Poison, "neither JSON nor text")
	j := open(t, httpuplink.Config{URL: srv.URL, Format: "raw", Body: "json", ContentType: "application/vnd.x+json"})
	want(t, send(t, j, batch(1, "21.5", "x")), 2, lane.OK, "")
	one := open(t, httpuplink.Config{URL: srv.URL, Format: "raw", Body: "single", Method: "PUT"})
	b := batch(1, "\xff\x00", "2")
	b.Recs[0].Key, b.Recs[0].Type, b.Recs[0].At = "Halle 3/°", "image/jpeg", time.Unix(1, 5)
	want(t, send(t, one, b), 2, lane.OK, "")
	p := srv.came()
	if p[0].text != "21.5\n{\"a\":1}\n\"on\\tfire\"\n\"\"\n" || p[0].path != "/s" || p[0].header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("ndjson: %q", p[0])
	}
	if p[1].text != `[21.5,"x"]` || p[1].header.Get("Content-Type") != "application/vnd.x+json" {
		t.Errorf("json: %q", p[1])
	}
	h := p[2].header
	if p[2].text != "\xff\x00" || h.Get("Content-Type") != "image/jpeg" || h.Get("Forebay-Id") != "edge-07/0000000000001234/3/1" ||
		h.Get("Forebay-Key") != "Halle%203/%C2%B0" || h.Get("Forebay-At") != "1970-01-01T00:00:01.000000005Z" {
		t.Errorf("single: %q", p[2])
	}
	if got := p[3].header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("single without a type: %s", got)
	}
}

func TestHeadersAndSecrets(t *testing.T) {
	srv := newServer(t, nil)
	t.Setenv("FOREBAY_TEST_KEY", "one")
	cfg := httpuplink.Config{
		URL: srv.URL, IDHeader: "X-Batch", User: "edge", Password: conf.NewSecret("pa:ss"),
		Headers: map[string]conf.Secret{"X-Api-Key": conf.NewSecret("env:FOREBAY_TEST_KEY"), "Host": conf.NewSecret("ingest.test")},
	}
	s := open(t, cfg)
	send(t, s, batch(1, "1"))
	t.Setenv("FOREBAY_TEST_KEY", "two")
	send(t, s, batch(2, "1"))
	p := srv.came()
	if p[0].header.Get("X-Api-Key") != "one" || p[1].header.Get("X-Api-Key") != "two" || p[0].header.Get("X-Batch") == "" {
		t.Errorf("%q", p)
	}
	if user, password, _ := (&http.Request{Header: p[0].header}).BasicAuth(); user != "edge" || password != "pa:ss" {
		t.Errorf("user %q, password %q", user, password)
	}
	t.Setenv("FOREBAY_TEST_KEY", "bad\r\nX: y")
	want(t, send(t, s, batch(3, "1")), 0, lane.Auth, "X-Api-Key")
	cfg = httpuplink.Config{URL: srv.URL + "/?sig=hush", Token: conf.NewSecret("hush")}
	s = open(t, cfg)
	send(t, s, batch(1, "1"))
	if got := srv.came()[2].header.Get("Authorization"); got != "Bearer hush" {
		t.Errorf("Authorization %q", got)
	}
	srv.Close()
	o := send(t, s, batch(2, "1"))
	if o.Class != lane.Offline && o.Class != lane.Ambiguous || strings.Contains(o.Err.Error()+cfg.Target(), "hush") {
		t.Errorf("%v %s", o.Err, cfg.Target())
	}
}
