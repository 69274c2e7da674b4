package ingest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"forebay/gateway/internal/ingest"
	"forebay/spool/record"
)

// A sink takes everything and keeps nothing.
type sink struct{}

func (sink) PutTo(_ context.Context, _ string, recs []record.Record, done func([]record.Result)) error {
	done(make([]record.Result, len(recs)))
	return nil
}

// From a body that was read to its answer, without the log: 10,000 records a
// request.
func BenchmarkIngest(b *testing.B) {
	body := func(n int, head string, row func(i int) string) []byte {
		var w bytes.Buffer
		w.WriteString(head)
		for i := range n {
			w.WriteString(row(i))
		}
		return w.Bytes()
	}
	object := func(i int) string {
		return fmt.Sprintf(`{"name":"temp","value":%d.5,"unit":"Cel","quality":"good","time":"2026-11-05T14:00:00Z","n":%04d}`, i%90, i%1000+1000)
	}
	large := func(i int) string {
		return fmt.Sprintf(`{"device":{"id":"press-%d"},"text":"%s","values":[1,2.5,-3e4,true,null],"n":%d}`, i%16, bytes.Repeat([]byte("lorem ipsum "), 78), i)
	}
	for _, c := range []struct {
		name, query string
		body        []byte
	}{
		{"ndjson100", "format=ndjson", body(10000, "", func(i int) string { return object(i) + "\n" })},
		{"ndjson1k", "format=ndjson", body(10000, "", func(i int) string { return large(i) + "\n" })},
		{"ndjson1kKeyField", "format=ndjson&key_field=device.id", body(10000, "", func(i int) string { return large(i) + "\n" })},
		{"json100", "format=json", append(body(9999, "[", func(i int) string { return object(i) + "," }), "1]"...)},
		{"csv", "format=csv&key_field=machine&time_field=time", body(10000, "time,machine,temp,pressure,note\n", func(i int) string {
			return fmt.Sprintf("2026-11-05T14:00:00Z,press-%d,%d.5,1013.25,\"all, well\"\n", i%16, i%90)
		})},
		{"line", "format=line", body(10000, "", func(i int) string {
			return fmt.Sprintf("cpu,cpu=cpu%d,host=edge-07 usage_idle=%d.5,usage_user=1.25,n=%di,ok=true,s=\"text\" 17623512000000%05d\n", i%16, i%90, i, i)
		})},
	} {
		b.Run(c.name, func(b *testing.B) {
			h := ingest.New(sink{}, ingest.Options{}, quiet)
			lend := func(int64) bool { return true }
			r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/ingest/plant?"+c.query, http.NoBody)
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.Serve(w, r, c.body, lend)
				if w.Code != http.StatusOK || !bytes.Contains(w.Body.Bytes(), []byte(`"failed":0`)) {
					b.Fatal(w.Code, w.Body)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10000, "ns/record")
		})
	}
}
