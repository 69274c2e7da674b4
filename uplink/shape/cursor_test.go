package shape_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/shape"
)

// numbers are records of one key whose values are given.
func numbers(values ...float64) []record.Record {
	var out []record.Record
	for i, v := range values {
		out = append(out, record.Record{
			Key: "k", Arrived: time.Unix(1_800_000_000+int64(i), 0), Pos: record.Pos{Shard: 1, Seq: uint64(i + 1)}, Data: fmt.Appendf(nil, `{"value":%v}`, v),
		})
	}
	return out
}

func newShape(t *testing.T, entries ...shape.Config) *shape.Shape {
	t.Helper()
	s, err := shape.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func seqs(b record.Batch) []uint64 {
	var out []uint64
	for i := range b.Recs {
		out = append(out, b.Recs[i].Pos.Seq)
	}
	return out
}

// What is left out is in the Commit that passes it, what follows included, and
// never in one before.
func TestCommitTakesAlong(t *testing.T) {
	src := &list{recs: numbers(1, 1, 50, 1, 51, 1, 1)}
	var filtered atomic.Uint64
	cur := newShape(t, shape.Config{When: "value > 10"}).Cursor("mqtt", src, shape.Options{Filtered: &filtered})
	b, err := cur.Poll(t.Context(), 100)
	if err != nil || !slices.Equal(seqs(b), []uint64{3, 5}) {
		t.Fatal(seqs(b), err)
	}
	src.cmt = errors.New("the disk is away")
	if err := cur.Commit(3, record.Tally{Delivered: 1}); !errors.Is(err, src.cmt) {
		t.Fatal(err)
	}
	src.cmt = nil
	if src.done != 0 || filtered.Load() != 0 {
		t.Fatal("a commit that failed counts")
	}
	if err := cur.Commit(3, record.Tally{Delivered: 1}); err != nil || src.done != 4 || src.t != (record.Tally{Delivered: 1, Filtered: 3}) {
		t.Fatalf("%v: committed %d, %+v", err, src.done, src.t)
	}
	if err := cur.Commit(5, record.Tally{Refused: 1}); err != nil || src.done != 7 || src.t != (record.Tally{Delivered: 1, Filtered: 5, Refused: 1}) || filtered.Load() != 5 {
		t.Fatalf("%v: committed %d, %+v", err, src.done, src.t)
	}
}

// Where everything is left out for long the place moves all the same, about
// once a second, and while a record that was handed out is under way it does
// not.
func TestCommitsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &list{recs: numbers(1, 2, 3)}
		cur := newShape(t, shape.Config{When: "value > 10"}).Cursor("mqtt", src, shape.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		b, err := cur.Next(ctx, 100)
		if len(b.Recs) > 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(seqs(b), err)
		}
		if src.done != 3 || src.t.Filtered != 3 || time.Since(begun) != 3*time.Second {
			t.Errorf("committed %d, %+v", src.done, src.t)
		}

		src = &list{recs: numbers(1, 20, 3, 4)}
		cur = newShape(t, shape.Config{When: "value > 10"}).Cursor("mqtt", src, shape.Options{})
		if b, err := cur.Next(t.Context(), 2); err != nil || !slices.Equal(seqs(b), []uint64{2}) {
			t.Fatal(seqs(b), err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := cur.Next(ctx, 100); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if src.done != 1 || src.t.Filtered != 1 {
			t.Errorf("while record 2 is under way, committed %d, %+v", src.done, src.t)
		}
		if err := cur.Commit(2, record.Tally{Delivered: 1}); err != nil || src.done != 4 || src.t != (record.Tally{Delivered: 1, Filtered: 3}) {
			t.Errorf("%v: committed %d, %+v", err, src.done, src.t)
		}
	})
}

// At the end of a shard what is left out does not keep the place back: its
// children wait for it.
func TestEndCommits(t *testing.T) {
	end := &record.ShardEndError{Shard: 1}
	lost := &record.TrimmedError{Shard: 1, From: 2, To: 3}
	src := &list{recs: numbers(1, 0, 2), errs: map[int]error{1: lost, 3: end}}
	cur := newShape(t, shape.Config{When: "value > 10"}).Cursor("mqtt", src, shape.Options{})
	if b, err := cur.Poll(t.Context(), 100); !errors.Is(err, lost) || len(b.Recs) > 0 {
		t.Fatalf("%v: a loss is not passed on", err)
	}
	if src.done != 0 {
		t.Errorf("committed %d", src.done)
	}
	if b, err := cur.Next(t.Context(), 100); !errors.Is(err, end) || len(b.Recs) > 0 {
		t.Fatalf("%v: the end is not passed on", err)
	}
	if src.done != 3 || src.t.Filtered != 2 {
		t.Errorf("committed %d, %+v", src.done, src.t)
	}
}

