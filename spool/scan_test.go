package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// pass reads all that a Scanner yields.
func pass(t *testing.T, st *spool.Stream, span spool.Span) (recs []record.Record, counted int, losses []error) {
	t.Helper()
	s, err := st.Scanner(span)
	if err != nil {
		t.Fatalf("scanner: %v", err)
	}
	last := map[record.ShardID]uint64{}
	for {
		p, err := s.Next(t.Context())
		if errors.Is(err, io.EOF) {
			if pr := s.Progress(); pr.Share != 1 || pr.Records != uint64(counted) {
				t.Errorf("at the end of %d records the progress is %+v", counted, pr)
			}
			return recs, counted, losses
		}
		if err != nil {
			_, trimmed := errors.AsType[*record.TrimmedError](err)
			_, corrupt := errors.AsType[*record.CorruptError](err)
			if !trimmed && !corrupt {
				t.Fatalf("scan: %v", err)
			}
			losses = append(losses, err)
			continue
		}
		if p.Len() == 0 || p.First <= last[p.Shard] {
			t.Fatalf("part of %d records begins at %d behind %d of shard %d", p.Len(), p.First, last[p.Shard], p.Shard)
		}
		last[p.Shard] = p.Next - 1
		counted += p.Len()
		for _, r := range p.Recs {
			r.Data = bytes.Clone(r.Data)
			recs = append(recs, r)
		}
	}
}

