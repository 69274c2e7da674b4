package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"forebay/gateway/internal/rules"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
)

// What other gateways and aggregating producers sent is read as the records
// it was; the reader's place stays between stored records.
func TestReadersSeeWhatIsInside(t *testing.T) {
	ctx := t.Context()
	sp, err := spool.Open(ctx, filepath.Join(t.TempDir(), "spool"), spool.Config{Gateway: "site"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
	})
	st, err := sp.Ensure(ctx, spool.StreamConfig{Name: "cell", Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	then := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	taken := then.Add(time.Hour)
	inner := record.Record{
		Key: "a/b", At: then, Arrived: then.Add(time.Second), Source: "mqtt", Type: "application/json",
		Attrs: map[string]string{"x": "y"}, Data: []byte(`{"value":1}`), Pos: record.Pos{Shard: 1, Seq: 2}, Blob: []byte("beside"),
	}
	env := envelope.New(record.Identity{Gateway: "edge", Epoch: 3})
	with := env.Append(nil, "mqtt", &inner)
	inner.At, inner.Attrs, inner.Type, inner.Data = time.Time{}, nil, "", []byte{0, 1}
	without := envelope.NewBeside(record.Identity{Gateway: "edge", Epoch: 3}).Append(nil, "mqtt", &inner)
	var enc kpl.Encoder
	enc.Add("outer", "", with)
	enc.Add("p", "7", []byte("plain"))
	enc.Add("outer", "", without)
	agg := enc.AppendTo(nil)
	broken := slices.Clone(agg)
	broken[len(broken)-1] ^= 1
	var recs []record.Record
	for _, d := range [][]byte{[]byte("before"), agg, with, broken, new(kpl.Encoder).AppendTo(nil), []byte("after")} {
		recs = append(recs, record.Record{Key: "k", Data: d, Type: "t", Arrived: taken})
	}
	if _, err := st.Put(ctx, recs); err != nil {
		t.Fatal(err)
	}
	rd, err := forRules{sp}.Follow(ctx, "cell", st.Shards()[0].ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	}()
	var got []string
	for next := uint64(1); next < 7; {
		b, err := rd.Next(ctx, 2)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range b.Recs {
			if r.Pos.Seq < next || r.Pos.Seq >= b.Next || !r.Arrived.Equal(taken) {
				t.Errorf("record %d of a batch from %d to %d: %+v", i, next, b.Next, r)
			}
			at := ""
			if !r.At.IsZero() {
				at = r.At.Sub(then).String()
			}
			got = append(got, fmt.Sprintf("%d %s %q %s %s %v", r.Pos.Seq, r.Key, r.Data, at, r.Type, r.Attrs))
		}
		if next = b.Next; next != rd.Pos() {
			t.Errorf("the batch ends at %d, the reader is at %d", next, rd.Pos())
		}
	}
	want := []string{
		`1 k "before"  t map[]`,
		`2 a/b "{\"value\":1}" 0s application/json map[x:y]`,
		`2 p "plain"  t map[]`,
		`2 outer "\x00\x01" 1s  map[]`,
		`3 a/b "{\"value\":1}" 0s application/json map[x:y]`,
		fmt.Sprintf("4 k %q  t map[]", broken),
		fmt.Sprintf("5 k %q  t map[]", new(kpl.Encoder).AppendTo(nil)),
		`6 k "after"  t map[]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	if rd, err := (forRules{sp}).Follow(ctx, "none", 1, rules.Newest); err == nil || rd != nil {
		t.Errorf("a stream that is none: %v, %v", rd, err)
	}
	if rd, err := (forRules{sp}).Follow(ctx, "cell", 999, 0); err == nil || rd != nil {
		t.Errorf("a shard that is none: %v, %v", rd, err)
	}
}
