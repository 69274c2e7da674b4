package ingest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/internal/ingest"
	"forebay/spool"
	"forebay/spool/record"
)

func lines(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "{\"n\":%d}\n", i)
	}
	return b.Bytes()
}

func TestFormats(t *testing.T) {
	h := ingest.New(&memory{}, ingest.Options{}, quiet)
	for _, c := range []struct {
		query, media, body string
		status, stored     int
	}{
		{"", "application/x-ndjson", "1\n2\n", 200, 2},
		{"", "application/jsonl; charset=utf-8", "1\n2\n", 200, 2},
		{"", "application/json", "[1,2,3]", 200, 3},
		{"", "text/csv", "a\n1\n", 200, 1},
		{"", "text/plain", "m v=1\n", 200, 1},
		{"", "application/vnd.influx.lp", "m v=1\n", 200, 1},
		{"", "application/octet-stream", "\x00", 200, 1},
		{"?format=ndjson", "application/x-www-form-urlencoded", "1\n2\n", 200, 2}, // what curl says
		{"?format=raw", "text/plain", "m v=1\nm v=2\n", 200, 1},
		{"?format=line", "application/json", "m v=1\nm v=2\n", 200, 2},
		{"?format=csv", "", "a\n1\n", 200, 1},
		{"", "application/x-www-form-urlencoded", "1\n", 415, 0},
		{"", "", "1\n", 415, 0},
		{"", "image/png", "1\n", 415, 0},
		{"", "no media type;;", "1\n", 415, 0},
		{"?format=xml", "application/json", "1\n", 415, 0},
		{"?format=JSON", "application/json", "1\n", 415, 0},
	} {
		_, a := post(t, h, "/ingest/plant"+c.query, c.media, []byte(c.body))
		if max(a.Status, 200) != c.status || a.Stored != c.stored {
			t.Errorf("%q as %q: %+v; want %d, %d stored", c.query, c.media, a, c.status, c.stored)
		}
		if c.status == 415 {
			for _, f := range []string{"ndjson", "json", "csv", "line", "raw"} {
				if !strings.Contains(a.Hint, f) {
					t.Errorf("%q as %q: the hint %q does not name %s", c.query, c.media, a.Hint, f)
				}
			}
		}
	}
}

func TestARawRecordKeepsItsType(t *testing.T) {
	for given, want := range map[string]string{
		"image/png": "image/png", "text/plain; charset=utf-8": "text/plain", "": "",
		"application/octet-stream": "", "application/x-www-form-urlencoded": "",
	} {
		to := &memory{}
		body := []byte("\xef\xbb\xbf\x00\n")
		post(t, ingest.New(to, ingest.Options{}, quiet), "/ingest/plant?format=raw", given, body)
		if len(to.recs) != 1 || to.recs[0].Type != want || !bytes.Equal(to.recs[0].Data, body) {
			t.Errorf("sent as %q: %+v", given, to.recs)
		}
	}
}