// jumping stores records whose arrival and own time go back and forth, in
// several segments and blocks, and returns them as they were stored.
func jumping(t *testing.T, b *box, st *spool.Stream) []record.Record {
	rng := rand.New(rand.NewPCG(7, 7))
	base := time.Date(2026, 11, 5, 14, 0, 0, 0, time.UTC)
	var all []record.Record
	arr, at := base, base
	for call := range 60 {
		if rng.IntN(6) == 0 { // somebody sets the clock
			arr = base.Add(time.Duration(rng.IntN(7200)-3600) * time.Second)
		}
		var recs []record.Record
		for range 1 + rng.IntN(40) {
			arr = arr.Add(time.Duration(rng.IntN(2000)) * time.Millisecond)
			r := record.Record{Key: fmt.Sprint("k", rng.IntN(20)), Arrived: arr, Data: fmt.Appendf(nil, "%d", len(all)+len(recs))}
			switch rng.IntN(10) {
			case 0:
				at = base.Add(time.Duration(rng.IntN(20000)-10000) * time.Second)
				r.At = at
			case 1: // the sender has no clock
			case 2:
				r.At = time.Date(1601+rng.IntN(8000), 1, 1, 0, 0, 0, 0, time.UTC)
			default:
				at = at.Add(time.Duration(rng.IntN(3000)) * time.Millisecond)
				r.At = at
			}
			recs = append(recs, r)
		}
		for i, res := range put(t, st, recs...) {
			recs[i].Pos = res.Pos
		}
		all = append(all, recs...)
		if call%15 == 14 {
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

func event(r record.Record) time.Time {
	if r.At.IsZero() {
		return r.Arrived
	}
	return r.At
}

func TestScannerAgainstAModel(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 3})
	all := jumping(t, b, st)
	other := b.stream(spool.StreamConfig{Name: "other", Shards: 2}) // shares the log
	fill(t, other, 50, 20)
	shards := st.Shards()
	rng := rand.New(rand.NewPCG(3, 1))
	moment := func() time.Time {
		switch rng.IntN(12) {
		case 0, 1, 2, 3, 4:
			return time.Time{}
		case 5:
			return time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)
		case 6:
			return time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)
		case 7:
			return all[rng.IntN(len(all))].Arrived
		case 8:
			return event(all[rng.IntN(len(all))])
		}
		return time.Date(2026, 11, 5, 12+rng.IntN(5), rng.IntN(60), 0, 0, time.UTC)
	}
	for reopened := range 2 {
		for range 400 {
			span := spool.Span{Since: moment(), Until: moment(), SinceEvent: moment(), UntilEvent: moment()}
			if rng.IntN(2) == 0 {
				span.FirstSeq, span.LastSeq = rng.Uint64N(500), rng.Uint64N(500)
			}
			if rng.IntN(2) == 0 {
				span.Shards = []record.ShardID{shards[rng.IntN(3)].ID}
			}
			var want []string
			for _, r := range all {
				switch {
				case !span.Since.IsZero() && r.Arrived.Before(span.Since), !span.Until.IsZero() && r.Arrived.After(span.Until),
					!span.SinceEvent.IsZero() && event(r).Before(span.SinceEvent), !span.UntilEvent.IsZero() && event(r).After(span.UntilEvent),
					r.Pos.Seq < span.FirstSeq, span.LastSeq > 0 && r.Pos.Seq > span.LastSeq,
					span.Shards != nil && !slices.Contains(span.Shards, r.Pos.Shard):
				default:
					want = append(want, string(r.Data))
				}
			}
			recs, _, losses := pass(t, st, span)
			var got []string
			for _, r := range recs {
				got = append(got, string(r.Data))
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || len(losses) > 0 {
				t.Fatalf("%+v: got %d records, want %d; losses %v", span, len(got), len(want), losses)
			}
			span.HeadsOnly = true
			if _, n, _ := pass(t, st, span); n != len(want) {
				t.Fatalf("%+v: counted %d, want %d", span, n, len(want))
			}
		}
		if reopened == 0 {
			b.reopen()
			var err error
			if st, err = b.Stream("mqtt"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The first record in sequence order whose arrival, or own time, is t or later,
// whatever the clocks did.
func TestSeekByArrivalAndByEventTime(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
	all := jumping(t, b, st)
	rng := rand.New(rand.NewPCG(5, 5))
	for range 300 {
		pick := all[rng.IntN(len(all))]
		id := st.Shards()[rng.IntN(2)].ID
		for _, c := range []struct {
			what string
			from spool.Start
			ok   func(record.Record) bool
		}{
			{"arrival", spool.Since(pick.Arrived), func(r record.Record) bool { return !r.Arrived.Before(pick.Arrived) }},
			{"event", spool.SinceEvent(event(pick)), func(r record.Record) bool { return !event(r).Before(event(pick)) }},
		} {
			want := st.Shards()[slices.IndexFunc(st.Shards(), func(s spool.Shard) bool { return s.ID == id })].Next
			for _, r := range all {
				if r.Pos.Shard == id && c.ok(r) {
					want = r.Pos.Seq
					break
				}
			}
			r, err := st.Reader(id, c.from)
			if err != nil {
				t.Fatal(err)
			}
			if r.Pos() != want {
				t.Errorf("by %s of record %d of shard %d: shard %d from %d, want %d", c.what, pick.Pos.Seq, pick.Pos.Shard, id, r.Pos(), want)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// Where a file is damaged every record is yielded as it was, or told as lost,
// once.
func TestScannerOverDamage(t *testing.T) {
	dir, perShard := writeSample(t)
	s, err := spool.Open(t.Context(), dir, spool.Config{Quota: 8 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Stream("mqtt")
	if err != nil {
		t.Fatal(err)
	}
	files, err := spool.SegmentFiles(spool.LogDir(st))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	lossy := 0
	for off := 100; off < len(whole); off += 6113 {
		bad := bytes.Clone(whole)
		bad[off] ^= 0x41
		if err := os.WriteFile(files[1], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err = spool.Open(t.Context(), dir, spool.Config{Quota: 8 << 20}, nil); err != nil {
			t.Fatal(err)
		}
		if st, err = s.Stream("mqtt"); err != nil {
			t.Fatal(err)
		}
		for _, span := range []spool.Span{{}, {LastSeq: 1 << 40}} {
			recs, _, losses := pass(t, st, span)
			n := uint64(len(recs))
			for _, r := range recs {
				if want := payload(r.Key, int(r.SourceSeq)-1); !bytes.Equal(r.Data, want) {
					t.Fatalf("byte %d: record %d of shard %d is not what was stored", off, r.Pos.Seq, r.Pos.Shard)
				}
			}
			for _, err := range losses {
				if e, ok := errors.AsType[*record.CorruptError](err); ok {
					n += e.To - e.From
				}
			}
			if n != uint64(2*perShard) {
				t.Fatalf("byte %d, %+v: %d records, losses %v; together %d of %d", off, span, len(recs), losses, n, 2*perShard)
			}
			if len(losses) > 0 {
				lossy++
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if lossy == 0 {
		t.Error("no damage was met: the test is blind")
	}
}

// A scan that retention overtakes says what it missed; a closed spool ends it.
func TestScannerBehindRetentionAndClose(t *testing.T) {
	b := newBox(t, spool.Config{Quota: 4 << 20})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	noise := func(n int) { // which no codec makes smaller
		rng := rand.NewChaCha8([32]byte{1})
		for range n {
			data := make([]byte, 50_000)
			_, _ = rng.Read(data) // never fails
			put(t, st, record.Record{Key: "k", Data: data})
		}
	}
	noise(20)
	s, err := st.Scanner(spool.Span{})
	if err != nil {
		t.Fatal(err)
	}
	noise(140) // over the quota
	eventually(t, "the oldest segment goes", func() bool { spool.Keep(b.Spool); return st.Shards()[0].First > 1 })
	var got, missed uint64
	for {
		p, err := s.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if e, ok := errors.AsType[*record.TrimmedError](err); ok {
			missed += e.To - e.From
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got += uint64(p.Len())
	}
	if missed == 0 || got+missed != 20 {
		t.Errorf("got %d, missed %d of 20", got, missed)
	}
	if s, err = st.Scanner(spool.Span{}); err != nil {
		t.Fatal(err)
	}
	b.close()
	if _, err := s.Next(context.Background()); !errors.Is(err, record.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := st.Scanner(spool.Span{}); !errors.Is(err, record.ErrClosed) {
		t.Errorf("a Scanner of a closed spool: %v", err)
	}
}
