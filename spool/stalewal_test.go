package spool_test

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// tear makes the commit that came last into a WAL one that a power cut left half
// done: its end is there, most of its first frame is not. before is the WAL
// without it.
func tear(t *testing.T, before, wal []byte) {
	t.Helper()
	const frame = 24 + 4096
	for at := 32; at+frame <= len(wal); at += frame {
		if at+frame > len(before) || !bytes.Equal(before[at:at+frame], wal[at:at+frame]) {
			clear(wal[at+512 : at+frame])
			return
		}
	}
	t.Fatal("nothing was committed")
}

// snapshot is every file below a directory as it is now, as a power cut leaves
// them: without what is in memory only.
func snapshot(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, "-shm") {
			return err
		}
		files[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// setBack makes a directory's files what they were. They stay the same files,
// so that the spool does not take itself for a copy.
func setBack(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for path := range snapshot(t, dir) {
		if _, ok := files[path]; !ok {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, b := range files {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Two power cuts, each in the middle of a commit: what the first left in the
// WAL is not taken for commits that damage hides.
func TestTornCommitsOfTwoPowerCutsAreNotMended(t *testing.T) {
	b := newBox(t, spool.Config{})
	rng := rand.New(rand.NewPCG(1, 1))
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	for range 20 {
		put(t, st, record.Record{Key: "k", Data: make([]byte, 100)})
	}
	cut := func(torn record.Record) {
		t.Helper()
		wal := spool.LogDir(st) + "/0000000001.seg-wal"
		before := snapshot(t, b.dir)[wal]
		put(t, st, torn)
		files := snapshot(t, b.dir)
		tear(t, before, files[wal])
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		setBack(t, b.dir, files)
		b.open()
		st, _ = b.Stream("mqtt")
	}
	cut(record.Record{Key: "torn", Data: noise(rng, 40<<10)})
	for i := range 3 {
		if res := put(t, st, record.Record{Key: "acked", Data: make([]byte, 100)}); res[0].Pos.Seq != uint64(21+i) {
			t.Fatalf("the log goes on at %d", res[0].Pos.Seq)
		}
	}
	cut(record.Record{Key: "torn too", Data: noise(rng, 8<<10)})
	for _, c := range b.Stats().Conditions {
		if strings.Contains(c.Text, "write-ahead") && strings.Contains(c.Text, ".seg") {
			t.Error(c.Text)
		}
	}
	put(t, st, record.Record{Key: "last", Data: make([]byte, 100)})
	recs, losses := scan(t, st, only(st), spool.Oldest())
	if len(recs) != 24 || len(losses) > 0 || recs[23].Key != "last" || recs[20].Key != "acked" {
		t.Errorf("%d records, losses %v", len(recs), losses)
	}
}
