package spool_test

import (
	"runtime"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// Many readers that have read all of their shards hold on to nothing: neither
// the blocks that their last records were in nor those behind.
func TestIdleReadersHoldNoBlocks(t *testing.T) {
	b := newBox(t, spool.Config{Quota: 1 << 30})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 97})
	shards := st.Shards()
	var readers []*spool.Reader
	for _, sh := range shards[1:] {
		r, err := st.Reader(sh.ID, spool.Oldest())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		readers = append(readers, r)
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	flood := record.Record{Key: "flood", HashKey: &shards[0].From, Data: make([]byte, 240<<10)}
	for i, r := range readers { // a record of a quiet shard in every block of a busy one
		put(t, st, flood, flood, record.Record{Key: "k", HashKey: &shards[i+1].From, Data: []byte("quiet")}, flood, flood)
		if i%2 == 0 {
			spool.DropCache(st) // half of them read it from the file
		}
		if got, err := r.Poll(t.Context(), 10); err != nil || len(got.Recs) != 1 || string(got.Recs[0].Data) != "quiet" {
			t.Fatalf("%d records, %v", len(got.Recs), err)
		}
		if got, err := r.Poll(t.Context(), 10); err != nil || len(got.Recs) != 0 {
			t.Fatalf("%d records, %v", len(got.Recs), err)
		}
	}
	// What logs and readers share for the newest and the latest blocks is bounded.
	if held := heap() - before; held > 32<<20 {
		t.Errorf("%d idle readers hold %d MiB", len(readers), held>>20)
	} else {
		t.Logf("%d idle readers and the caches hold %d MiB", len(readers), held>>20)
	}
	runtime.KeepAlive(readers)
}
