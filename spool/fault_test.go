package spool_test

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

func TestAFailedSyncIsNeverAcknowledged(t *testing.T) {
	var fail atomic.Bool
	b := newBox(t, spool.Config{}, spool.Seam{Commit: func() error {
		if fail.Load() {
			return syscall.EIO
		}
		return nil
	}})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	other := b.stream(spool.StreamConfig{Name: "alarms", Class: record.ClassAlarm})
	fill(t, st, 10, 100)
	fail.Store(true)
	res, err := st.Put(t.Context(), []record.Record{{Key: "lost"}})
	if err != nil || !errors.Is(res[0].Err, record.ErrCannotStore) || !res[0].Pos.IsZero() {
		t.Fatalf("put with a failing sync: %+v, %v", res, err)
	}
	fail.Store(false)
	if !has(b.Spool, "fsync") {
		t.Errorf("no condition: %+v", b.Stats().Conditions)
	}
	if got := put(t, other, record.Record{Key: "k"}); got[0].Pos.Seq != 1 {
		t.Errorf("the other log: %+v", got)
	}
	if got := put(t, st, record.Record{Key: "next"}); got[0].Pos.Seq != 11 {
		t.Errorf("the log goes on at %d", got[0].Pos.Seq)
	}
	if files, _ := spool.SegmentFiles(spool.LogDir(st)); len(files) != 2 {
		t.Errorf("it did not go on in a new segment: %v", files)
	}
	for range 2 {
		recs, losses := scan(t, st, only(st), spool.Oldest())
		if len(recs) != 11 || len(losses) > 0 || recs[10].Key != "next" {
			t.Errorf("%d records, losses %v", len(recs), losses)
		}
		b.reopen()
		st, _ = b.Stream("mqtt")
	}
}

func TestAFailedSyncOfAChunkIsNeverAcknowledged(t *testing.T) {
	var fail atomic.Bool
	b := newBox(t, spool.Config{}, spool.Seam{Sync: func() error {
		if fail.Load() {
			return syscall.EIO
		}
		return nil
	}})
	st := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	put(t, st, record.Record{Key: "cam", Blob: make([]byte, 1000)})
	fail.Store(true)
	res, err := st.Put(t.Context(), []record.Record{{Key: "cam", Blob: make([]byte, 1000)}})
	if err != nil || !errors.Is(res[0].Err, record.ErrCannotStore) {
		t.Fatalf("%+v, %v", res, err)
	}
	fail.Store(false)
	put(t, st, record.Record{Key: "cam", Blob: make([]byte, 500)})
	recs, losses := scan(t, st, only(st), spool.Oldest())
	if len(recs) != 2 || len(losses) > 0 || recs[1].Chunk.Len != 500 || recs[1].Chunk.Segment == recs[0].Chunk.Segment {
		t.Errorf("%d records, losses %v", len(recs), losses)
	}
}

func TestADiskWithoutRoomHoldsBackAndRecovers(t *testing.T) {
	var fail atomic.Bool
	b := newBox(t, spool.Config{}, spool.Seam{Commit: func() error {
		if fail.Load() {
			return syscall.ENOSPC
		}
		return nil
	}})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 10, 100)
	reserve := filepath.Join(b.dir, "reserve")
	if _, err := os.Stat(reserve); err != nil {
		t.Errorf("no reserve: %v", err)
	}
	fail.Store(true)
	res, err := st.Put(t.Context(), []record.Record{{Key: "k"}, {Key: "l", Data: make([]byte, 300<<10)}})
	if err != nil || !errors.Is(res[0].Err, record.ErrFull) || !errors.Is(res[1].Err, record.ErrFull) {
		t.Fatalf("%+v, %v", res, err)
	}
	if !has(b.Spool, "full") || !b.Stats().Full {
		t.Errorf("no condition: %+v", b.Stats())
	}
	fail.Store(false)
	eventually(t, "the log takes records again by itself", func() bool {
		res, err := st.Put(t.Context(), []record.Record{{Key: "k"}})
		return err == nil && res[0].Err == nil
	})
	eventually(t, "the condition goes", func() bool { return !has(b.Spool, "full") })
	eventually(t, "the reserve is back", func() bool { _, err := os.Stat(reserve); return err == nil })
	recs, losses := scan(t, st, only(st), spool.Oldest())
	if len(recs) != 11 || len(losses) > 0 {
		t.Errorf("%d records, losses %v", len(recs), losses)
	}
}

