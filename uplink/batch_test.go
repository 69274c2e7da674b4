package uplink_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"forebay/uplink/lane"
)

// What a lane reads ahead is bounded in memory, not in payloads alone: records
// that are nearly empty, and such as have large attributes.
func TestMemoryOfABatch(t *testing.T) {
	for name, c := range map[string]struct {
		n, attrs int
	}{"nearly empty": {100_000, 0}, "large attributes": {20_000, 2000}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, sink := newLog(t), newSink(t)
				cur := log.shard("s")
				cur.put(c.n, "k")
				for i := range cur.recs {
					cur.recs[i].Data = nil
					if c.attrs > 0 {
						cur.recs[i].Attrs = map[string]string{"note": fmt.Sprint(i) + strings.Repeat("x", c.attrs)}
					}
				}
				records, bytes := 0, 0
				sink.act = func(b lane.Batch) lane.Outcome {
					n := 0
					for i := range b.Recs {
						n += len(b.Recs[i].Attrs["note"])
					}
					records, bytes = max(records, len(b.Recs)), max(bytes, n)
					return lane.Outcome{Done: len(b.Recs)}
				}
				_, stop := start(t, config(), sink, log)
				time.Sleep(time.Minute)
				stop()
				if p := log.pending(); p != 0 {
					t.Errorf("%d pending", p)
				}
				if records > 20_000 || bytes > 17<<20 {
					t.Errorf("a batch of %d records, with %d bytes of attributes", records, bytes)
				}
			})
		})
	}
}
