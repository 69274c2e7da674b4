package spool_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/faultdisk"
	"forebay/spool/record"
)

// A sync that fails inside SQLite, as on a disk that loses a write: nothing of
// that log is acknowledged until a new segment is open, other logs go on, and a
// power cut after it finds all that was acknowledged.
func TestASyncErrorBelowSQLite(t *testing.T) {
	root := filepath.Join(scratch(t), "spool")
	if err := os.Mkdir(root, 0o750); err != nil {
		t.Fatal(err)
	}
	d, u := newFaultDisk(t, true), newTruth()
	s, err := spool.OpenWith(t.Context(), root, smallSpool(), nil, spool.Faults(d))
	if err != nil {
		t.Fatal(err)
	}
	w, err := startWorkload(t.Context(), s, u, d.Mark)
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int64
	w.onError = func(err error) {
		refused.Add(1)
		if !errors.Is(err, record.ErrCannotStore) {
			t.Errorf("a producer was told %v", err)
		}
	}
	var failed atomic.Int64
	log := filepath.Base(spool.LogDir(w.streams[0]))
	rounds := uint64(4)
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		var once sync.Once
		d.SetFault(func(e faultdisk.Event) (err error) {
			if e.Op == faultdisk.Sync && filepath.Base(filepath.Dir(e.Path)) == log && strings.HasSuffix(e.Path, ".seg-wal") {
				once.Do(func() { failed.Add(1); err = faultdisk.IOErrFsync })
			}
			return err
		})
		before, err := spool.SegmentFiles(spool.LogDir(w.streams[0]))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.run(t.Context(), 8, round); err != nil {
			t.Fatal(err)
		}
		after, err := spool.SegmentFiles(spool.LogDir(w.streams[0]))
		if err != nil {
			t.Fatal(err)
		}
		if after[len(after)-1] == before[len(before)-1] {
			t.Errorf("round %d: the log went on in %s", round, filepath.Base(after[len(after)-1]))
		}
	}
	if failed.Load() != int64(rounds) || refused.Load() < int64(rounds) || !has(s, "fsync") {
		t.Errorf("%d syncs failed, %d batches refused, conditions %+v", failed.Load(), refused.Load(), s.Stats().Conditions)
	}
	other := w.streams[1].Shards()[0]
	if other.Next < 30 {
		t.Errorf("the other log took %d records only", other.Next-1)
	}
	w.markFirst()
	w.markFirst()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	events := d.Events()
	h := newHistory(u, events)
	built, bad := images(t, root, events, 60, nil, func(im image) error {
		return h.verify(context.Background(), im.dir, smallSpool(), im.at)
	})
	t.Logf("%d syncs failed with EIO, %d batches refused, %d records acknowledged: 0 acknowledged after a failure on its segment; %d power cuts around it: %d violations", failed.Load(), refused.Load(), len(u.recs), built, bad)
}

// A disk whose syncs take half a second: producers are slowed down, memory stays
// bounded, nothing is lost.
func TestASlowDiskHoldsProducersBack(t *testing.T) {
	d := newFaultDisk(t, false)
	b := newBox(t, spool.Config{Quota: 256 << 20}, spool.Faults(d))
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
	put(t, st, record.Record{Key: "first"})
	d.SetSlow(500*time.Millisecond, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var taken, acked atomic.Int64
	var producers sync.WaitGroup
	data := make([]byte, 32<<10)
	for p := range 4 {
		producers.Go(func() {
			for ctx.Err() == nil { // as fast as they are let
				recs := []record.Record{{Key: string(rune('a' + p)), Source: string(rune('a' + p)), Data: data}}
				err := st.Append(ctx, recs, func(res []record.Result) {
					if res[0].Err == nil {
						acked.Add(1)
					}
				})
				if err == nil {
					taken.Add(1)
				}
			}
		})
	}
	producers.Wait()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	waiting := taken.Load() - acked.Load()
	if limit := int64(64 << 20); waiting*int64(len(data)) > limit {
		t.Errorf("%d records of %d bytes wait in memory", waiting, len(data))
	}
	d.SetSlow(0, 0)
	eventually(t, "what was taken is on the disk", func() bool { return acked.Load() == taken.Load() })
	var got int64
	for _, sh := range st.Shards() {
		got += int64(sh.Next - 1)
	}
	if got != taken.Load()+1 {
		t.Errorf("%d records stored, %d taken", got, taken.Load()+1)
	}
	t.Logf("syncs of 500 ms for 4 s: %d records taken, %d MiB waited at most, heap %d MiB", taken.Load(), waiting*int64(len(data))>>20, m.HeapInuse>>20)
}

// Readers that stop in the middle do not let a WAL grow without end: it ends
// where the segment is closed.
func TestSlowReadersDoNotGrowTheWAL(t *testing.T) {
	b := newBox(t, spool.Config{Quota: 64 << 20})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 200, 1000)
	var readers []*spool.Reader
	for range 20 {
		spool.DropCache(st)
		r, err := st.Reader(only(st), spool.Oldest())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Poll(t.Context(), 1); err != nil { // and stays there
			t.Fatal(err)
		}
		readers = append(readers, r)
	}
	var most int64
	for i := range 150 {
		fill(t, st, 100, 1000)
		spool.DropCache(st)
		if _, err := readers[i%len(readers)].Poll(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		wals, err := filepath.Glob(filepath.Join(spool.LogDir(st), "*-wal"))
		if err != nil {
			t.Fatal(err)
		}
		var sum int64
		for _, w := range wals {
			if fi, err := os.Stat(w); err == nil {
				sum += fi.Size()
			}
		}
		most = max(most, sum)
	}
	if limit := int64(4<<20) * 3; most > limit { // a segment is 4 MiB here; two wait to be sealed
		t.Errorf("the WALs took %d bytes", most)
	}
	for _, r := range readers {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("20 readers in 15 MB of records: WALs together %d KiB at most", most>>10)
}

// Many segments and many readers keep a bounded number of files open.
func TestManySegmentsKeepFewFilesOpen(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Logf("this system does not list open files: %v", err)
		return
	}
	b := newBox(t, spool.Config{Quota: 64 << 20})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	const segments = 80
	for range segments {
		fill(t, st, 5, 100)
		if err := spool.Roll(st); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "segments are sealed", func() bool { return spool.Sealed(st) })
	spool.DropCache(st)
	for range 10 {
		if recs, _ := scan(t, st, only(st), spool.Oldest()); len(recs) != 5*segments {
			t.Fatalf("%d records", len(recs))
		}
	}
	open := 0
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil && strings.HasPrefix(to, b.dir) {
			open++
		}
	}
	if open == 0 || open > 16+10 { // 16 for readers; the writer's, state.db and the lock
		t.Errorf("%d files of the spool are open", open)
	}
	t.Logf("%d segments read ten times: %d files open", segments, open)
}
