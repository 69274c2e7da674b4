package spool_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// A child that only its blocks tell of, because the segment's head could not
// list it, is found in its stream again when state.db is lost: shapes.json
// knows it.
func TestAChildThatNoHeadNamesIsSalvaged(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"})
	seg := spool.LogDir(st)
	if err := b.Rescale(t.Context(), st, 2); err != nil {
		t.Fatal(err)
	}
	put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"}, record.Record{Key: "c"})
	was := st.Shards()
	b.close()
	files, err := spool.SegmentFiles(seg)
	if err != nil {
		t.Fatal(err)
	}
	for _, sh := range was[1:] {
		if err := spool.Unname(t.Context(), files[len(files)-1], sh.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(b.dir, "state.db")); err != nil {
		t.Fatal(err)
	}
	b.open()
	if st, err = b.Stream("mqtt"); err != nil {
		t.Fatal(err)
	}
	is := st.Shards()
	if len(is) != len(was) || len(b.Streams()) != 1 {
		t.Fatalf("%d streams, %d shards, were %d", len(b.Streams()), len(is), len(was))
	}
	for i := range was {
		if was[i].From != is[i].From || was[i].To != is[i].To || was[i].Open() != is[i].Open() || !slices.Equal(was[i].Parents, is[i].Parents) || was[i].Next != is[i].Next {
			t.Errorf("shard is %+v, was %+v", is[i], was[i])
		}
	}
}
