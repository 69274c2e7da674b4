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

// Which shards a stream has outlives the loss of state.db also where the copy
// was not written any more before a crash, and in a spool that was restored.
func TestTheCopyOfShapesIsMadeAgain(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"})
	if err := b.Rescale(t.Context(), st, 2); err != nil {
		t.Fatal(err)
	}
	early, err := os.ReadFile(filepath.Join(b.dir, "shapes.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Rescale(t.Context(), st, 3); err != nil {
		t.Fatal(err)
	}
	put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"}, record.Record{Key: "c"})
	was := st.Shards()
	for name, stale := range map[string][]byte{"early": early, "none": nil, "no JSON": []byte("{")} {
		b.close()
		if err := os.WriteFile(filepath.Join(b.dir, "shapes.json"), stale, 0o600); err != nil {
			t.Fatal(err)
		}
		if stale == nil {
			if err := os.Remove(filepath.Join(b.dir, "shapes.json")); err != nil {
				t.Fatal(err)
			}
		}
		b.open()
		b.close()
		if err := os.Remove(filepath.Join(b.dir, "state.db")); err != nil {
			t.Fatal(err)
		}
		b.open()
		if st, err = b.Stream("mqtt"); err != nil {
			t.Fatal(err)
		}
		is := st.Shards()
		if len(is) != len(was) {
			t.Fatalf("%s: %d shards, were %d", name, len(is), len(was))
		}
		for i := range was {
			if was[i].From != is[i].From || was[i].To != is[i].To || was[i].Open() != is[i].Open() || !slices.Equal(was[i].Parents, is[i].Parents) || was[i].Next != is[i].Next {
				t.Errorf("%s: shard is %+v, was %+v", name, is[i], was[i])
			}
		}
	}
}
