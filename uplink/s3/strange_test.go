package s3_test

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

// A portal whose page has an ETag, as web servers give to files, has stored
// nothing.
func TestAPageWithAnETagIsNoAcknowledgement(t *testing.T) {
	for _, kind := range []string{"text/html; charset", "text/plain", ""} {
		f := newFar(t)
		f.kind = kind
		f.misbehave(func(op, key string) string {
			if op == "PUT" || op == "HEAD" && strings.Contains(key, "_chunks/") {
				return "page"
			}
			return ""
		})
		s := f.open(s3.Config{Conditional: "off"})
		o := s.Send(t.Context(), []lane.Batch{batchOf(laneOf(1), 1, 3)})[0]
		if o.Done != 0 || o.Class != lane.Offline {
			t.Errorf("%q: %+v", kind, o)
		}
		f.misbehave(func(op, key string) string {
			if op == "HEAD" && strings.Contains(key, "_chunks/") {
				return "page"
			}
			return ""
		})
		b := batchOf(laneOf(1), 1, 1)
		b.Recs[0].Blob, b.Recs[0].Type = []byte("a chunk"), "text/html"
		o = s.Send(t.Context(), []lane.Batch{b})[0]
		if o.Done > 0 && !slices.ContainsFunc(f.keys(), func(k string) bool { return strings.Contains(k, "_chunks/") }) {
			t.Errorf("%q: the record is there, and its chunk is not: %q", kind, f.keys())
		}
	}
}

// Columns of text hold text: a reader that looks refuses the whole file else.
func TestParquetTextIsUTF8(t *testing.T) {
	f := newFar(t)
	b := batchOf(laneOf(1), 1, 1)
	b.Recs[0].Attrs = map[string]string{"unit": "\xb0C", "k\xff": "v"}
	b.Recs[0].Source, b.Recs[0].Type = "pl\xe4c", "text/\xff"
	sendAll(t, f.open(s3.Config{Objects: "parquet"}), b)
	r := rowsOf(t, f.body(f.keys()[1]))[0]
	for k, v := range r.Attrs {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			t.Errorf("attribute %q = %q", k, v)
		}
	}
	if !utf8.ValidString(r.Source) || !utf8.ValidString(r.Type) {
		t.Errorf("%q %q", r.Source, r.Type)
	}
}
