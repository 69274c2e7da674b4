package spool_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// corruptOf is how many records of a stream the ledger counts as damaged.
func corruptOf(t *testing.T, s *spool.Spool, stream string) uint64 {
	t.Helper()
	for _, l := range s.Ledger().Streams {
		if l.Stream == stream {
			return l.Corrupt
		}
	}
	t.Fatalf("no stream %q in the ledger", stream)
	return 0
}

func condition(s *spool.Spool, kind string) string {
	for _, c := range s.Stats().Conditions {
		if c.Kind == kind {
			return c.Text
		}
	}
	return ""
}

func TestScrubbingFindsDamagedDataOutside(t *testing.T) {
	b := newBox(t, spool.Config{})
	b.damage = true
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	for range 3 {
		put(t, st, record.Record{Key: "k", Data: make([]byte, 900<<10)})
	}
	if err := spool.Roll(st); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the segment is sealed", func() bool { return spool.Sealed(st) })
	if err := flip(filepath.Join(spool.LogDir(st), "0000000001.chunks"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if s := spool.Scrub(b.Spool); s.Damaged != 1 || corruptOf(t, b.Spool, "mqtt") != 1 {
		t.Errorf("%+v", s)
	}
	spool.DropCache(st)
	recs, losses := scan(t, st, only(st), spool.Oldest())
	if e, ok := errors.AsType[*record.CorruptError](errors.Join(losses...)); !ok || len(recs) != 2 || e.From != 2 || e.To != 3 {
		t.Errorf("%d records, %v", len(recs), losses)
	}
}

// Whatever a reader would report as lost in a closed segment the scrubber
// reports without one, to the record.
func TestScrubbingFindsWhatAReaderWouldMeet(t *testing.T) {
	src, per := writeSample(t)
	for name, c := range map[string]struct {
		sql  string
		file string
		flip string
		at   int64
	}{
		"body":                {file: "0000000001.seg", sql: "UPDATE block SET body = substr(body, 1, 100) || x'00' || substr(body, 102) WHERE id = 3"},
		"head":                {file: "0000000001.seg", sql: "UPDATE block SET head = x'00' || substr(head, 2) WHERE id = 3"},
		"two heads":           {file: "0000000002.seg", sql: "UPDATE block SET head = x'00' || substr(head, 2) WHERE id IN (3, 4)"},
		"missing":             {file: "0000000001.seg", sql: "DELETE FROM block WHERE id = 4"},
		"last of a segment":   {file: "0000000001.seg", sql: "DELETE FROM block WHERE id = 8"},
		"all of a segment":    {file: "0000000002.seg", sql: "DELETE FROM block"},
		"head of the segment": {file: "0000000002.seg", sql: "UPDATE meta SET crc = crc + 1"},
		"the file's header":   {flip: "0000000002.seg", at: 3},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyTree(t, src)
			if c.sql != "" {
				edit(t, filepath.Join(dir, "log-00001", c.file), c.sql)
			} else if err := flip(filepath.Join(dir, "log-00001", c.flip), c.at); err != nil {
				t.Fatal(err)
			}
			b := &box{t: t, dir: dir, cfg: spool.Config{Quota: 8 << 20}, damage: true}
			b.open()
			t.Cleanup(b.finish)
			st := spool.Scrub(b.Spool)
			found := corruptOf(t, b.Spool, "mqtt")
			if st.Damaged == 0 || (found == 0) != (name == "head of the segment") { // which costs no record
				t.Errorf("%d records were found: %+v", found, st)
			}
			text := condition(b.Spool, "corrupt")
			if !strings.Contains(text, "log-00001") || !strings.Contains(text, "(") {
				t.Errorf("the condition tells no file or no hint: %q", text)
			}
			b.close()
			if lost := readDamaged(t, dir, name, per); lost != found {
				t.Errorf("readers lose %d records, the scrubber found %d", lost, found)
			}
		})
	}
}

