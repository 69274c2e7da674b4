package kinesisapi

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
)

// own is a server over a spool of its own; its door is closed.
func own(t *testing.T) *Server {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	sp, err := spool.Open(t.Context(), t.TempDir(), spool.Config{Gateway: "test"}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sp.Close(); err != nil {
			t.Errorf("close the spool: %v", err)
		}
	})
	s, err := New(Config{Listen: "off"}, sp, nil, time.Now, log)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Server) make(t *testing.T, name string) *spool.Stream {
	t.Helper()
	st, err := s.spool.CreateStream(t.Context(), spool.StreamConfig{Name: conf.Stream(name), Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (s *Server) size(t *testing.T, st *spool.Stream, kib int) {
	t.Helper()
	if err := s.changeNote(t.Context(), st, func(n *note) error { n.setRecordKiB(&kib); return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestRecordLimit(t *testing.T) {
	s := own(t)
	st := s.make(t, "s")
	if n := s.recordLimit(st); n != 1<<20 {
		t.Errorf("a new stream's limit is %d", n)
	}
	for _, kib := range []int{2048, 10240, 1024, 1500} {
		s.size(t, st, kib)
		if n := s.recordLimit(st); n != kib<<10 {
			t.Errorf("limit %d, want %d KiB", n, kib)
		}
	}
	if n := testing.AllocsPerRun(100, func() { s.recordLimit(st) }); n != 0 {
		t.Errorf("asking for the limit allocates %v times", n)
	}
}

// TestDeletedStreamsAreForgotten by what is remembered per stream.
func TestDeletedStreamsAreForgotten(t *testing.T) {
	s := own(t)
	for i := range 20 {
		st := s.make(t, fmt.Sprint("s", i))
		s.size(t, st, 2048)
		s.recordLimit(st)
		if at, ok := s.shards.place(st, st.Shards()[1].ID); !ok || at.index != 1 {
			t.Errorf("the second shard's place is %+v, %v", at, ok)
		}
		if err := s.spool.Delete(t.Context(), st.Name(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.limits.of) > 1 || len(s.shards.of) > 1 {
		t.Errorf("%d limits and %d layouts of streams that are gone", len(s.limits.of), len(s.shards.of))
	}
}

// TestPlaceOfNewShards: a split is noticed by the first record in a child.
func TestPlaceOfNewShards(t *testing.T) {
	s := own(t)
	st := s.make(t, "s")
	parent := st.Shards()[0]
	before, ok := s.shards.place(st, parent.ID)
	if !ok {
		t.Fatal("a shard has no place")
	}
	at, _ := parseHashKey("4096")
	if err := s.spool.Split(t.Context(), st, parent.ID, at); err != nil {
		t.Fatal(err)
	}
	child := shardOf(st, at)
	after, ok := s.shards.place(st, child.ID)
	if !ok || child.Index != 3 || after.starting().String() <= before.ending().String() {
		t.Errorf("child %d begins at %v, its parent ends at %v", child.Index, after.starting(), before.ending())
	}
	if _, ok := s.shards.place(st, 9999); ok {
		t.Error("a shard of no stream has a place")
	}
}
