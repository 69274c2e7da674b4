package main

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/proof"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
)

// TestSentOfALogThatWasTrimmed: the oldest records are no longer in the log,
// and the spool has had two epochs. A far side that has all is complete; each
// record that it lacks is missing, those too that the log no longer has.
func TestSentOfALogThatWasTrimmed(t *testing.T) {
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "spool")
	open := func() (*spool.Spool, *spool.Stream) {
		sp, err := spool.Open(ctx, dir, spool.Config{Gateway: "edge", Quota: 1 << 30, FreeFloor: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := sp.Ensure(ctx, spool.StreamConfig{Name: "line", Shards: 1, MaxBytes: 16 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return sp, s
	}
	all := map[string]bool{}
	fill := func(sp *spool.Spool, s *spool.Stream, n int) {
		recs := make([]record.Record, n)
		for i := range recs {
			recs[i] = record.Record{Key: "k", Data: make([]byte, 2000)}
			if _, err := rand.Read(recs[i].Data); err != nil {
				t.Fatal(err)
			}
		}
		res, err := s.Put(ctx, recs)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res {
			all[sp.Identity().ID(r.Pos)] = true
		}
	}
	pass := func(s *spool.Stream) {
		id := s.Shards()[0].ID
		cur, err := s.Cursor(ctx, "cloud", id, spool.Oldest())
		if err != nil {
			t.Fatal(err)
		}
		last := s.Shards()[0].Next - 1
		for cur.Committed() <= last {
			b, err := cur.Next(ctx, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if err := cur.Commit(b.Next-1, record.Tally{Delivered: uint64(len(b.Recs))}); err != nil {
				t.Fatal(err)
			}
		}
		if err := cur.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sp, s := open()
	pass(s) // the cursor is there before the first record
	fill(sp, s, 300)
	pass(s)
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	if err := spool.NewEpoch(ctx, dir); err != nil {
		t.Fatal(err)
	}
	sp, s = open()
	defer func() {
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, 30*time.Second, "the log lets go of its oldest records", func() bool {
		fill(sp, s, 200)
		pass(s)
		return s.Shards()[0].First > 301
	})
	cfg := uplink.Config{ID: "cloud"}
	sent, err := sentBy(ctx, sp, cfg, api.SentAsk{})
	if err != nil {
		t.Fatal(err)
	}
	if len(sent.Epochs) != 2 || len(sent.Shards) != 1 || sent.Shards[0].First <= 301 || sent.Shards[0].Delivered != uint64(len(all)) {
		t.Fatalf("%+v", sent)
	}
	held := func(without ...string) *proof.Verdict {
		h := proof.NewHeld(sent, func(stream string) string { return stream })
		for id := range all {
			if len(without) > 0 && (id == without[0] || id == without[1]) {
				continue
			}
			if err := h.Add("line", id); err != nil {
				t.Fatal(err)
			}
		}
		return proof.Compare(sent, h, proof.Terms{})
	}
	if v := held(); v.Result != proof.NoGap || v.Found != uint64(len(all)) || v.Compared != v.Found {
		t.Errorf("all there: %+v", v)
	}
	shard := sent.Shards[0].Number
	old, young := fmt.Sprintf("edge/%s/%d/7", sent.Epochs[0], shard), fmt.Sprintf("edge/%s/%d/%d", sent.Epoch, shard, sent.Shards[0].Next-3)
	if v := held(old, young); v.Result != proof.HasGap || v.Missing != 2 || len(v.Gaps) != 2 || v.Gaps[0].Seq != 7 || v.Gaps[1].First != young {
		t.Errorf("two of them are not: %+v", v)
	}

	// Of a time only what arrived in it counts.
	sent, err = sentBy(ctx, sp, cfg, api.SentAsk{From: time.Now().Add(time.Hour)})
	if err != nil || len(sent.Lanes) != 0 || sent.Shards[0].Outside == 0 {
		t.Errorf("of the future: %+v, %v", sent, err)
	}
	// What arrived before the target's time is marked as old.
	sent, err = sentBy(ctx, sp, cfg, api.SentAsk{Keeps: time.Now().Add(time.Hour)})
	if err != nil || len(sent.Lanes) != 1 || sent.Lanes[0].Old != sent.Shards[0].Next-1 {
		t.Errorf("all old: %+v, %v", sent, err)
	}
}
