package spool_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// All heads of all segments at once: every record is served, and what a block
// loses besides is a range that names the file it is lost from.
func TestHeadsAreMadeAgainFromBlocks(t *testing.T) {
	src, per := writeSample(t)
	for i := 1; i <= 3; i++ {
		edit(t, filepath.Join(src, "log-00001", fmt.Sprintf("%010d.seg", i)), "DROP TABLE meta; DROP TABLE heads; DROP TABLE sources")
	}
	if lost := readDamaged(t, copyTree(t, src), "no heads at all", per); lost != 0 {
		t.Errorf("%d records are lost", lost)
	}
	edit(t, filepath.Join(src, "log-00001", "0000000002.seg"), "DELETE FROM block WHERE id IN (1, 8)")
	b := &box{t: t, dir: src, cfg: spool.Config{Quota: 8 << 20}, damage: true}
	b.open()
	t.Cleanup(b.finish)
	st, err := b.Stream("mqtt")
	if err != nil {
		t.Fatal(err)
	}
	for _, sh := range st.Shards() {
		recs, losses := scan(t, st, sh.ID, spool.After(0))
		if e, ok := errors.AsType[*record.CorruptError](errors.Join(losses...)); !ok || len(losses) != 1 || len(recs) != per-5 || e.To-e.From != 5 || filepath.Base(e.File) != "0000000002.seg" || e.Hint == "" {
			t.Errorf("shard %d: %d records, losses %v", sh.ID, len(recs), losses)
		}
		since, _ := scan(t, st, sh.ID, spool.Since(recs[len(recs)-1].Arrived))
		if len(since) == 0 || !since[0].Arrived.Equal(recs[len(recs)-1].Arrived) && since[0].Arrived.Before(recs[len(recs)-1].Arrived) {
			t.Errorf("shard %d: since the newest arrival %d records are found", sh.ID, len(since))
		}
	}
	if !has(b.Spool, "corrupt") {
		t.Error("no condition")
	}
}

// A whole segment that cannot be read is a corrupt range of that file, also
// where it is the first: nothing of it was expired.
func TestALostSegmentIsCorruptAndNamed(t *testing.T) {
	src, _ := writeSample(t)
	for i := 1; i <= 2; i++ {
		name := fmt.Sprintf("%010d.seg", i)
		t.Run(name, func(t *testing.T) {
			dir := copyTree(t, src)
			edit(t, filepath.Join(dir, "log-00001", name), "DROP TABLE meta; DROP TABLE block")
			b := &box{t: t, dir: dir, cfg: spool.Config{Quota: 8 << 20}, damage: true}
			b.open()
			t.Cleanup(b.finish)
			st, err := b.Stream("mqtt")
			if err != nil {
				t.Fatal(err)
			}
			for _, sh := range st.Shards() {
				_, losses := scan(t, st, sh.ID, spool.After(0))
				e, ok := errors.AsType[*record.CorruptError](errors.Join(losses...))
				if !ok || len(losses) != 1 || e.To-e.From != 20 || filepath.Base(e.File) != name {
					t.Errorf("shard %d: losses %v", sh.ID, losses)
				}
			}
			if l := b.Ledger().Streams[0]; l.Corrupt != 40 || l.Expired != 0 {
				t.Errorf("ledger %+v", l)
			}
		})
	}
}

// After retention took the first segments, the ledger tells where a damaged
// one begins.
func TestADamagedFirstSegmentBehindRetention(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	b := newBox(t, spool.Config{})
	b.damage = true
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2, MaxBytes: 512 << 10})
	sh := st.Shards()
	for round := range 20 {
		for i := range sh {
			put(t, st, record.Record{Key: "k", HashKey: &sh[i].From, Source: "src", SourceSeq: uint64(round + 1), Data: noise(rng, 32<<10)})
		}
		if round%4 == 3 {
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "retention took something", func() bool { spool.Keep(b.Spool); return st.Shards()[0].First > 1 })
	first := st.Shards()[0].First
	eventually(t, "segments are sealed", func() bool { return spool.Sealed(st) })
	files := dataFiles(t, b.dir)
	b.close()
	edit(t, files[0], "DROP TABLE meta; DELETE FROM block WHERE id = 1")
	b.open()
	if st, _ = b.Stream("mqtt"); st.Shards()[0].First != first {
		t.Errorf("it begins at %d, want %d", st.Shards()[0].First, first)
	}
	_, losses := scan(t, st, only(st), spool.Oldest())
	e, ok := errors.AsType[*record.CorruptError](errors.Join(losses...))
	if !ok || e.From != first || e.To != first+1 {
		t.Errorf("losses %v", losses)
	}
	if err := b.Ledger().Balanced(); err != nil {
		t.Error(err)
	}
}

// After a crash nothing but the blocks tells where a shard ends. A damaged one
// may hide an end even where a sound one of another shard follows it: no number
// is given twice.
func TestNoNumberIsGivenTwiceBehindADamagedBlock(t *testing.T) {
	for _, statement := range []string{
		"UPDATE block SET head = x'' WHERE id = 3",
		"DELETE FROM block WHERE id = 3",
		"DROP TABLE meta; DELETE FROM block WHERE id = 3",
		"DROP TABLE meta; DROP TABLE block",
	} {
		b := newBox(t, spool.Config{})
		st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 3})
		sh := st.Shards()
		for _, i := range []int{0, 1, 1, 0} { // the second shard's last record is in block 3
			put(t, st, record.Record{Key: "k", HashKey: &sh[i].From, Data: []byte("x")})
		}
		dir := copyTree(t, b.dir)
		b.close()
		edit(t, filepath.Join(dir, "log-00001", "0000000001.seg"), statement)
		d := &box{t: t, dir: dir, cfg: spool.Config{}, damage: true}
		d.open()
		t.Cleanup(d.finish)
		st, _ = d.Stream("mqtt")
		sh = st.Shards()
		for i, used := range []uint64{2, 2, 0} {
			res := put(t, st, record.Record{Key: "k", HashKey: &sh[i].From, Data: []byte("y")})
			if res[0].Pos.Seq <= used {
				t.Errorf("%s: number %d of shard %d is given twice", statement, res[0].Pos.Seq, sh[i].ID)
			}
			if recs, _ := scan(t, st, sh[i].ID, spool.After(0)); len(recs) == 0 || string(recs[len(recs)-1].Data) != "y" {
				t.Errorf("%s: shard %d: what was stored later is not there", statement, sh[i].ID)
			}
		}
		if err := d.Ledger().Balanced(); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
}
