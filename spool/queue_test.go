package spool_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// One source floods its log. It is held back at its share of the queue, and
// another source's single record is neither kept out nor kept waiting behind
// the flood.
func TestAFloodDoesNotStarveOthers(t *testing.T) {
	gate := make(chan struct{})
	b := newBox(t, spool.Config{}, spool.Seam{Commit: func() error { <-gate; return nil }})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	ctx, stop := context.WithCancel(t.Context())
	var queued, stored atomic.Int64
	blocked := make(chan struct{})
	go func() {
		defer close(blocked)
		for {
			recs := make([]record.Record, 100)
			for i := range recs {
				recs[i] = record.Record{Key: "k", Source: "flood", Data: make([]byte, 1000)}
			}
			err := st.Append(ctx, recs, func([]record.Result) { stored.Add(100) })
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
			queued.Add(100)
		}
	}()
	last := int64(-1)
	eventually(t, "the flood is held back", func() bool {
		now := queued.Load()
		still := now == last && now > 5000
		last = now
		return still
	})
	before := make(chan int64, 1)
	if err := st.Append(t.Context(), []record.Record{{Key: "single", Source: "sensor"}}, func([]record.Result) { before <- stored.Load() }); err != nil {
		t.Fatal(err)
	}
	stop()
	<-blocked
	close(gate)
	if n := <-before; n >= queued.Load() {
		t.Errorf("the single record came after all %d of the flood", n)
	}
	eventually(t, "the flood is stored", func() bool { return stored.Load() == queued.Load() })
	if recs, _ := scan(t, st, only(st), spool.Oldest()); int64(len(recs)) != queued.Load()+1 {
		t.Errorf("%d records, want %d", len(recs), queued.Load()+1)
	}
}
