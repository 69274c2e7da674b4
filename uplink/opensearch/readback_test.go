package opensearch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/opensearch"
)

// search answers a search over the cluster's documents as the service does,
// as far as the query is one that it knows.
func (c *cluster) search(w io.Writer, body []byte) {
	var q struct {
		Size  int
		Query struct {
			Bool struct {
				Filter []struct {
					Term  map[string]string
					Range map[string]struct{ Gte, Lt string }
				}
			}
		}
		Sort  []map[string]any
		After []any `json:"search_after"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&q); err != nil || q.Size == 0 || q.Size > 10_000 || len(q.Sort) == 0 {
		c.t.Errorf("query %s: %v", body, err)
	}
	type found struct {
		source map[string]any
		sort   []any
	}
	var all []found
	for _, doc := range c.docs {
		var f found
		d := json.NewDecoder(strings.NewReader(doc))
		d.UseNumber()
		if err := d.Decode(&f.source); err != nil {
			c.t.Errorf("%s: %v", doc, err)
		}
		in := true
		for _, x := range q.Query.Bool.Filter {
			for name, value := range x.Term {
				in = in && f.source[name] == value
			}
			for name, span := range x.Range {
				at, _ := f.source[name].(string)
				in = in && (span.Gte == "" || at >= span.Gte) && (span.Lt == "" || at < span.Lt)
			}
		}
		for _, s := range q.Sort {
			for name := range s {
				f.sort = append(f.sort, f.source[name])
			}
		}
		if in && (q.After == nil || compare(f.sort, q.After) > 0) {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b found) int { return compare(a.sort, b.sort) })
	hits := []any{}
	for _, f := range all[:min(len(all), q.Size)] {
		hits = append(hits, map[string]any{"_source": map[string]any{"id": f.source["id"]}, "sort": f.sort})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may have gone
		"timed_out": false, "_shards": map[string]any{"total": 1, "failed": 0}, "hits": map[string]any{"hits": hits},
	})
}

func compare(a, b []any) int {
	for i := range a {
		as, bs := fmt.Sprint(a[i]), fmt.Sprint(b[i])
		if _, number := a[i].(json.Number); number { // by value
			as, bs = fmt.Sprintf("%020s", as), fmt.Sprintf("%020s", bs)
		}
		if n := strings.Compare(as, bs); n != 0 {
			return n
		}
	}
	return 0
}

func TestReadBack(t *testing.T) {
	c := newCluster(t)
	c.answer = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		switch r.URL.Path {
		case "/forebay-*-*/_search":
			c.search(w, body)
		case "/forebay-*-*/_refresh":
			fail(w, 403, "security_exception", "no permissions")
		default:
			return false
		}
		return true
	}
	s := open(t, opensearch.Config{URL: c.URL})
	const n = 6000 // more than a page
	b := batch(3, 1, numbers(n)...)
	for i := range b.Recs {
		b.Recs[i].Arrived = arrived.Add(-time.Duration(i) * time.Second) // the clock ran backwards
	}
	old := batch(3, 1, "1", "2")
	for i := range old.Recs {
		old.Recs[i].Origin = &record.Origin{Gateway: "edge-07", Epoch: 7}
	}
	send(t, s, b)
	send(t, s, old)
	c.docs["forebay-mqtt-2026.11.23/foreign"] = `{"id":"other/0000000000000001/1/1","via":"other","arrived":"2026-11-23T08:00:00Z"}`
	var got []string
	read := func(from, to time.Time) {
		t.Helper()
		got = nil
		if err := s.ReadBack(t.Context(), from, to, func(id string) error { got = append(got, id); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	read(time.Time{}, time.Time{})
	if len(got) != n+2 {
		t.Fatalf("%d ids", len(got))
	}
	for i, id := range got {
		want := fmt.Sprintf("edge-07/0000000000000007/3/%d", i+1)
		if i >= 2 {
			want = fmt.Sprintf("edge-07/0000000000001234/3/%d", i-1)
		}
		if id != want {
			t.Fatalf("%s at place %d, want %s", id, i, want)
		}
	}
	read(arrived.Add(-9*time.Second), arrived)
	if len(got) != 9 {
		t.Errorf("%d of the span, want 9: %q", len(got), got)
	}
	stop := errors.New("enough")
	if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{
		`{}`, `{"hits":{"hits":[]}}`, `{"timed_out":true,"_shards":{"failed":0},"hits":{"hits":[]}}`,
		`{"_shards":{"failed":1},"hits":{"hits":[]}}`, `{"_shards":{"failed":0},"hits":{"hits":[{}]}}`,
	} {
		c.answer = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { fmt.Fprint(w, bad); return true }
		if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string) error { return nil }); err == nil {
			t.Errorf("%s passes for the whole answer", bad)
		}
	}
}
