package opensearch

import (
	"encoding/json"
	"strings"
	"testing"

	"forebay/uplink/lane"
)

// FuzzParseBulk: an answer that passes tells of each document, a document that
// counts as there has a status that says so, and every reason is one printable
// line.
func FuzzParseBulk(f *testing.F) {
	f.Add([]byte(`{"items":[{"create":{"status":201}}]}`), 1)
	f.Add([]byte(`{"errors":true,"items":[{"create":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"x"}}},{"index":{"status":400,"error":"old\n"}}]}`), 2)
	f.Add([]byte(`{"items":[{"create":{"status":400,"error":{"type":"mapper_parsing_exception","reason":"a","caused_by":{"reason":"b\u0000"}}}}]}`), 1)
	f.Add([]byte(`{"items":[null]}`), 1)
	f.Add([]byte(`{"items":[{"create":{"status":200,"error":null}}],"Items":[]}`), 0)
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		items, err := parseBulk(body, n)
		if err != nil {
			return
		}
		if len(items) != n {
			t.Fatalf("%d items for %d documents", len(items), n)
		}
		for i := range items {
			e, document := items[i].outcome("create")
			if e == nil && items[i].Status != 200 && items[i].Status != 201 && items[i].Status != 409 {
				t.Fatalf("status %d is taken for done", items[i].Status)
			}
			if e != nil && (e.Class == lane.OK || e.Error() == "" || strings.ContainsAny(e.Error(), "\r\n\x00")) {
				t.Fatalf("%q", e.Error())
			}
			if document && e.Class != lane.Poison {
				t.Fatalf("%+v is a document's fault", e)
			}
		}
	})
}

// FuzzParseHits: what passes has an id and a place to go on from.
func FuzzParseHits(f *testing.F) {
	f.Add([]byte(`{"_shards":{"failed":0},"hits":{"hits":[{"_source":{"id":"a/0000000000000001/1/2"},"sort":["a",1]}]}}`))
	f.Add([]byte(`{"timed_out":true}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		hits, err := parseHits(body)
		if err != nil {
			return
		}
		for _, h := range hits {
			if h.Source.ID == "" || !json.Valid(h.Sort) {
				t.Fatalf("%+v", h)
			}
		}
		causeOf(body)
	})
}

// FuzzData: whatever a payload is, its document is JSON on one line from which
// it comes back byte for byte.
func FuzzData(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":"\"}{"}`, `{"a":1,"a":2}`, "1e5", "1e999", "\xff", `{"a":[{}]}`, "x\n", `{"\\":1}`, "-", "{}", `{"a.b":{"":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc := append(appendData([]byte(`{"x":1`), "s", data), '}')
		var got struct {
			Data   map[string]json.RawMessage
			Value  json.RawMessage
			Text   *string
			Base64 []byte `json:"data_b64"`
		}
		if err := json.Unmarshal(doc, &got); err != nil || strings.ContainsAny(string(doc), "\r\n") {
			t.Fatalf("%q: %v", doc, err)
		}
		back := got.Base64
		switch {
		case got.Data != nil:
			back = got.Data["s"]
		case got.Value != nil:
			back = got.Value
		case got.Text != nil:
			back = []byte(*got.Text)
		}
		if string(back) != string(data) {
			t.Fatalf("%q came back as %q in %s", data, back, doc)
		}
	})
}
