package shape_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/shape"
)

// A loop is a source that hands out the same records over and over.
type loop struct {
	recs []record.Record
	seq  uint64
}

func (l *loop) Poll(_ context.Context, limit int) (record.Batch, error) {
	recs := l.recs[:min(limit, len(l.recs))]
	for i := range recs {
		l.seq++
		recs[i].Pos.Seq = l.seq
	}
	return record.Batch{Recs: recs, Next: l.seq + 1}, nil
}

func (l *loop) Next(ctx context.Context, limit int) (record.Batch, error) { return l.Poll(ctx, limit) }
func (l *loop) Commit(uint64, record.Tally) error                         { return nil }
func (l *loop) Backlog() record.Backlog                                   { return record.Backlog{} }

// fleet is 1000 records of 100 keys, 100 bytes each.
func fleet() []record.Record {
	var out []record.Record
	for i := range 1000 {
		data := fmt.Appendf(nil, `{"name":"temperature","value":%d.5,"unit":"Cel","quality":"good","time":"2026-03-01T12:00:%02dZ"}`, 60+i%7, i%60)
		out = append(out, record.Record{Key: fmt.Sprint("plant/line1/press", i%100), Source: "mqtt", Arrived: time.Unix(1_800_000_000, 0), Data: data})
	}
	return out
}

// BenchmarkCursor is what a shape costs a record.
func BenchmarkCursor(b *testing.B) {
	for name, c := range map[string]shape.Config{
		"none":          {Keys: []string{"other/#"}},
		"when_deadband": {When: `quality == "good"`, Deadband: map[string]shape.Band{"value": {By: 2}}},
		"fields_set":    {Fields: []string{"value", "unit"}, Set: map[string]any{"site": "graz"}},
	} {
		b.Run(name, func(b *testing.B) {
			s, err := shape.New([]shape.Config{c})
			if err != nil {
				b.Fatal(err)
			}
			src := &loop{recs: fleet()}
			cur := s.Cursor("mqtt", src, shape.Options{})
			step := func() {
				batch, err := cur.Poll(context.Background(), len(src.recs))
				if err != nil {
					b.Fatal(err)
				}
				if n := len(batch.Recs); n > 0 {
					if err := cur.Commit(batch.Recs[n-1].Pos.Seq, record.Tally{Delivered: uint64(n)}); err != nil {
						b.Fatal(err)
					}
				}
			}
			step()
			b.ReportAllocs()
			begun := src.seq
			for b.Loop() {
				step()
			}
			b.ReportMetric(float64(b.Elapsed())/float64(src.seq-begun), "ns/record")
			b.ReportMetric(float64(len(src.recs[0].Data)), "bytes/record")
		})
	}
}