// What could not be committed at the end of a shard is committed by Finish.
func TestFinish(t *testing.T) {
	src := &list{recs: numbers(1, 0, 20), cmt: errors.New("the disk is away")}
	cur := newShape(t, shape.Config{When: "value > 10"}).Cursor("mqtt", src, shape.Options{Logger: slog.New(slog.DiscardHandler)})
	if b, err := cur.Poll(t.Context(), 2); err != nil || len(b.Recs) != 1 {
		t.Fatalf("%d records, %v", len(b.Recs), err)
	}
	if err := cur.Finish(); !errors.Is(err, src.cmt) {
		t.Errorf("finish: %v", err)
	}
	src.cmt = nil
	if err := cur.Finish(); err != nil || src.done != 2 || src.t.Filtered != 2 {
		t.Errorf("finish: %v; committed %d, %+v", err, src.done, src.t)
	}
	if err := cur.Finish(); err != nil || src.done != 2 {
		t.Errorf("with a record that its owner has not committed: %v, committed %d", err, src.done)
	}
}

// A commit of its own that fails is told once, and made good.
func TestCommitFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		src := &list{recs: numbers(1, 2, 3), cmt: errors.New("the disk is away")}
		cur := newShape(t, shape.Config{When: "value > 10"}).Cursor("mqtt", src, shape.Options{Logger: slog.New(slog.NewTextHandler(&said, nil))})
		wait := func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := cur.Next(ctx, 100); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		wait()
		if src.done != 0 || strings.Count(said.String(), "the disk is away") != 1 {
			t.Errorf("committed %d; said %s", src.done, &said)
		}
		src.cmt = nil
		wait()
		if src.done != 3 || src.t.Filtered != 3 {
			t.Errorf("committed %d, %+v", src.done, src.t)
		}
	})
}

// One Poll passes many records that are left out, but not without end.
func TestPollPassesMany(t *testing.T) {
	src := &list{recs: make([]record.Record, 100_000)}
	for i := range src.recs {
		src.recs[i] = record.Record{Key: "k", Data: []byte("0"), Pos: record.Pos{Shard: 1, Seq: uint64(i + 1)}}
	}
	cur := newShape(t, shape.Config{When: "value > 10"}).Cursor("mqtt", src, shape.Options{})
	if b, err := cur.Poll(t.Context(), 1000); err != nil || len(b.Recs) > 0 || src.read < 50_000 || src.read == len(src.recs) {
		t.Errorf("%v: read %d", err, src.read)
	}
}

// A record of another gateway stays its envelope: id, times, key and
// attributes; what does not fit in is not touched.
func TestEnvelopes(t *testing.T) {
	w := envelope.New(record.Identity{Gateway: "cell", Epoch: 0xabc})
	at := time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC)
	inner := []record.Record{
		{Key: "k", At: at, Arrived: at.Add(time.Second), Source: "mqtt", Attrs: map[string]string{"a": "b"}, Data: []byte(`{"value":20,"unit":"Cel"}`), Pos: record.Pos{Shard: 2, Seq: 7}},
		{Key: "k", Arrived: at.Add(time.Second), Data: []byte("not JSON 20"), Pos: record.Pos{Shard: 2, Seq: 8}},
		{Key: "k", Arrived: at.Add(time.Second), Pos: record.Pos{Shard: 2, Seq: 9}},
		{Key: "k", Arrived: at.Add(time.Second), Data: []byte(`{"value":1,"unit":"Cel"}`), Pos: record.Pos{Shard: 2, Seq: 10}},
	}
	src := &list{}
	for i := range inner {
		src.recs = append(src.recs, record.Record{Key: "k", Arrived: at, Data: w.Append(nil, "mqtt", &inner[i]), Pos: record.Pos{Shard: 1, Seq: uint64(i + 1)}})
	}
	s := newShape(t, shape.Config{When: "value > 10", Unsure: "send", Fields: []string{"value"}, Attrs: map[string]string{"x": "y"}})
	b, err := s.Cursor("mqtt", src, shape.Options{}).Poll(t.Context(), 100)
	if err != nil || !slices.Equal(seqs(b), []uint64{1, 2, 3}) {
		t.Fatal(seqs(b), err)
	}
	for i := range b.Recs {
		if !envelope.Forwarded(&b.Recs[i]) {
			t.Fatalf("no envelope any more: %+v", b.Recs[i])
		}
		was, err1 := envelope.Open(src.recs[i].Data)
		now, err2 := envelope.Open(b.Recs[i].Data)
		if i == 0 {
			was.Data = []byte(`{"value":20}`)
		}
		if err := errors.Join(err1, err2); err != nil || fmt.Sprint(was) != fmt.Sprint(now) {
			t.Errorf("%v: %+v, want %+v", err, now, was)
		}
	}
}