func TestWhatIsNoRequestOfThisDoor(t *testing.T) {
	to := &memory{}
	h := ingest.New(to, ingest.Options{MaxRecord: func(stream string) (int, error) {
		switch stream {
		case "plant":
			return 1 << 20, nil
		case "broken":
			return 0, errors.New("the index is gone")
		}
		return 0, fmt.Errorf("look up: %w", record.ErrNoStream)
	}}, quiet)
	for _, c := range []struct {
		method, target string
		header         []string
		status         int
		code, text     string
	}{
		{"GET", "/ingest/plant", nil, 405, "method", "POST"},
		{"PUT", "/ingest/plant", nil, 405, "method", "POST"},
		{"POST", "/ingest/", nil, 404, "path", "/ingest/"},
		{"POST", "/ingest/a/b", nil, 404, "path", "/ingest/a/b"},
		{"POST", "/other", nil, 404, "path", "/other"},
		{"POST", "/ingest/nowhere", nil, 404, "stream", "nowhere"},
		{"POST", "/ingest/broken", nil, 500, "failed", "looked up"},
		{"POST", "/ingest/plant?keyfield=a", nil, 400, "parameter", "keyfield"},
		{"POST", "/ingest/plant?key=a&key=b", nil, 400, "parameter", "more than once"},
		{"POST", "/ingest/plant?key=a&key_field=b", nil, 400, "parameter", "more than once"},
		{"POST", "/ingest/plant?key=a", []string{"X-Forebay-Key", "b"}, 400, "parameter", "more than once"},
		{"POST", "/ingest/plant", []string{"X-Forebay-Key", "b", "X-Partition-Key", "b"}, 400, "parameter", "more than once"},
		{"POST", "/ingest/plant?key=", nil, 400, "parameter", "empty"},
		{"POST", "/ingest/plant?key=" + strings.Repeat("k", 257), nil, 400, "parameter", "257 characters"},
		{"POST", "/ingest/plant?key=%ff", nil, 400, "parameter", "UTF-8"},
		{"POST", "/ingest/plant", []string{"X-Forebay-Key", ""}, 400, "parameter", "empty"},
		{"POST", "/ingest/plant?key_field=", nil, 400, "parameter", "no name"},
		{"POST", "/ingest/plant?key_field=a" + strings.Repeat(".a", 32), nil, 400, "parameter", "at most 32"},
		{"POST", "/ingest/plant?format=raw&key_field=a", nil, 400, "parameter", "not looked into"},
		{"POST", "/ingest/plant?format=raw&time_field=a", nil, 400, "parameter", "not looked into"},
		{"POST", "/ingest/plant?format=line&time_field=a", nil, 400, "parameter", "of its own"},
		{"POST", "/ingest/plant?precision=h", nil, 400, "parameter", "ns, us, ms, s"},
		{"POST", "/ingest/plant?atomic=maybe", nil, 400, "parameter", "atomic"},
		{"POST", "/ingest/plant?delimiter=;", nil, 400, "parameter", "only csv"},
		{"POST", "/ingest/plant?format=csv&delimiter=", nil, 400, "parameter", "one character"},
		{"POST", "/ingest/plant?format=csv&delimiter=ab", nil, 400, "parameter", "one character"},
		{"POST", "/ingest/plant?format=csv&delimiter=%22", nil, 400, "parameter", "one character"},
		{"POST", "/ingest/plant?format=csv&delimiter=%0a", nil, 400, "parameter", "one character"},
		{"POST", "/ingest/plant?format=csv&delimiter=%ff", nil, 400, "parameter", "one character"},
		{"POST", "/ingest/plant?key=%zz", nil, 400, "parameter", "query string"},
		{"POST", "/ingest/plant", []string{"Content-Encoding", "br"}, 415, "encoding", "br"},
		{"POST", "/ingest/plant", []string{"Content-Encoding", "gzip, gzip"}, 415, "encoding", "gzip, gzip"},
		{"POST", "/ingest/plant", []string{"Content-Encoding", "gzip"}, 400, "encoding", "not gzip"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), c.method, c.target, strings.NewReader(`{"a":1}`))
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i+1 < len(c.header); i += 2 {
			r.Header.Set(c.header[i], c.header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		text := w.Body.String()
		if w.Code != c.status || !strings.Contains(text, `"code":"`+c.code+`"`) || !strings.Contains(text, c.text) {
			t.Errorf("%s %s %q: %d %s; want %d, %s, %q", c.method, c.target, c.header, w.Code, text, c.status, c.code, c.text)
		}
		if c.status == 405 && w.Header().Get("Allow") != "POST" {
			t.Errorf("%s: Allow is %q", c.method, w.Header().Get("Allow"))
		}
	}
	if to.puts != 0 {
		t.Errorf("%d of these requests reached the log", to.puts)
	}
	if h.Errors() != 1 {
		t.Errorf("%d errors of our own, want that of the stream that could not be looked up", h.Errors())
	}
}

func TestTheKeyOfARequest(t *testing.T) {
	for _, c := range []struct {
		target string
		header []string
		want   string
	}{
		{"/ingest/plant", nil, "plant"},
		{"/ingest/plant?key=a%2Fb%20c", nil, "a/b c"},
		{"/ingest/plant", []string{"X-Forebay-Key", "from a header"}, "from a header"},
		{"/ingest/plant", []string{"X-Partition-Key", "é"}, "é"},
		{"/ingest/plant?key=a&X-Amz-Signature=00&X-Amz-Date=x", nil, "a"}, // presigned
	} {
		to := &memory{}
		post(t, ingest.New(to, ingest.Options{}, quiet), c.target, "application/json", []byte("{}"), c.header...)
		if len(to.recs) != 1 || to.recs[0].Key != c.want {
			t.Errorf("%s %q: %+v, want the key %q", c.target, c.header, to.recs, c.want)
		}
	}
}

func zip(t *testing.T, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGzip(t *testing.T) {
	to := &memory{}
	h := ingest.New(to, ingest.Options{MaxBody: 100 << 10}, quiet)
	_, a := post(t, h, "/ingest/plant", "application/x-ndjson", zip(t, lines(5000)), "Content-Encoding", "gzip")
	if a.Stored != 5000 || string(to.recs[4999].Data) != `{"n":4999}` {
		t.Errorf("%+v", a)
	}
	bomb := zip(t, make([]byte, 50<<20))
	if len(bomb) > 100<<10 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	for name, body := range map[string][]byte{"a bomb": bomb, "one byte too many": zip(t, make([]byte, 100<<10+1))} {
		if _, a := post(t, h, "/ingest/plant", "application/x-ndjson", body, "Content-Encoding", "gzip"); a.Status != 413 || a.Code != "too_large" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	whole := zip(t, lines(100))
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	for name, body := range map[string][]byte{"cut off": whole[:len(whole)-1], "flipped": flipped, "empty": {}} {
		if _, a := post(t, h, "/ingest/plant", "application/x-ndjson", body, "Content-Encoding", "gzip"); a.Status != 400 || a.Stored != 0 {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if len(to.recs) != 5000 {
		t.Errorf("%d records are stored", len(to.recs))
	}
}

func TestLimits(t *testing.T) {
	to := &memory{}
	h := ingest.New(to, ingest.Options{
		MaxBody: 10_000, MaxRecords: 100,
		MaxRecord: func(string) (int, error) { return 1000, nil },
	}, quiet)
	text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	for _, c := range []struct {
		name, query, media, body string
		status, stored           int
		code                     string
	}{
		{"the largest body", "", "application/x-ndjson", strings.Repeat(" ", 9_999) + "1", 200, 1, ""},
		{"a body too large", "", "application/x-ndjson", strings.Repeat(" ", 10_000) + "1", 413, 0, "too_large"},
		{"as many records as may be", "", "application/x-ndjson", string(lines(100)), 200, 100, ""},
		{"a record too many", "", "application/x-ndjson", string(lines(101)), 413, 0, "too_many"},
		{"a refused record too many", "", "application/x-ndjson", strings.Repeat("x\n", 101), 413, 0, "too_many"},
		{"elements too many", "", "application/json", "[" + strings.Repeat("1,", 100) + "1]", 413, 0, "too_many"},
		{"rows too many", "", "text/csv", "a\n" + strings.Repeat("1\n", 101), 413, 0, "too_many"},
		{"points too many", "", "text/plain", strings.Repeat("m v=1\n", 101), 413, 0, "too_many"},
		{"the largest record", "?key=12345", "application/x-ndjson", text(995), 200, 1, ""},
		{"a record too large", "?key=12345", "application/x-ndjson", text(996), 413, 0, "too_large"},
		{"one of three too large", "?key=12345", "application/x-ndjson", "1\n" + text(996) + "\n2", 200, 2, ""},
		{"an element too large", "?key=12345", "application/json", "[1," + text(996) + "]", 200, 1, ""},
		{"raw and too large", "?key=12345", "application/octet-stream", strings.Repeat("x", 996), 413, 0, "too_large"},
		{"a row too large", "?key=12345", "text/csv", "a\n" + strings.Repeat("x", 995) + "\n1\n", 200, 1, ""},
		{"a row that grows too large", "?key=12345", "text/csv", "a\n" + strings.Repeat("\x01", 500) + "\n1\n", 200, 1, ""},
		{"a point too large", "", "text/plain", `m v="` + strings.Repeat("x", 995) + "\"\nm v=1", 200, 1, ""},
		{"a point that grows too large", "", "text/plain", `m v="` + strings.Repeat("\x01", 500) + "\"\nm v=1", 200, 1, ""},
		{"rows that grow together", "", "text/csv", strings.Repeat("n", 900) + "\n" + strings.Repeat("1\n", 100), 413, 0, "too_large"},
		{"an empty body", "", "application/x-ndjson", "", 400, 0, "empty"},
		{"an empty raw body", "", "application/octet-stream", "", 400, 0, "empty"},
	} {
		to.recs = nil
		_, a := post(t, h, "/ingest/plant"+c.query, c.media, []byte(c.body))
		if max(a.Status, 200) != c.status || a.Stored != c.stored || len(to.recs) != c.stored || a.Code != c.code {
			t.Errorf("%s: %+v; want %d, %d stored, %q", c.name, a, c.status, c.stored, c.code)
		}
	}
}

func TestTooManyTagsFieldsAndColumns(t *testing.T) {
	many := func(n int, sep, form string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteString(sep)
			}
			fmt.Fprintf(&b, form, i)
		}
		return b.String()
	}
	h := ingest.New(&memory{}, ingest.Options{}, quiet)
	for _, c := range []struct {
		media, body string
		ok          bool
	}{
		{"text/plain", "m," + many(256, ",", "t%d=1") + " v=1", true},
		{"text/plain", "m," + many(257, ",", "t%d=1") + " v=1", false},
		{"text/plain", "m " + many(1024, ",", "v%d=1"), true},
		{"text/plain", "m " + many(1025, ",", "v%d=1"), false},
		{"text/plain", "m " + many(1023, ",", "v%d=1") + ",v7=1", false}, // one stands twice
		{"text/csv", many(1024, ",", "c%d") + "\n" + many(1024, ",", "%d"), true},
		{"text/csv", many(1025, ",", "c%d") + "\n" + many(1025, ",", "%d"), false},
		{"text/csv", strings.Repeat("n", 64<<10) + "\n1\n", true},
		{"text/csv", strings.Repeat("n", 64<<10+1) + "\n1\n", false},
		{"text/csv", "a,b\n" + strings.Repeat(",", 5<<20), false},
		{"text/csv", strings.Repeat(",", 5<<20), false},
	} {
		if _, a := post(t, h, "/ingest/plant", c.media, []byte(c.body)); (a.Stored == 1) != c.ok || (a.Status == 400) == c.ok {
			t.Errorf("%.40q: %+v", c.body, a)
		}
	}
}

// 100 errors are named; all are counted.
func TestErrorsAreBounded(t *testing.T) {
	to := &memory{}
	_, a := post(t, ingest.New(to, ingest.Options{}, quiet), "/ingest/plant", "application/x-ndjson", []byte(strings.Repeat("x\n1\n", 500)))
	if a.Stored != 500 || a.Failed != 500 || len(a.Errors) != 100 || a.Omitted != 400 || a.Errors[99].Index != 198 || a.Errors[99].Line != 199 {
		t.Errorf("%d stored, %d failed, %d named, %d omitted, last %+v", a.Stored, a.Failed, len(a.Errors), a.Omitted, a.Errors[len(a.Errors)-1])
	}
}

func TestMemoryIsBorrowed(t *testing.T) {
	to := &memory{}
	// 1 MiB does for the body, but not for it and its records.
	h := ingest.New(to, ingest.Options{MaxHeld: 1 << 20}, quiet)
	for name, c := range map[string]struct {
		media string
		body  []byte
	}{
		"body":    {"application/octet-stream", make([]byte, 2<<20)},
		"records": {"application/x-ndjson", lines(8000)},
		"arena":   {"text/csv", append([]byte(strings.Repeat("name", 2000)+"\n"), strings.Repeat("1\n", 200)...)},
		"points":  {"text/plain", []byte(strings.Repeat("m v=1\n", 8000))},
	} {
		w, a := post(t, h, "/ingest/plant", c.media, c.body)
		if a.Status != 429 || a.Code != "busy" || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %+v, Retry-After %q", name, a, w.Header().Get("Retry-After"))
		}
	}
	if to.puts != 0 {
		t.Errorf("%d puts", to.puts)
	}
	// All of it was given back.
	if _, a := post(t, h, "/ingest/plant", "application/x-ndjson", lines(1000)); a.Stored != 1000 {
		t.Errorf("%+v", a)
	}
}

// A server that has read the body already lends the memory for the rest.
func TestServeWithABody(t *testing.T) {
	to := &memory{}
	h := ingest.New(to, ingest.Options{MaxBody: 1000}, quiet)
	serve := func(body []byte, take func(int64) bool) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ingest/plant?format=ndjson", http.NoBody)
		w := httptest.NewRecorder()
		h.Serve(w, r, body, take)
		return w.Code
	}
	var taken int64
	if code := serve(lines(10), func(n int64) bool { taken += n; return true }); code != 200 || len(to.recs) != 10 || taken < 10*300 {
		t.Errorf("%d, %d records, %d bytes lent", code, len(to.recs), taken)
	}
	if code := serve(lines(10), func(int64) bool { return false }); code != 429 {
		t.Errorf("without memory: %d", code)
	}
	if code := serve(make([]byte, 1001), func(int64) bool { return true }); code != 413 {
		t.Errorf("a body too large: %d", code)
	}
}

func TestRefuse(t *testing.T) {
	h := ingest.New(&memory{}, ingest.Options{}, quiet)
	w := httptest.NewRecorder()
	h.Refuse(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ingest/plant", http.NoBody), 403, "denied", "the key may not write to plant")
	if want := `{"status":403,"code":"denied","message":"the key may not write to plant","stored":0,"failed":0}` + "\n"; w.Code != 403 || w.Body.String() != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestStream(t *testing.T) {
	for path, want := range map[string]string{"/ingest/a": "a", "/ingest/press-shop.1": "press-shop.1"} {
		if got, ok := ingest.Stream(path); !ok || got != want {
			t.Errorf("%s: %q, %v", path, got, ok)
		}
	}
	for _, path := range []string{"/", "/ingest", "/ingest/", "/ingest/a/", "/ingest/a/b", "/ingestion/a"} {
		if got, ok := ingest.Stream(path); ok {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// What the log does at the second of three slices, and what the client reads.
func TestALaterSliceFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   string
		retry  bool
	}{
		{"full", record.ErrFull, 429, "full", true},
		{"no room in the queue", context.DeadlineExceeded, 429, "busy", true},
		{"stopping", record.ErrClosed, 503, "stopping", true},
		{"read-only", record.ErrReadOnly, 503, "failed", true},
		{"fsync", record.ErrCannotStore, 503, "failed", true},
		{"deleted", record.ErrNoStream, 404, "stream", false},
		{"something else", errors.New("a bug"), 500, "failed", false},
	} {
		to := &memory{}
		to.before = func([]record.Record, func([]record.Result)) (bool, error) {
			return to.puts == 2, fmt.Errorf("put: %w", c.err)
		}
		w, a := post(t, ingest.New(to, ingest.Options{}, quiet), "/ingest/plant", "application/x-ndjson", append([]byte("broken\n"), lines(2500)...))
		if a.Status != c.status || a.Code != c.code || (w.Header().Get("Retry-After") != "") != c.retry {
			t.Errorf("%s: %+v, Retry-After %q", c.name, a, w.Header().Get("Retry-After"))
		}
		if a.Stored != 1000 || a.Failed != 1501 || len(to.recs) != 1000 || len(a.Retry) != 1 || a.Retry[0].From != 1001 || a.Retry[0].To != 2500 {
			t.Errorf("%s: %d stored (%d in the log), %d failed, again %+v", c.name, a.Stored, len(to.recs), a.Failed, a.Retry)
		}
		if len(a.Errors) != 1 || a.Errors[0].Index != 0 {
			t.Errorf("%s: %+v", c.name, a.Errors)
		}
	}
}

// Results differ within a slice: a record that the log never takes, and some
// that it takes later.
func TestResultsByRecord(t *testing.T) {
	to := &memory{}
	to.before = func(recs []record.Record, done func([]record.Result)) (bool, error) {
		rs := make([]record.Result, len(recs))
		for i := range rs {
			rs[i].Pos = record.Pos{Shard: record.ShardID(1 + i%2), Seq: uint64(10 + i)}
		}
		rs[2] = record.Result{Err: &record.InvalidError{Field: "data", Reason: "is too odd"}}
		rs[3] = record.Result{Err: &record.InvalidError{Field: "data", Reason: "is too large", TooLarge: true}}
		rs[5], rs[6], rs[8] = record.Result{Err: record.ErrFull}, record.Result{Err: record.ErrFull}, record.Result{Err: record.ErrFull}
		done(rs)
		return true, nil
	}
	h := ingest.New(to, ingest.Options{ShardName: func(stream string, id record.ShardID) string { return fmt.Sprint(stream, id) }}, quiet)
	_, a := post(t, h, "/ingest/plant", "application/x-ndjson", append([]byte("\nbroken\n"), lines(9)...))
	if a.Status != 429 || a.Stored != 4 || a.Failed != 6 {
		t.Errorf("%+v", a)
	}
	if got := fmt.Sprint(a.Retry); got != "[{6 7} {9 9}]" {
		t.Errorf("again %s", got)
	}
	got := ""
	for _, e := range a.Errors {
		got += fmt.Sprintf("%d:%d:%s ", e.Index, e.Line, e.Code)
	}
	if got != "0:2:malformed 3:5:invalid 4:6:too_large " {
		t.Errorf("errors %s", got)
	}
	if got := fmt.Sprint(a.Shards); got != "[{plant1 2 10 14} {plant2 2 11 17}]" {
		t.Errorf("shards %s", got)
	}
}

func TestAWrongNumberOfResults(t *testing.T) {
	to := &memory{before: func(_ []record.Record, done func([]record.Result)) (bool, error) { done(nil); return true, nil }}
	h := ingest.New(to, ingest.Options{}, quiet)
	if _, a := post(t, h, "/ingest/plant", "application/json", []byte("[1]")); a.Status != 500 || a.Stored != 0 || h.Errors() != 1 {
		t.Errorf("%+v, %d errors", a, h.Errors())
	}
}

// No answer comes before the commit.
func TestTheAnswerWaitsForTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var commit func()
		to := &memory{}
		to.before = func(recs []record.Record, done func([]record.Result)) (bool, error) {
			commit = func() { done(make([]record.Result, len(recs))) }
			return true, nil
		}
		h := ingest.New(to, ingest.Options{}, quiet)
		var answered atomic.Bool
		go func() {
			if _, a := post(t, h, "/ingest/plant", "application/json", []byte("[1,2]")); a.Stored != 2 {
				t.Errorf("%+v", a)
			}
			answered.Store(true)
		}()
		synctest.Wait()
		if answered.Load() {
			t.Error("it was answered before the commit")
		}
		commit()
		synctest.Wait()
		if !answered.Load() {
			t.Error("it was not answered after the commit")
		}
	})
}

func TestACommitThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &memory{before: func([]record.Record, func([]record.Result)) (bool, error) { return true, nil }}
		h := ingest.New(to, ingest.Options{}, quiet)
		w, a := post(t, h, "/ingest/plant", "application/json", []byte("[1,2]"))
		if h.Errors() != 1 || a.Status != 503 || a.Code != "unknown" || a.Stored != 0 || len(a.Retry) != 1 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%+v", a)
		}
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestABodyThatDoesNotArrive(t *testing.T) {
	h := ingest.New(&memory{}, ingest.Options{}, quiet)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ingest/plant?format=raw", io.MultiReader(strings.NewReader("abc"), failing{}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 408 || w.Header().Get("Connection") != "close" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A log over a real spool.
type logOf struct{ sp *spool.Spool }

func (l logOf) PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	st, err := l.sp.Stream(stream)
	if err != nil {
		return err
	}
	return st.Append(ctx, recs, done)
}

