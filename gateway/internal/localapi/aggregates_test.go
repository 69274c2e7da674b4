package localapi_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/kpl"
)

// line is what a test compares of a record.
func line(r api.Record) string {
	data := string(r.Data)
	if r.Text != nil {
		data = *r.Text
	}
	if r.Base64 != nil {
		data = fmt.Sprintf("%d bytes", len(r.Base64))
	}
	return fmt.Sprintf("%d/%d %s %q %s", r.Seq, r.Sub, r.Key, r.HashKey, data)
}

func (w *world) tail(t *testing.T, ask api.Tail) (lines []string, recs []api.Record) {
	t.Helper()
	for r, err := range w.client.Records(t.Context(), ask) {
		if err != nil {
			t.Fatal(err)
		}
		lines, recs = append(lines, line(r)), append(recs, r)
	}
	return lines, recs
}

// aggregated appends plain records and aggregates, whole and damaged, to a
// stream of one shard.
func (w *world) aggregated(t *testing.T) (whole []byte) {
	t.Helper()
	var enc kpl.Encoder
	enc.Add("a", "", []byte("one"))
	enc.Add("b", "340282366920938463463374607431768211455", []byte(`{"v": 2}`))
	enc.Add("a", "", []byte{0xff})
	whole = enc.AppendTo(nil)
	damaged := slices.Clone(whole)
	damaged[len(damaged)-1] ^= 1
	empty := new(kpl.Encoder).AppendTo(nil)
	hash := record.HashKey{15: 7}
	st, err := w.sp.Ensure(t.Context(), spool.StreamConfig{Name: "agg", Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Put(t.Context(), []record.Record{
		{Key: "k1", Data: []byte("before")}, {Key: "k2", HashKey: &hash, Data: whole}, {Key: "k3", Data: damaged}, {Key: "k4", Data: empty}, {Key: "k5", Data: []byte("after")},
	}); err != nil {
		t.Fatal(err)
	}
	return whole
}

func TestAggregatesAreOpenedOrNot(t *testing.T) {
	w := serve(t, localapi.Config{})
	whole := w.aggregated(t)
	open := []string{
		`1/0 k1 "" before`,
		`2/1 a "" one`, `2/2 b "340282366920938463463374607431768211455" {"v": 2}`, `2/3 a "" 1 bytes`,
		fmt.Sprintf(`3/0 k3 "" %d bytes`, len(whole)), `4/0 k4 "" 20 bytes`, `5/0 k5 "" after`,
	}
	got, recs := w.tail(t, api.Tail{Stream: "agg"})
	if !slices.Equal(got, open) {
		t.Fatalf("read\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(open, "\n"))
	}
	ids := map[string]bool{}
	for _, r := range recs {
		if ids[r.ID] || r.Sub > 0 && !strings.HasSuffix(r.ID, fmt.Sprintf("/2/%d", r.Sub)) {
			t.Errorf("id %s of %s", r.ID, line(r))
		}
		ids[r.ID] = true
	}
	raw := []string{`1/0 k1 "" before`, fmt.Sprintf(`2/0 k2 "7" %d bytes`, len(whole)), open[4], open[5], open[6]}
	if got, _ := w.tail(t, api.Tail{Stream: "agg", Raw: true}); !slices.Equal(got, raw) {
		t.Errorf("as they are: %q", got)
	}
	// The limit counts what is shown.
	if got, _ := w.tail(t, api.Tail{Stream: "agg", From: "2", Limit: 2}); !slices.Equal(got, open[1:3]) {
		t.Errorf("two from the aggregate on: %q", got)
	}
}

func TestAggregatesAreOpenedAsTheyCome(t *testing.T) {
	w := serve(t, localapi.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.aggregated(t)
	var got []string
	for r, err := range w.client.Records(ctx, api.Tail{Stream: "agg", Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, line(r)); len(got) == 7 {
			break
		}
	}
	if got[2] != `2/2 b "340282366920938463463374607431768211455" {"v": 2}` || got[6] != `5/0 k5 "" after` {
		t.Errorf("followed %q", got)
	}
}

func TestDeaggregateIsTrueOrFalse(t *testing.T) {
	w := serve(t, localapi.Config{})
	for value, want := range map[string]int{"": 200, "true": 200, "false": 200, "yes": 400} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.server.Addr()+"/v1/streams/mqtt/records?deaggregate="+value, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != want {
			t.Errorf("deaggregate=%s: %s, %v", value, resp.Status, err)
		}
	}
}

// An aggregate of very many records is handed on without being held.
func TestAnAggregateOfManyIsReadOneByOne(t *testing.T) {
	w := serve(t, localapi.Config{})
	var enc kpl.Encoder
	const n = 50_000 // seven bytes each
	for range n {
		enc.Add("k", "", nil)
	}
	st, err := w.sp.Ensure(t.Context(), spool.StreamConfig{Name: "agg", Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Put(t.Context(), []record.Record{{Key: "k", Data: enc.AppendTo(nil)}}); err != nil {
		t.Fatal(err)
	}
	last := 0
	for r, err := range w.client.Records(t.Context(), api.Tail{Stream: "agg"}) {
		if err != nil || r.Sub != last+1 {
			t.Fatalf("%s behind %d, %v", line(r), last, err)
		}
		last = r.Sub
	}
	if last != n {
		t.Errorf("%d of %d", last, n)
	}
}