func TestAReadOnlyDiskServesReaders(t *testing.T) {
	var fail atomic.Bool
	b := newBox(t, spool.Config{}, spool.Seam{Commit: func() error {
		if fail.Load() {
			return syscall.EROFS
		}
		return nil
	}})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 10, 100)
	fail.Store(true)
	res, err := st.Put(t.Context(), []record.Record{{Key: "k"}})
	if err != nil || !errors.Is(res[0].Err, record.ErrReadOnly) || !b.Stats().ReadOnly {
		t.Fatalf("%+v, %v", res, err)
	}
	spool.DropCache(st)
	if recs, _ := scan(t, st, only(st), spool.Oldest()); len(recs) != 10 {
		t.Errorf("%d records", len(recs))
	}
	fail.Store(false)
	put(t, st, record.Record{Key: "k"})
	if b.Stats().ReadOnly {
		t.Error("still read-only")
	}
}

// The room of a small spool is used by what is worth most.
func TestQuotaDropsTheLeastFirst(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 16 << 20})
	debug := b.stream(spool.StreamConfig{Name: "debug", Class: record.ClassDebug})
	tele := b.stream(spool.StreamConfig{Name: "tele"})
	alarm := b.stream(spool.StreamConfig{Name: "alarm", Class: record.ClassAlarm})
	for _, st := range []*spool.Stream{debug, tele, alarm} {
		cursor(t, st, "up", spool.Oldest())
	}
	free := b.stream(spool.StreamConfig{Name: "free", MaxAge: conf.Duration(1 << 60)})
	fill(t, free, 40, 50<<10) // 2 MB that nobody waits for
	fill(t, alarm, 40, 50<<10)
	fill(t, debug, 40, 50<<10)
	fill(t, tele, 60, 50<<10)
	first := func(st *spool.Stream) uint64 { return st.Shards()[0].First }
	n := 0
	for ; first(free) == 1; n++ {
		if n > 1000 {
			t.Fatal("nothing ever went")
		}
		fill(t, tele, 1, 50<<10)
	}
	if first(debug) != 1 || first(tele) != 1 || first(alarm) != 1 || has(b.Spool, "dropped") {
		t.Fatalf("delivered records must go first: debug %d tele %d alarm %d", first(debug), first(tele), first(alarm))
	}
	for n = 0; first(debug) == 1; n++ {
		if n > 1000 {
			t.Fatal("debug never went")
		}
		fill(t, tele, 1, 50<<10)
	}
	if first(tele) != 1 || !has(b.Spool, "dropped") {
		t.Fatalf("debug goes before telemetry: tele %d, conditions %+v", first(tele), b.Stats().Conditions)
	}
	for n = 0; first(tele) == 1; n++ {
		if n > 1000 {
			t.Fatal("tele never went")
		}
		fill(t, tele, 1, 50<<10)
	}
	if first(alarm) != 1 {
		t.Fatal("alarms were dropped")
	}
	st := b.Stats()
	if st.Used > st.Quota {
		t.Errorf("used %d of %d", st.Used, st.Quota)
	}
	var onDisk int64
	err := filepath.WalkDir(b.dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			var fi fs.FileInfo
			if fi, err = e.Info(); err == nil {
				onDisk += fi.Size()
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if onDisk > st.Quota+st.Quota/10 {
		t.Errorf("%d bytes lie in the directory, quota %d", onDisk, st.Quota)
	}
	if got := line(t, b.Spool, "up", "tele"); got.Expired == 0 || got.Expired != first(tele)-1 {
		t.Errorf("ledger %+v, first kept %d", got, first(tele))
	}
}

// Alarms that nobody takes fill the spool: their producer is held back, and
// resumes when an uplink delivers.
func TestWhatMustNotBeDroppedHoldsBack(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 12 << 20})
	alarm := b.stream(spool.StreamConfig{Name: "alarm", Class: record.ClassAlarm})
	c := cursor(t, alarm, "up", spool.Oldest())
	n := uint64(0)
	var failed error
	for failed == nil {
		res, err := alarm.Put(t.Context(), []record.Record{{Key: "k", Data: make([]byte, 50<<10)}})
		switch {
		case err != nil:
			failed = err
		case res[0].Err != nil:
			failed = res[0].Err
		default:
			n++
		}
		if n > 1000 {
			t.Fatal("the quota does not hold")
		}
	}
	if !errors.Is(failed, record.ErrFull) || !has(b.Spool, "full") || !b.Stats().Full {
		t.Fatalf("%v, %+v", failed, b.Stats())
	}
	eventually(t, "nearly-full is told", func() bool { return has(b.Spool, "nearly-full") })
	if sh := alarm.Shards()[0]; sh.First != 1 || sh.Next != n+1 {
		t.Errorf("%d stored, shard %+v", n, sh)
	}
	for c.Committed() <= n {
		batch, err := c.Next(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(batch.Next-1, record.Tally{Delivered: uint64(len(batch.Recs))}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the producer goes on", func() bool {
		res, err := alarm.Put(t.Context(), []record.Record{{Key: "k"}})
		return err == nil && res[0].Err == nil
	})
	eventually(t, "the conditions go", func() bool { return !has(b.Spool, "full") && !has(b.Spool, "nearly-full") })
	if got := line(t, b.Spool, "up", "alarm"); got.Expired != 0 || got.Delivered != n {
		t.Errorf("ledger %+v", got)
	}
}

