package spool_test

import (
	"database/sql"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/faultdisk"
	"forebay/spool/record"
)

// A stepSpy refuses the steps that a test names.
type stepSpy struct {
	refuse atomic.Pointer[func(spool.DiskOp) error]
}

func (s *stepSpy) set(f func(spool.DiskOp) error) { s.refuse.Store(&f) }

func (s *stepSpy) Before(op spool.DiskOp) error {
	if f := s.refuse.Load(); f != nil {
		return (*f)(op)
	}
	return nil
}

func (*stepSpy) After(spool.DiskOp) {}

// A new segment that cannot be opened is not left behind while the old one goes
// on: its heads would say, after a restart, that what the old one has taken
// since was never acknowledged.
func TestASegmentThatCannotBeOpenedHidesNothing(t *testing.T) {
	for name, refused := range map[string]func(spool.DiskOp) error{
		"its WAL": func(op spool.DiskOp) error {
			if op.Op == "create" && strings.HasSuffix(op.Path, "2.seg-wal") {
				return syscall.EMFILE
			}
			return nil
		},
		"its name": func(op spool.DiskOp) error {
			if op.Op == "syncdir" && strings.Contains(op.Path, "log-") {
				return syscall.EIO
			}
			return nil
		},
		"its name, and it cannot be removed": func(op spool.DiskOp) error {
			if op.Op == "syncdir" && strings.Contains(op.Path, "log-") || op.Op == "remove" && strings.HasSuffix(op.Path, "2.seg") {
				return syscall.EIO
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			spy := &stepSpy{}
			b := newBox(t, spool.Config{}, spool.Seam{Disk: spy})
			st := b.stream(spool.StreamConfig{Name: "mqtt"})
			fill(t, st, 10, 100)
			spy.set(refused)
			if err := spool.Roll(st); err == nil {
				t.Fatal("the log was rolled")
			}
			acked := 10
			for range 5 {
				if res, err := st.Put(t.Context(), []record.Record{{Key: "k"}}); err == nil && res[0].Err == nil {
					acked++
				}
			}
			b.close()
			spy.set(func(spool.DiskOp) error { return nil })
			b.open()
			st, _ = b.Stream("mqtt")
			recs, losses := scan(t, st, only(st), spool.Oldest())
			if len(recs) != acked || len(losses) > 0 {
				t.Errorf("%d records of %d acknowledged, losses %v", len(recs), acked, losses)
			}
			if got := put(t, st, record.Record{Key: "next"}); got[0].Pos.Seq != uint64(acked)+1 {
				t.Errorf("the log goes on at %d behind %d", got[0].Pos.Seq, acked)
			}
		})
	}
}

// What a failed sync left to be sealed is sealed before Close returns: nobody
// writes to a spool that is closed.
func TestCloseWaitsForWhatAFailedCommitLeft(t *testing.T) {
	d := newFaultDisk(t, false)
	b := newBox(t, spool.Config{}, spool.Faults(d))
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 200, 300)
	d.SetFault(func(e faultdisk.Event) error {
		if e.Op == faultdisk.Sync && strings.HasSuffix(e.Path, ".seg-wal") {
			return faultdisk.IOErrFsync
		}
		return nil
	})
	if res, err := st.Put(t.Context(), []record.Record{{Key: "lost"}}); err != nil || !errors.Is(res[0].Err, record.ErrCannotStore) {
		t.Fatalf("%+v, %v", res, err)
	}
	closed := make(chan struct{})
	var late atomic.Bool
	d.SetFault(func(e faultdisk.Event) error {
		if e.Op != faultdisk.Sync || !strings.HasSuffix(e.Path, "1.seg") {
			return nil
		}
		select { // the segment is being sealed
		case <-closed:
			late.Store(true)
		case <-time.After(300 * time.Millisecond):
		}
		return nil
	})
	b.close()
	close(closed)
	b.open()
	st, _ = b.Stream("mqtt")
	if recs, losses := scan(t, st, only(st), spool.Oldest()); len(recs) != 200 || len(losses) > 0 {
		t.Errorf("%d records, losses %v", len(recs), losses)
	}
	if late.Load() {
		t.Error("a segment was sealed after Close")
	}
}

// What a full disk refuses does not count as written: the segment is not closed
// for it, over and over, while nothing is stored.
func TestWhatFailsFillsNoSegments(t *testing.T) {
	var fail atomic.Bool
	b := newBox(t, spool.Config{Quota: 64 << 20}, spool.Seam{Commit: func() error {
		if fail.Load() {
			return syscall.ENOSPC
		}
		return nil
	}})
	st := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	put(t, st, record.Record{Key: "cam", Blob: make([]byte, 1000)})
	fail.Store(true)
	refused := 0
	for range 20 {
		spool.Keep(b.Spool)
		if res, err := st.Put(t.Context(), []record.Record{{Key: "cam", Blob: make([]byte, 1<<20)}}); err == nil && errors.Is(res[0].Err, record.ErrFull) {
			refused++
		}
	}
	fail.Store(false)
	spool.Keep(b.Spool)
	put(t, st, record.Record{Key: "cam", Blob: make([]byte, 1000)})
	if files, err := spool.SegmentFiles(spool.LogDir(st)); err != nil || len(files) != 1 || refused < 10 {
		t.Errorf("%d segments after %d refused commits, %v", len(files), refused, err)
	}
}