// What was answered as stored is in the log, in the order of each key.
func TestStoredMeansInTheLog(t *testing.T) {
	dir := t.TempDir()
	sp, err := spool.Open(t.Context(), dir, spool.Config{Gateway: "test"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sp.Ensure(t.Context(), spool.StreamConfig{Name: conf.Stream("plant"), Shards: 2, Class: record.ClassTelemetry}); err != nil {
		t.Fatal(err)
	}
	h := ingest.New(logOf{sp}, ingest.Options{ShardName: func(_ string, id record.ShardID) string { return fmt.Sprint(id) }}, quiet)
	srv := httptest.NewServer(h)
	defer srv.Close()
	var body bytes.Buffer
	for i := range 2500 {
		fmt.Fprintf(&body, "cpu,host=h%d busy=%d 17623512%05d\n", i%7, i, i)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/ingest/plant?precision=ms", &body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"stored":2500,"failed":0,"shards":[{"shard":`) {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	st, err := sp.Stream("plant")
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]time.Time{}
	n := 0
	for _, sh := range st.Shards() {
		for b, err := range st.Scan(t.Context(), sh.ID, spool.Oldest()) {
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range b.Recs {
				n++
				if !r.At.After(last[r.Key]) || r.Type != "application/json" {
					t.Errorf("%s (%s) at %s behind %s", r.Data, r.Type, r.At, last[r.Key])
				}
				last[r.Key] = r.At
			}
		}
	}
	if n != 2500 || len(last) != 7 {
		t.Errorf("%d records, %d keys", n, len(last))
	}
	if _, a := post(t, h, "/ingest/other", "application/json", []byte("1")); a.Status != 404 || !strings.Contains(a.Hint, "never creates") {
		t.Errorf("a stream that is not there: %+v", a)
	}
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	if w, a := post(t, h, "/ingest/plant", "application/json", []byte("1")); a.Status != 503 || a.Stored != 0 || w.Header().Get("Retry-After") == "" {
		t.Errorf("after the close: %+v", a)
	}
}
