package s3_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

// readings are 100-byte JSON records of a few machines, as a line sends them.
func readings(n int) lane.Batch {
	l := laneOf(1)
	rng := rand.New(rand.NewPCG(1, 2))
	b := lane.Batch{Lane: l, Backlog: true}
	for i := range n {
		at := noon.Add(time.Duration(i) * 10 * time.Millisecond)
		b.Recs = append(b.Recs, record.Record{
			Key: fmt.Sprintf("site/line-1/press-%d/temperature", i%40), Source: "press", Arrived: at,
			Data: fmt.Appendf(nil, `{"name":"temperature","value":%.3f,"unit":"Cel","quality":"good","time":"%s"}`,
				60+20*rng.Float64(), at.UTC().Format("2006-01-02T15:04:05.000Z")),
			Pos: record.Pos{Shard: 1, Seq: uint64(i + 1)},
		})
	}
	return b
}

// BenchmarkObjects makes one object of 60,000 readings, about 8 MiB with their
// keys, and sends it to a bucket in the same process.
func BenchmarkObjects(b *testing.B) {
	for name, cfg := range map[string]s3.Config{
		"ndjson-zstd": {}, "ndjson-gzip": {Compression: "gzip"}, "parquet": {Objects: "parquet"},
	} {
		b.Run(name, func(b *testing.B) {
			f := newFar(b)
			s := f.open(cfg)
			batch := readings(60_000)
			payload, wire := 0, 0.0
			for i := range batch.Recs {
				payload += len(batch.Recs[i].Data)
			}
			b.ReportAllocs()
			for b.Loop() {
				for k := range batch.Recs {
					batch.Recs[k].Pos.Seq += uint64(len(batch.Recs))
				}
				o := s.Send(b.Context(), []lane.Batch{batch})[0]
				if o.Done != len(batch.Recs) {
					b.Fatalf("%+v", o)
				}
				wire = float64(o.Bytes)
			}
			n := float64(len(batch.Recs))
			b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(payload)/n, "payload-B/record")
			b.ReportMetric(wire/n, "wire-B/record")
		})
	}
}