// Where a full disk has no room for a new segment the reserve is given up for
// it, the producers are held back and an operator is told.
func TestAFullDiskGivesTheReserveForANewSegment(t *testing.T) {
	var fail atomic.Bool
	spy := &stepSpy{}
	b := newBox(t, spool.Config{}, spool.Seam{Disk: spy, Commit: func() error {
		if fail.Load() {
			return syscall.EIO
		}
		return nil
	}})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 10, 100)
	reserve := filepath.Join(b.dir, "reserve")
	var given atomic.Bool
	spy.set(func(op spool.DiskOp) error {
		given.Store(given.Load() || op.Op == "remove" && op.Path == reserve)
		if op.Op == "rename" && !given.Load() {
			return syscall.ENOSPC
		}
		return nil
	})
	fail.Store(true)
	if res, err := st.Put(t.Context(), []record.Record{{Key: "k"}}); err != nil || !errors.Is(res[0].Err, record.ErrCannotStore) {
		t.Fatalf("%+v, %v", res, err)
	}
	fail.Store(false)
	if res, err := st.Put(t.Context(), []record.Record{{Key: "k"}}); err != nil || !errors.Is(res[0].Err, record.ErrFull) {
		t.Fatalf("%+v, %v", res, err)
	}
	if !given.Load() || !has(b.Spool, "full") {
		t.Errorf("the reserve was given: %v; conditions %+v", given.Load(), b.Stats().Conditions)
	}
	eventually(t, "the log takes records again by itself", func() bool {
		res, err := st.Put(t.Context(), []record.Record{{Key: "k"}})
		return err == nil && res[0].Err == nil
	})
}

// What is made ahead for the next segment is not made while that is opened, let
// alone written: zeros in its WAL would take the place of commits.
func TestNothingIsMadeAheadForASegmentThatIsThere(t *testing.T) {
	spy := &stepSpy{}
	b := newBox(t, spool.Config{}, spool.Seam{Disk: spy})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 10, 100)
	begun, goOn, made := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	var met atomic.Bool
	spy.set(func(op spool.DiskOp) error {
		switch {
		case op.Op == "rename" && strings.HasSuffix(op.To, "2.seg"):
			once.Do(func() {
				go func() { defer close(made); spool.MakeAhead(st, op.To) }()
				select {
				case <-begun:
				case <-time.After(200 * time.Millisecond): // it waits
				}
			})
		case op.Op == "write" && op.Off == 0 && strings.HasSuffix(op.Path, "2.seg-wal"):
			if met.CompareAndSwap(false, true) {
				close(begun)
				select {
				case <-goOn:
				case <-time.After(time.Second):
				}
			}
		}
		return nil
	})
	if err := spool.Roll(st); err != nil {
		t.Fatal(err)
	}
	put(t, st, record.Record{Key: "acked"})
	close(goOn)
	<-made
	eventually(t, "the first segment is sealed, so that no file goes meanwhile", func() bool { return spool.Sealed(st) })
	files := snapshot(t, b.dir) // a kill
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	setBack(t, b.dir, files)
	b.open()
	st, _ = b.Stream("mqtt")
	if recs, losses := scan(t, st, only(st), spool.Oldest()); len(recs) != 11 || len(losses) > 0 {
		t.Errorf("%d records, losses %v", len(recs), losses)
	}
}

// A log that cannot open its next segment goes on in the old one, and does not
// try again with each commit.
func TestARollThatFailsIsNotTriedWithEachCommit(t *testing.T) {
	spy := &stepSpy{}
	b := newBox(t, spool.Config{Quota: 64 << 20}, spool.Seam{Disk: spy})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	var tried atomic.Int64
	spy.set(func(op spool.DiskOp) error {
		if op.Op == "rename" {
			tried.Add(1)
			return syscall.ENOSPC
		}
		return nil
	})
	begun := time.Now()
	data := noise(rand.New(rand.NewPCG(1, 1)), 200<<10)
	for range 40 { // a segment is 4 MiB here
		put(t, st, record.Record{Key: "k", Data: data})
	}
	if n, most := tried.Load(), 1+int64(time.Since(begun)/time.Second); n == 0 || n > most {
		t.Errorf("tried %d times, %d are enough", n, most)
	}
	spy.set(func(spool.DiskOp) error { return nil })
	eventually(t, "the log goes on in a new segment", func() bool {
		put(t, st, record.Record{Key: "k"})
		files, err := spool.SegmentFiles(spool.LogDir(st))
		return err == nil && len(files) > 1
	})
}

// A state.db that has lost a stream's shards is damage that opening tells of,
// and is made again; it ends no producer.
func TestAStreamWithoutShardsIsDamage(t *testing.T) {
	dir := t.TempDir()
	s, err := spool.Open(t.Context(), dir, spool.Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt", Shards: 2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "DELETE FROM shards"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = spool.Open(t.Context(), dir, spool.Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if text := condition(s, "salvaged"); !strings.Contains(text, `stream "mqtt" has no shards`) {
		t.Errorf("it tells %q", text)
	}
	st, err := s.Stream("mqtt")
	if err != nil || len(st.Shards()) != 2 {
		t.Errorf("its shards are not there again: %v", err)
	}
}

// A chunk whose record begins the next block of a commit is written once.
func TestAChunkIsWrittenOnceWhereABlockEnds(t *testing.T) {
	b := newBox(t, spool.Config{Quota: 1 << 30})
	st := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	rng := rand.New(rand.NewPCG(1, 1))
	var recs []record.Record
	for range 4 {
		recs = append(recs, record.Record{Key: "cam", Data: noise(rng, 250<<10)})
	}
	recs = append(recs, record.Record{Key: "cam", Data: noise(rng, 100<<10), Blob: make([]byte, 4<<20)})
	put(t, st, recs...)
	b.close() // the chunk file is as long as what is in it
	files, err := filepath.Glob(filepath.Join(b.dir, "log-*", "*.chunks"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if fi, err := os.Stat(files[0]); err != nil || fi.Size() > 6<<20 {
		t.Errorf("the chunk file has %d bytes, %v", fi.Size(), err)
	}
	b.open()
}
