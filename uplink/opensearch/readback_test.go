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
		index  string
		source map[string]any
		sort   []any
	}
	var all []found
	for at, doc := range c.docs {
		var f found
		f.index, _, _ = strings.Cut(at, "/")
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
		hits = append(hits, map[string]any{"_index": f.index, "_source": map[string]any{"id": f.source["id"]}, "sort": f.sort})
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
	var got, names []string
	read := func(from, to time.Time) {
		t.Helper()
		got, names = nil, nil
		if err := s.ReadBack(t.Context(), from, to, func(under, id string) error { got, names = append(got, id), append(names, under); return nil }); err != nil {
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
		if id != want || names[i] != "mqtt" {
			t.Fatalf("%s of %s at place %d, want %s of mqtt", id, names[i], i, want)
		}
	}
	read(arrived.Add(-9*time.Second), arrived)
	if len(got) != 9 {
		t.Errorf("%d of the span, want 9: %q", len(got), got)
	}
	stop := errors.New("enough")
	if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string, string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{
		`{}`, `{"hits":{"hits":[]}}`, `{"timed_out":true,"_shards":{"failed":0},"hits":{"hits":[]}}`,
		`{"_shards":{"failed":1},"hits":{"hits":[]}}`, `{"_shards":{"failed":0},"hits":{"hits":[{}]}}`,
	} {
		c.answer = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { fmt.Fprint(w, bad); return true }
		if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string, string) error { return nil }); err == nil {
			t.Errorf("%s passes for the whole answer", bad)
		}
	}
}

// The stream is told from the name of the index, also of one behind a data
// stream or an alias, and from the document where the name says nothing.
func TestReadBackTellsStreamsApart(t *testing.T) {
	for _, x := range []struct{ pattern, index, stream string }{
		{"forebay-{stream}-{yyyy.MM.dd}", "forebay-mqtt-2026.11.23", "mqtt"},
		{"forebay-{stream}-{yyyy.MM.dd}", "forebay-replay-1-mqtt-2026.11.23", "replay-1-mqtt"},
		{"forebay-{stream}-{yyyyMMdd}", "forebay-mqtt-20261123", "mqtt"},
		{"forebay-{stream}", "forebay-mqtt", "mqtt"},
		{"forebay-{stream}", "forebay-press_7", "Press 7"},
		{"forebay-{stream}", "forebay-mqtt-000042", "mqtt"},
		{"forebay-{stream}", ".ds-forebay-mqtt-000001", "mqtt"},
		{"forebay-{stream}", ".ds-forebay-replay-1-mqtt-2026.11.23-000001", "replay-1-mqtt"},
		{"p.{stream}.{yyyy}", "p.mqtt.2026", "mqtt"},
		{"forebay-{stream}", "hot-7", "mqtt"},
		{"forebay-{stream}", "hot-8", "replay-1-mqtt"},
		{"forebay-{yyyy.MM}", "forebay-2026.11", "mqtt"},
	} {
		c := newCluster(t)
		c.answer = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			fmt.Fprintf(w, `{"timed_out":false,"_shards":{"failed":0},"hits":{"hits":[{"_index":%q,"_source":{"id":"edge-07/0000000000000007/3/1","stream":%q},"sort":[1]}]}}`, x.index, x.stream)
			return true
		}
		s := open(t, opensearch.Config{URL: c.URL, Index: x.pattern})
		got := []string{}
		if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(under, _ string) error { got = append(got, under); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0] != s.Under(x.stream) {
			t.Errorf("%s: the record of %s lies under %q, the stream's under %q", x.index, x.stream, got, s.Under(x.stream))
		}
		if named := strings.Contains(x.pattern, "{stream}"); named == (s.Under("mqtt") == s.Under("replay-1-mqtt")) {
			t.Errorf("%s: the stream is under %q and its replay under %q", x.pattern, s.Under("mqtt"), s.Under("replay-1-mqtt"))
		}
	}
}
