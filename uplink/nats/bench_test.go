package nats_test

import (
	"testing"

	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/nats"
)

// BenchmarkSend: records of 100 bytes from four lanes, to a server in this
// process with its stream on disk.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct{ name, format, stream string }{
		{"envelope", "envelope", `"allow_atomic":true`},
		{"raw", "raw", `"allow_atomic":true`},
		{"one at a time", "envelope", `"allow_atomic":false`},
	} {
		b.Run(c.name, func(b *testing.B) {
			srv := start(b, options(b.TempDir()))
			create(b, client(b, srv.ClientURL()), c.stream+`,"max_bytes":67108864`)
			s := sink(b, identity, nats.Config{Format: c.format}, srv.ClientURL())
			const lanes, each = 4, 4000
			data := []byte(`{"name":"press-1/temp","value":21.532,"unit":"Cel","quality":"good","time":"2026-11-23T07:00:00.123Z"}`)[:100]
			data[99] = '}'
			batches := make([]lane.Batch, lanes)
			for i := range batches {
				batches[i] = batch(record.ShardID(i+1), 1, each)
				for k := range batches[i].Recs {
					batches[i].Recs[k].Data = data
				}
			}
			b.ReportAllocs()
			sent := 0
			for b.Loop() {
				for left := batches; len(left) > 0; {
					var next []lane.Batch
					for i, o := range s.Send(b.Context(), left) {
						sent += o.Done
						if o.Err != nil && o.Class != lane.Throttled {
							b.Fatal(o.Err)
						}
						if rest := left[i].Recs[o.Done:]; len(rest) > 0 {
							next = append(next, lane.Batch{Lane: left[i].Lane, Recs: rest})
						}
					}
					left = next
				}
				for i := range batches {
					for k := range batches[i].Recs {
						batches[i].Recs[k].Pos.Seq += each
					}
				}
			}
			b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