// An aggregate of another gateway's envelopes is opened and packed again: what
// is left of it keeps keys, hash keys and ids. One that holds anything else is
// not touched.
func TestAggregates(t *testing.T) {
	w := envelope.New(record.Identity{Gateway: "cell", Epoch: 0xabc})
	pack := func(values ...any) []byte {
		var enc kpl.Encoder
		for i, v := range values {
			in := record.Record{Key: fmt.Sprint("k", i%2), Arrived: time.Unix(1_800_000_000, 0), Data: fmt.Appendf(nil, `{"value":%v,"n":%d}`, v, i), Pos: record.Pos{Shard: 2, Seq: uint64(i + 1)}}
			data := w.Append(nil, "mqtt", &in)
			if v == "own" {
				data = []byte(`{"value":1}`)
			}
			enc.Add(in.Key, "77", data)
		}
		return enc.AppendTo(nil)
	}
	src := &list{}
	for i, data := range [][]byte{pack(20, 5, 20, 30, 20.5), pack(5, 6), pack("own", 20), pack(20, 30)} {
		src.recs = append(src.recs, record.Record{Key: "k", Data: data, Pos: record.Pos{Shard: 1, Seq: uint64(i + 1)}})
	}
	s := newShape(t, shape.Config{When: "value > 10", Deadband: map[string]shape.Band{"value": {By: 1}}, Fields: []string{"value"}})
	b, err := s.Cursor("mqtt", src, shape.Options{}).Poll(t.Context(), 100)
	if err != nil || !slices.Equal(seqs(b), []uint64{1, 3}) {
		t.Fatal(seqs(b), err)
	}
	a, err := kpl.Decode(b.Recs[0].Data)
	if err != nil || a.Len() != 2 {
		t.Fatalf("%v: %d parts", err, a.Len())
	}
	for i, x := range a.All() {
		in, err := envelope.Open(x.Data)
		want := []string{`k0 77 cell/0000000000000abc/2/1 {"value":20}`, `k1 77 cell/0000000000000abc/2/4 {"value":30}`}[i]
		if got := fmt.Sprintf("%s %s %s %s", x.Key, x.HashKey, in.ID, in.Data); err != nil || got != want {
			t.Errorf("%v: part %d is %s, want %s", err, i, got, want)
		}
	}
	if !bytes.Equal(b.Recs[1].Data, pack("own", 20)) {
		t.Errorf("%q is changed", b.Recs[1].Data)
	}
}

// In steady state a record costs no memory.
func TestAllocatesNothing(t *testing.T) {
	recs := fleet()
	for i := range recs {
		recs[i].Attrs = map[string]string{"topic": recs[i].Key}
	}
	s := newShape(t, shape.Config{
		When: `quality == "good"`, Deadband: map[string]shape.Band{"value": {By: 2}}, Every: 1e9,
		Fields: []string{"value", "time"}, Rename: map[string]string{"value": "v"}, Set: map[string]any{"site": "graz"},
	})
	src := &loop{recs: recs}
	cur := s.Cursor("mqtt", src, shape.Options{})
	step := func() {
		for i := range recs {
			recs[i].Arrived = recs[i].Arrived.Add(time.Minute)
		}
		b, err := cur.Poll(t.Context(), len(recs))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(b.Recs); n > 0 {
			if err := cur.Commit(b.Recs[n-1].Pos.Seq, record.Tally{Delivered: uint64(n)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	step()
	if n := testing.AllocsPerRun(20, step); n > 5 { // of 1000 records
		t.Errorf("%v allocations for %d records", n, len(recs))
	}
}
