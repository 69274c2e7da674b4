package kinesis_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kinesis"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// A hop is a gateway of a chain: its sink, and what arrived at its target.
type hop struct {
	sink   *kinesis.Sink
	stored []record.Record // as the next gateway keeps them
	fail   func(n int) bool
	puts   int
}

func newHop(t *testing.T, name string, change func(*kinesis.Config)) *hop {
	t.Helper()
	h := &hop{}
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request, in put) {
		h.puts++
		if h.fail != nil && h.fail(h.puts) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for _, r := range in.Records {
			if a, err := kpl.Decode(r.Data); err == nil {
				for _, u := range a.All() {
					if u.HashKey != r.ExplicitHashKey {
						t.Errorf("hash key %q inside, %q outside", u.HashKey, r.ExplicitHashKey)
					}
				}
			}
			h.stored = append(h.stored, record.Record{
				Key: r.PartitionKey, Data: r.Data, Source: "kinesis",
				Pos: record.Pos{Shard: 9, Seq: uint64(len(h.stored) + 1)}, Arrived: time.Unix(1700000000, 0),
			})
		}
		accept(w, in)
	})
	cfg := config(srv.URL)
	if change != nil {
		change(&cfg)
	}
	var err error
	h.sink, err = kinesis.New(cfg, lane.Home{ID: record.Identity{Gateway: name, Epoch: 7}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.sink.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// send hands on everything, in steps of at most n records.
func (h *hop) send(t *testing.T, recs []record.Record, n int) {
	t.Helper()
	for len(recs) > 0 {
		b := lane.Batch{Lane: lane.Lane{Stream: "cell", Shard: 9, Hash: record.HashOf("lane")}, Recs: recs[:min(n, len(recs))], Backlog: true}
		o := h.sink.Send(t.Context(), []lane.Batch{b})[0]
		if o.Done != len(b.Recs) || o.Class != lane.OK {
			t.Fatalf("%d records: %+v", len(b.Recs), o)
		}
		recs = recs[len(b.Recs):]
	}
}

// users are the records that a consumer at the target sees.
func (h *hop) users() (out []part) {
	for _, r := range h.stored {
		a, err := kpl.Decode(r.Data)
		if err != nil {
			out = append(out, part{r.Key, string(r.Data)})
			continue
		}
		for _, u := range a.All() {
			out = append(out, part{u.Key, string(u.Data)})
		}
	}
	return out
}

type part struct{ key, data string }

// Over three hops a record keeps the one envelope that the first gateway put
// it into, its key and its order, however the hops cut their requests.
func TestChainForwardsUnchanged(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var recs []record.Record
	for i := range 700 {
		data := fmt.Sprintf(`{"device":"d%d","seq":%d}`, i%5, i)
		if i%7 == 0 {
			data = strings.Repeat("\x00", rng.IntN(3000))
		}
		recs = append(recs, record.Record{
			Key: fmt.Sprintf("d%d", i%5), Data: []byte(data), Pos: record.Pos{Shard: 2, Seq: uint64(i + 1)},
			Attrs: map[string]string{"n": fmt.Sprint(i)}, Arrived: time.Unix(1700000000, int64(i)),
		})
	}
	for name, change := range map[string]func(*kinesis.Config){
		"aggregated":        nil,
		"small":             func(c *kinesis.Config) { c.MaxRecord = conf.Size(32 << 10) },
		"raw in the middle": func(c *kinesis.Config) { c.Format = "raw" },
		"one by one":        func(c *kinesis.Config) { c.Aggregate = "off" },
	} {
		t.Run(name, func(t *testing.T) {
			near, mid, far, top := newHop(t, "near", nil), newHop(t, "mid", change), newHop(t, "far", nil), newHop(t, "top", nil)
			near.send(t, recs, 13)
			mid.send(t, near.stored, 20)
			far.send(t, mid.stored, 300)
			top.send(t, far.stored, 1)
			got, want := top.users(), near.users()
			if !slices.Equal(got, want) {
				t.Fatalf("%d records at the top, %d at the first hop, or they differ", len(got), len(want))
			}
			e := envelope.NewBeside(record.Identity{Gateway: "near", Epoch: 7})
			for i := range recs {
				if w := string(e.Append(nil, "cell", &recs[i])); got[i].data != w || got[i].key != recs[i].Key {
					t.Fatalf("record %d:\n got %s %s\nwant %s %s", i, got[i].key, got[i].data, recs[i].Key, w)
				}
			}
		})
	}
}

func aggregate(parts ...part) []byte {
	var enc kpl.Encoder
	for _, p := range parts {
		enc.Add(p.key, "77", []byte(p.data))
	}
	return enc.AppendTo(nil)
}

const golden = `{"id":"near/0000000000000007/2/5","stream":"mqtt","key":"k","arrived":"2026-11-22T10:00:00Z","source":"mqtt","data":1}`

// Records of producers that are no gateway get an envelope each, with an id
// of their own inside the stored record's.
func TestAggregateOfOthers(t *testing.T) {
	h := newHop(t, "site", nil)
	h.send(t, []record.Record{
		{Key: "outer", Data: aggregate(part{"a", `{"v":1}`}, part{"k", golden}, part{"", "\x00"}), Pos: record.Pos{Shard: 3, Seq: 8}, Arrived: time.Unix(0, 0), Source: "kinesis"},
		{Key: "outer", Data: aggregate(part{"b", "2"}), Pos: record.Pos{Shard: 3, Seq: 9}, Arrived: time.Unix(0, 0), Source: "kinesis"},
		{Key: "c", Data: []byte(golden), Attrs: map[string]string{"a": "b"}, Pos: record.Pos{Shard: 3, Seq: 10}, Arrived: time.Unix(0, 0), Source: "mqtt"},
	}, 10)
	head := `{"id":"site/0000000000000007/3/`
	tail := `,"stream":"cell","t":0,"source":`
	want := []part{
		{"a", head + `8/1"` + tail + `"kinesis","data":{"v":1}}`},
		{"k", golden},
		{"", head + `8/3"` + tail + `"kinesis","data_b64":"AA=="}`},
		{"b", head + `9/1"` + tail + `"kinesis","data":2}`},
		{"c", head + `10"` + tail + `"mqtt","attrs":{"a":"b"},"data":` + golden + `}`},
	}
	got := h.users()
	if !slices.Equal(got, want) {
		t.Fatalf("\n got %q\nwant %q", got, want)
	}
	if len(h.stored) != 1 {
		t.Errorf("%d Kinesis records, want one", len(h.stored))
	}
	next := newHop(t, "cloud", nil)
	next.send(t, h.stored, 1)
	if got := next.users(); !slices.Equal(got, want) {
		t.Errorf("a hop further:\n got %q\nwant %q", got, want)
	}
}

// A lone record inside an aggregate travels under its own key.
func TestLonePartKeepsItsKey(t *testing.T) {
	for name, c := range map[string]struct {
		in   part
		want string
	}{
		"its key":            {part{"inner", golden}, "inner"},
		"no key":             {part{"", golden}, "outer"},
		"a key far too long": {part{strings.Repeat("k", record.MaxKey+1), golden}, "outer"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, "site", nil)
			h.send(t, []record.Record{{Key: "outer", Data: aggregate(c.in), Pos: record.Pos{Shard: 3, Seq: 8}}}, 1)
			if len(h.stored) != 1 || h.stored[0].Key != c.want {
				t.Fatalf("stored %+v, want the key %q", h.stored, c.want)
			}
			if got := h.users(); len(got) != 1 || got[0] != c.in {
				t.Errorf("%q, want %q", got, c.in)
			}
		})
	}
}

