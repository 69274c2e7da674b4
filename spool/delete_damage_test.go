package spool_test

import (
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// Damage behind a deleted stream hides none of its records: how many it had was
// written down with its deletion.
func TestADeletedStreamGetsNoRecordsByDamage(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	gone := b.stream(spool.StreamConfig{Name: "gone"})
	put(t, st, record.Record{Key: "a"}) // it keeps the segment
	for range 10 {
		put(t, gone, record.Record{Key: "a"})
	}
	if err := b.Delete(t.Context(), "gone", ""); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		put(t, st, record.Record{Key: "a"})
	}
	files, err := spool.SegmentFiles(spool.LogDir(st))
	if err != nil {
		t.Fatal(err)
	}
	killed := copyTree(t, b.dir)
	edit(t, killed+files[0][len(b.dir):], "DELETE FROM block WHERE id=12")
	for range 2 {
		s, err := spool.Open(t.Context(), killed, spool.Config{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if line := streamLine(t, s, "gone"); line.In != 10 || line.Expired != 10 || line.Corrupt != 0 {
			t.Errorf("the ledger says %+v", line)
		}
		if err := s.Ledger().Balanced(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
