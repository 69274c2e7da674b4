package kafka_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/kafka"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kfake"
)

// BenchmarkSend sends records of 100 bytes of eight lanes as the pump does: two
// Sends at a time, a MiB of each lane.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct {
		name string
		cfg  kafka.Config
	}{
		{"transactions", kafka.Config{}},
		{"off", kafka.Config{Transactions: "off"}},
		{"raw", kafka.Config{Format: "raw"}},
		{"uncompressed", kafka.Config{Compression: "none"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			cl := newCluster(b, kfake.SeedTopics(4, "target"))
			c.cfg.Topic = "target"
			s := newSink(b, cl, c.cfg)
			defer s.Close()
			const lanes, each = 8, 2048
			recs := make([][]record.Record, lanes)
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range recs {
				for k := range each {
					recs[i] = append(recs[i], record.Record{
						Key: fmt.Sprintf("plant/line%d/temp", i), Source: "plc-1", Arrived: time.UnixMilli(1_700_000_000_000 + int64(k)),
						Data: fmt.Appendf(nil, `{"name":"temperature","value":%09.4f,"unit":"Cel","quality":"good","seq":%08d,"pad":"......"}`, rng.Float64()*1000, k),
						Pos:  record.Pos{Shard: record.ShardID(i + 1), Seq: uint64(k + 1)},
					})
				}
			}
			b.SetBytes(100)
			var bytes, seq int
			b.ResetTimer()
			for sent := 0; sent < b.N; sent += lanes * each {
				var wg sync.WaitGroup
				outs := make([][]lane.Outcome, 2)
				for half := range 2 {
					var in []lane.Batch
					for i := half * lanes / 2; i < (half+1)*lanes/2; i++ {
						for k := range recs[i] {
							recs[i][k].Pos.Seq = uint64(seq + k + 1)
						}
						in = append(in, lane.Batch{Lane: laneOf(i + 1), Recs: recs[i], Backlog: true})
					}
					wg.Go(func() { outs[half] = s.Send(b.Context(), in) })
				}
				wg.Wait()
				seq += each
				for _, out := range outs {
					for _, o := range out {
						if o.Done != each {
							b.Fatalf("%+v", o)
						}
						bytes += o.Bytes
					}
				}
			}
			b.ReportMetric(float64(seq*lanes)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(bytes)/float64(max(seq*lanes, 1)), "wire-B/record")
		})
	}
}