// The same for any byte of a closed segment.
func TestScrubbingAgreesWithReaders(t *testing.T) {
	src, per := writeSample(t)
	rng := rand.New(rand.NewPCG(7, uint64(time.Now().UnixNano())))
	total := uint64(0)
	for range 25 {
		dir := copyTree(t, src)
		file := filepath.Join(dir, "log-00001", fmt.Sprintf("%010d.seg", 1+rng.IntN(2)))
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		at := rng.Int64N(fi.Size())
		s, err := spool.Open(t.Context(), dir, spool.Config{Quota: 8 << 20}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := flip(file, at); err != nil {
			t.Fatal(err)
		}
		spool.Scrub(s)
		found := corruptOf(t, s, "mqtt")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("byte %d of %s flipped", at, filepath.Base(file))
		lost := readDamaged(t, dir, what, per)
		if found != lost {
			t.Errorf("%s: readers lose %d records, the scrubber found %d", what, lost, found)
		}
		total += lost
	}
	if total == 0 {
		t.Error("no flip hit a record; the test shows nothing")
	}
}

func TestScrubbingFindsADamagedBlob(t *testing.T) {
	b := newBox(t, spool.Config{})
	b.damage = true
	st := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	for range 3 {
		put(t, st, record.Record{Key: "cam", Blob: make([]byte, 700<<10)})
	}
	if err := spool.Roll(st); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the segment is sealed", func() bool { return spool.Sealed(st) })
	if err := flip(filepath.Join(spool.LogDir(st), "0000000001.chunks"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if s := spool.Scrub(b.Spool); s.Damaged != 1 || s.Bytes < 3*700<<10 {
		t.Errorf("%+v", s)
	}
	if text := condition(b.Spool, "corrupt"); !strings.Contains(text, "0000000001.chunks") || !strings.Contains(text, "record 2 of") {
		t.Errorf("%q", text)
	}
	if recs, losses := scan(t, st, only(st), spool.Oldest()); len(recs) != 3 || len(losses) != 0 {
		t.Errorf("the records themselves are whole: %d, %v", len(recs), losses)
	}
}

func TestScrubbingAWholeSpoolFindsNothing(t *testing.T) {
	src, _ := writeSample(t)
	b := &box{t: t, dir: src, cfg: spool.Config{Quota: 8 << 20}}
	b.open()
	t.Cleanup(b.finish)
	st := spool.Scrub(b.Spool)
	if st.Damaged != 0 || st.Segments != 2 || st.LastPass.IsZero() || st.Running || corruptOf(t, b.Spool, "mqtt") != 0 {
		t.Errorf("%+v", st)
	}
}

// A closed segment is damaged while the spool is open. Nobody reads; after a
// while the ledger, a condition and the counts tell of it. Then nothing is
// read again until the next pass is due, also over a restart.
func TestTheScrubberWorksByItself(t *testing.T) {
	src, _ := writeSample(t)
	synctest.Test(t, func(t *testing.T) {
		b := &box{t: t, dir: src, cfg: spool.Config{Quota: 8 << 20, ScrubEvery: conf.Duration(2 * time.Hour)}, damage: true}
		b.open()
		edit(t, filepath.Join(src, "log-00001", "0000000001.seg"), "UPDATE block SET body = x'' WHERE id = 3")
		time.Sleep(50 * time.Second)
		if st := b.Stats().Scrub; st.Running || st.Bytes != 0 {
			t.Errorf("it did not wait for the start to be over: %+v", st)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		st := b.Stats().Scrub
		if st.Segments != 2 || st.Damaged != 1 || st.Running || st.LastPass.IsZero() || corruptOf(t, b.Spool, "mqtt") != 5 {
			t.Errorf("%+v, %d corrupt", st, corruptOf(t, b.Spool, "mqtt"))
		}
		if !strings.Contains(condition(b.Spool, "corrupt"), "0000000001.seg") {
			t.Errorf("%q", condition(b.Spool, "corrupt"))
		}
		b.reopen()
		if again := b.Stats().Scrub; !again.LastPass.Equal(st.LastPass) {
			t.Errorf("the last pass was at %v, after a restart %v", st.LastPass, again.LastPass)
		}
		time.Sleep(time.Hour)
		if st := b.Stats().Scrub; st.Segments != 0 {
			t.Errorf("read again too early: %+v", st)
		}
		time.Sleep(90 * time.Minute)
		if st := b.Stats().Scrub; st.Segments != 2 {
			t.Errorf("not read again: %+v", st)
		}
		b.finish()
	})
}

// A pass that a restart interrupts goes on where it was, a pass under way does
// not hold closing up, and its rate is kept.
func TestAPassIsBoundedAndResumed(t *testing.T) {
	dir := t.TempDir()
	const segments, size = 12, 400 << 10
	fillSegments(t, dir, segments, size)
	synctest.Test(t, func(t *testing.T) {
		b := &box{t: t, dir: dir, cfg: spool.Config{NoPacking: true}}
		b.open()
		time.Sleep(time.Minute + 5*time.Second)
		st := b.Stats().Scrub
		if st.Bytes < 1<<20 || st.Bytes > 5*(256<<10)+2*size || !st.Running {
			t.Errorf("five seconds at 256 KiB/s: %+v", st)
		}
		before := st.Segments
		b.reopen()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st := b.Stats().Scrub; st.Running || st.Segments+before < segments || st.Segments >= segments {
			t.Errorf("%d segments before, then %+v", before, st)
		}
		b.finish()
	})
}

// While a log is busy the scrubber steps back, but not for ever.
func TestScrubbingYields(t *testing.T) {
	dir := t.TempDir()
	fillSegments(t, dir, 6, 400<<10)
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		b := &box{t: t, dir: dir, cfg: spool.Config{NoPacking: true}, seam: spool.Seam{Commit: func() error {
			for slow.Load() {
				time.Sleep(time.Second)
			}
			return nil
		}}}
		b.open()
		st, err := b.Stream("mqtt")
		if err != nil {
			t.Fatal(err)
		}
		slow.Store(true)
		for range 3 { // one is being committed, the others wait
			if err := st.Append(t.Context(), []record.Record{{Key: "k"}}, func([]record.Result) {}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		time.Sleep(time.Minute + 20*time.Second)
		first := b.Stats().Scrub.Bytes
		if first > 1<<20 {
			t.Errorf("%d bytes read while the log was busy", first)
		}
		time.Sleep(2 * time.Minute)
		if then := b.Stats().Scrub.Bytes; then <= first || then > first+4<<20 {
			t.Errorf("%d bytes read in two busy minutes", then-first)
		}
		slow.Store(false)
		time.Sleep(time.Minute)
		if s := b.Stats().Scrub; s.Running || s.Segments < 6 {
			t.Errorf("%+v", s)
		}
		b.finish()
	})
}

// fillSegments makes a spool with so many closed segments of about size bytes.
func fillSegments(t *testing.T, dir string, segments, size int) {
	t.Helper()
	b := &box{t: t, dir: dir, cfg: spool.Config{NoPacking: true}}
	b.open()
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	for range segments {
		for n := 0; n < size; n += 50 << 10 {
			fill(t, st, 1, 50<<10)
		}
		if err := spool.Roll(st); err != nil {
			t.Fatal(err)
		}
	}
	b.finish()
}

// A segment whose WAL could not be brought in before the crash or the stop is
// not taken for a closed one: opened without its WAL it would be malformed.
func TestAnUnfinishedCheckpointIsFinishedLater(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 500, 1000)
	seg := filepath.Join(spool.LogDir(st), "0000000001.seg")
	db := hold(t, seg) // keeps the checkpoint from finishing
	fill(t, st, 500, 1000)
	if err := spool.Roll(st); err != nil {
		t.Fatal(err)
	}
	fill(t, st, 500, 1000)
	if spool.Sealed(st) {
		t.Error("sealed although the WAL could not be brought in")
	}
	image := copyTree(t, b.dir) // what a crash at this moment leaves
	all := func(st *spool.Stream, what string) {
		t.Helper()
		spool.DropCache(st)
		if recs, losses := scan(t, st, only(st), spool.Oldest()); len(recs) != 1500 || len(losses) > 0 {
			t.Errorf("%s: %d records, losses %v", what, len(recs), losses)
		}
	}
	all(st, "while it is unfinished")
	db()
	eventually(t, "it is finished", func() bool { return spool.Sealed(st) })
	all(st, "when it is finished")
	db = hold(t, filepath.Join(image, "log-00001", "0000000001.seg"))
	c := &box{t: t, dir: image}
	c.open()
	t.Cleanup(c.finish)
	st, _ = c.Stream("mqtt")
	if spool.Sealed(st) {
		t.Error("taken for closed although its WAL was never brought in")
	}
	all(st, "after a crash")
	if s := spool.Scrub(c.Spool); s.Damaged != 0 {
		t.Errorf("%+v", s)
	}
	db()
	eventually(t, "the crashed one is finished", func() bool { return spool.Sealed(st) })
	all(st, "finished after a crash")
}

// hold keeps a read transaction on a file until the returned function is
// called.
func hold(t *testing.T, path string) func() {
	t.Helper()
	release, err := spool.HoldRead(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	end := func() {
		if !done.Swap(true) {
			if err := release(); err != nil {
				t.Error(fmt.Errorf("let go of %s: %w", path, err))
			}
		}
	}
	t.Cleanup(end)
	return end
}