// A stored record that is too large for one Kinesis record travels in pieces
// and is acknowledged with the last; where the target fails in between, what
// it has already is not sent again.
func TestLargeAggregateIsCut(t *testing.T) {
	var parts []part
	for i := range 4000 {
		parts = append(parts, part{fmt.Sprintf("k%d", i%9), fmt.Sprintf("\xff%0*d", i%100, i)})
	}
	rec := func(seq uint64, p ...part) record.Record {
		return record.Record{Key: "outer", Data: aggregate(p...), Pos: record.Pos{Shard: 3, Seq: seq}}
	}
	recs := []record.Record{rec(1, part{"a", "1"}), rec(2, parts...), rec(3, part{"b", "2"})}
	h := newHop(t, "site", func(c *kinesis.Config) { c.MaxRecord = conf.Size(32 << 10) })
	h.fail = func(n int) bool { return n%3 == 0 }
	b := lane.Batch{Lane: lane.Lane{Stream: "cell", Shard: 3, Hash: record.HashOf("lane")}, Recs: recs, Backlog: true}
	sends := 0
	for len(b.Recs) > 0 {
		if sends++; sends > 100 {
			t.Fatal("it gets nowhere")
		}
		o := h.sink.Send(t.Context(), []lane.Batch{b})[0]
		if o.Done < len(b.Recs) && o.Class != lane.Transient {
			t.Fatalf("%+v", o)
		}
		b.Recs = b.Recs[o.Done:]
	}
	if sends < 3 || len(h.stored) < 10 {
		t.Fatalf("%d Sends and %d Kinesis records cut nothing", sends, len(h.stored))
	}
	var want []string
	for _, r := range recs {
		a, err := kpl.Decode(r.Data)
		if err != nil {
			t.Fatal(err)
		}
		for i := range a.All() {
			want = append(want, fmt.Sprintf("site/0000000000000007/3/%d/%d", r.Pos.Seq, i+1))
		}
	}
	var got []string
	for _, u := range h.users() {
		in, err := envelope.Open([]byte(u.data))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, in.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d records arrived, %d were sent, or not in order", len(got), len(want))
	}
	for _, r := range h.stored {
		if n := len(r.Data) + len(r.Key); n > 32<<10 {
			t.Errorf("a Kinesis record of %d bytes", n)
		}
	}
}
