package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/internal/ingest"
	"forebay/spool/record"
)

var update = flag.Bool("update", false, "write what the golden cases give into their .want files")

// A memory is a log that keeps what it is given and answers at once. Before,
// if it is set, may answer in its stead.
type memory struct {
	mu     sync.Mutex
	recs   []record.Record
	puts   int
	before func(recs []record.Record, done func([]record.Result)) (handled bool, err error)
}

func (m *memory) PutTo(_ context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	if stream != "plant" {
		return fmt.Errorf("put to %q: %w", stream, record.ErrNoStream)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts++
	if m.before != nil {
		if handled, err := m.before(recs, done); handled {
			return err
		}
	}
	rs := make([]record.Result, len(recs))
	for i := range recs {
		if rs[i].Err = recs[i].Check(); rs[i].Err == nil {
			m.recs = append(m.recs, recs[i])
			rs[i].Pos = record.Pos{Shard: 7, Seq: uint64(len(m.recs))}
		}
	}
	done(rs)
	return nil
}

// An answer is what a client reads.
type answer struct {
	Status  int
	Code    string
	Message string
	Hint    string
	Stream  string
	Stored  int
	Failed  int
	Errors  []struct {
		Index, Line   int
		Code, Message string
	}
	Omitted int `json:"errors_omitted"`
	Retry   []struct{ From, To int }
	Shards  []struct {
		Shard       string
		Stored      int
		First, Last uint64
	}
}

var quiet = slog.New(slog.DiscardHandler)

// post sends a body and gives the answer.
func post(t testing.TB, h http.Handler, target, media string, body []byte, header ...string) (*httptest.ResponseRecorder, answer) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, target, bytes.NewReader(body))
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var a answer
	dec := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&a); err != nil {
		t.Fatalf("the answer %q: %v", w.Body, err)
	}
	if w.Code != http.StatusOK && a.Status != w.Code || w.Code == http.StatusOK && a.Status != 0 {
		t.Errorf("the answer has the status %d and says %d", w.Code, a.Status)
	}
	return w, a
}

var media = map[string]string{
	"ndjson": "application/x-ndjson", "json": "application/json", "csv": "text/csv; charset=utf-8",
	"line": "text/plain; charset=utf-8", "raw": "application/octet-stream",
}

// Each testdata/FORMAT/CASE.in is posted in its format, with the parameters of
// CASE.query if there are any; CASE.want says what was stored and answered.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.in")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, file := range files {
		format := filepath.Base(filepath.Dir(file))
		seen[format]++
		t.Run(format+"/"+strings.TrimSuffix(filepath.Base(file), ".in"), func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			target := "/ingest/plant"
			if q, err := os.ReadFile(strings.TrimSuffix(file, ".in") + ".query"); err == nil {
				target += "?" + strings.TrimSpace(string(q))
			}
			to := &memory{}
			h := ingest.New(to, ingest.Options{}, quiet)
			_, a := post(t, h, target, media[format], body)
			got := show(to.recs, a)
			want := strings.TrimSuffix(file, ".in") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(text) {
				t.Errorf("got:\n%s\nwant:\n%s", got, text)
			}
		})
	}
	for _, format := range []string{"ndjson", "json", "csv", "line"} {
		if seen[format] == 0 {
			t.Errorf("testdata/%s has no case", format)
		}
	}
}

func show(recs []record.Record, a answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "status %d, stored %d, failed %d\n", max(a.Status, http.StatusOK), a.Stored, a.Failed)
	for i := range recs {
		r := &recs[i]
		fmt.Fprintf(&b, "key %q", r.Key)
		if !r.At.IsZero() {
			fmt.Fprintf(&b, " at %s", r.At.Format(time.RFC3339Nano))
		}
		if r.Type != "application/json" {
			fmt.Fprintf(&b, " type %q", r.Type)
		}
		fmt.Fprintf(&b, "\n  %s\n", r.Data)
	}
	for _, e := range a.Errors {
		fmt.Fprintf(&b, "error in record %d, line %d: %s: %s\n", e.Index, e.Line, e.Code, e.Message)
	}
	if a.Message != "" {
		fmt.Fprintf(&b, "%s: %s\n", a.Code, a.Message)
	}
	return b.String()
}