func TestMaxBytesBoundsALog(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true})
	st := b.stream(spool.StreamConfig{Name: "mqtt", MaxBytes: 4 << 20})
	fill(t, st, 300, 50<<10)
	sh := st.Shards()[0]
	if sh.First == 1 || sh.Next != 301 {
		t.Errorf("%+v", sh)
	}
	if recs, losses := scan(t, st, sh.ID, spool.After(0)); len(losses) != 1 || len(recs) != int(sh.Next-sh.First) {
		t.Errorf("%d records, %v", len(recs), losses)
	}
	if used := b.Stats().Used; used > 4<<20+48<<20 { // the reserve counts too
		t.Errorf("used %d", used)
	}
}

func TestFreeFloorIsKept(t *testing.T) {
	var taken atomic.Int64
	b := newBox(t, spool.Config{FreeFloor: 10 << 20, Quota: 64 << 20}, spool.Seam{Space: func() (int64, int64) { return 1 << 30, 100<<20 - taken.Load() }})
	st := b.stream(spool.StreamConfig{Name: "alarm", Class: record.ClassAlarm})
	cursor(t, st, "up", spool.Oldest())
	fill(t, st, 10, 1000)
	taken.Store(95 << 20) // somebody else fills the disk
	res, err := st.Put(t.Context(), []record.Record{{Key: "k"}})
	if err != nil || !errors.Is(res[0].Err, record.ErrFull) {
		t.Fatalf("%+v, %v", res, err)
	}
	taken.Store(0)
	eventually(t, "room is seen without a restart", func() bool {
		res, err := st.Put(t.Context(), []record.Record{{Key: "k"}})
		return err == nil && res[0].Err == nil
	})
}

// A stream whose log cannot be made is there all the same, and works as soon as
// the disk lets it.
func TestALogThatCannotBeMadeYet(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	inTheWay := filepath.Join(b.dir, "log-00002")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	alarm := b.stream(spool.StreamConfig{Name: "alarm", Class: record.ClassAlarm})
	if res, err := alarm.Put(t.Context(), []record.Record{{Key: "k"}}); err != nil || !errors.Is(res[0].Err, record.ErrCannotStore) {
		t.Errorf("%+v, %v", res, err)
	}
	put(t, st, record.Record{Key: "k"})
	spool.Keep(b.Spool)
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log is made", func() bool {
		res, err := alarm.Put(t.Context(), []record.Record{{Key: "k"}})
		return err == nil && res[0].Err == nil
	})
	if has(b.Spool, "segment") {
		t.Errorf("%+v", b.Stats().Conditions)
	}
}

// tree is a checksum of every file of a directory.
func tree(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			var data []byte
			data, err = os.ReadFile(path)
			out[path] = sha256.Sum256(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAForeignOrNewerSpoolIsLeftUntouched(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir string){
		"newer state":   func(t *testing.T, dir string) { patch(t, filepath.Join(dir, "state.db"), 63, 4) },
		"foreign state": func(t *testing.T, dir string) { patch(t, filepath.Join(dir, "state.db"), 68, 99) },
		"newer segment": func(t *testing.T, dir string) {
			patch(t, filepath.Join(dir, "log-00001", "0000000001.seg"), 63, 3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := spool.Open(t.Context(), dir, spool.Config{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			st, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt"})
			if err != nil {
				t.Fatal(err)
			}
			fill(t, st, 3, 10)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			change(t, dir)
			before := tree(t, dir)
			_, err = spool.Open(t.Context(), dir, spool.Config{}, nil)
			if f, ok := errors.AsType[*record.FormatError](err); !ok || f.Hint == "" {
				t.Errorf("open answers %v", err)
			}
			if _, err := spool.Check(t.Context(), dir); err == nil {
				t.Error("check answers nothing")
			}
			after := tree(t, dir)
			if len(after) != len(before) {
				t.Errorf("%d files, were %d", len(after), len(before))
			}
			for path, sum := range before {
				if after[path] != sum {
					t.Errorf("%s was changed", path)
				}
			}
		})
	}
}

func patch(t *testing.T, path string, at int64, v byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{v}, at); err != nil {
		t.Fatal(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for field, err := range map[string]error{
		"quota":         spool.Config{Quota: 1}.Check(),
		"segment_bytes": spool.Config{Segment: 1}.Check(),
		"shards":        spool.StreamConfig{Name: "a", Shards: 5000}.Check(),
		"name":          spool.StreamConfig{Name: "a b"}.Check(),
		"max_bytes":     spool.StreamConfig{Name: "a", MaxBytes: 1}.Check(),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := (spool.Config{}).Check(); err != nil {
		t.Error(err)
	}
}
