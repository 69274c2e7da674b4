package spool_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// restored restores a backup and opens it.
func restored(t *testing.T, backup []byte, cfg spool.Config) (*box, spool.BackupReport) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	rep, err := spool.Restore(t.Context(), bytes.NewReader(backup), dir)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := spool.Check(t.Context(), dir); err != nil || len(r.Problems) > 0 {
		t.Errorf("check of the restored files: %v, %v", r.Problems, err)
	}
	b := &box{t: t, dir: dir, cfg: cfg}
	b.open()
	t.Cleanup(b.finish)
	return b, rep
}

func allFiles(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	for path := range tree(t, dir) {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rel)
	}
	slices.Sort(out)
	return out
}

// While producers, cursors, rolls and new streams go on, a backup holds every
// record that was acknowledged before it began, in order, under its own id.
func TestABackupOfABusySpoolHoldsWhatWasAcknowledged(t *testing.T) {
	cfg := spool.Config{Gateway: "edge", Segment: 256 << 10, Quota: 256 << 20}
	b := newBox(t, cfg)
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 4})
	video := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer func() { stop(); work.Wait() }()
	var mu sync.Mutex
	acked := map[record.Pos]string{}
	produce := func(t *testing.T, st *spool.Stream, source string, blob int) {
		rng := rand.NewChaCha8([32]byte{byte(len(source))})
		for n := 0; ctx.Err() == nil; n++ {
			var recs []record.Record
			noise := make([]byte, 1_000) // fills segments, so that there are fewer records to read
			_, _ = rng.Read(noise)       // never fails
			for i := range 1 + n%40 {
				recs = append(recs, record.Record{Key: fmt.Sprint(source, i%5), Source: source, SourceSeq: uint64(n*100 + i + 1), Data: fmt.Appendf(nil, "%s %d %d %x", source, n, i, noise[i:]), Blob: make([]byte, blob)})
			}
			res, err := st.Put(context.Background(), recs)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			for i, r := range res {
				if r.Err != nil {
					t.Error(r.Err)
				}
				acked[r.Pos] = string(recs[i].Data)
			}
			mu.Unlock()
		}
	}
	for p := range 3 {
		work.Go(func() { produce(t, st, fmt.Sprint("p", p), 0) })
	}
	work.Go(func() { produce(t, video, "camera", 5_000) })
	for _, sh := range st.Shards()[:2] {
		work.Go(func() {
			c, err := st.Cursor(ctx, "uplink", sh.ID, spool.Oldest())
			for err == nil && ctx.Err() == nil {
				var got record.Batch
				if got, err = c.Next(ctx, 50); err == nil {
					err = c.Commit(got.Next-1, record.Tally{Delivered: uint64(len(got.Recs))})
				}
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	work.Go(func() {
		for n := 0; ctx.Err() == nil && n < 50; n++ {
			if _, err := b.Ensure(context.Background(), spool.StreamConfig{Name: "more", Shards: 1}); err != nil {
				t.Error(err)
			}
			produceOne(t, b.Spool, fmt.Sprint("new-", n))
			time.Sleep(time.Millisecond) // spreads them over the backups
		}
	})
	segments := func() int {
		files, err := spool.SegmentFiles(spool.LogDir(st))
		if err != nil {
			t.Error(err)
		}
		return len(files)
	}
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for round := range rounds {
		eventually(t, "a few segments are full", func() bool { return segments() > 2*(round+1) })
		mu.Lock()
		before := make(map[record.Pos]string, len(acked))
		maps.Copy(before, acked)
		mu.Unlock()
		var out bytes.Buffer
		rep, err := b.Backup(t.Context(), &out)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Expired != 0 || len(rep.Damaged) > 0 || rep.Gateway != "edge" {
			t.Errorf("report %+v", rep)
		}
		if got, err := spool.VerifyBackup(t.Context(), bytes.NewReader(out.Bytes())); err != nil || len(got.Files) != len(rep.Files) {
			t.Errorf("verify: %d files, %v", len(got.Files), err)
		}
		other, _ := restored(t, out.Bytes(), cfg)
		if other.Identity().Epoch == b.Identity().Epoch {
			t.Error("the restored spool has the epoch of the original")
		}
		old := fmt.Sprintf("edge/%s/", b.Identity().Epoch)
		n := 0
		for _, st := range other.Streams() {
			for _, sh := range st.Shards() {
				recs, losses := scan(t, st, sh.ID, spool.Oldest())
				if len(losses) > 0 || uint64(len(recs)) != sh.Next-1 {
					t.Errorf("shard %d of %s: %d records of %d, losses %v", sh.ID, st.Name(), len(recs), sh.Next-1, losses)
				}
				for i := range recs {
					if want, ok := before[recs[i].Pos]; ok {
						n++
						if string(recs[i].Data) != want {
							t.Fatalf("record %v is %q, want %q", recs[i].Pos, recs[i].Data, want)
						}
					}
					if id := other.Identity().Of(&recs[i]); !strings.HasPrefix(id, old) {
						t.Fatalf("a record of before has the id %s", id)
					}
				}
			}
		}
		if n != len(before) {
			t.Errorf("round %d: %d of %d acknowledged records are in the backup", round, n, len(before))
		}
		mqtt, _ := other.Stream("mqtt")
		res := put(t, mqtt, record.Record{Key: "later", Data: []byte("later")})
		recs, _ := scan(t, mqtt, res[0].Pos.Shard, spool.After(res[0].Pos.Seq-1))
		if id := other.Identity().Of(&recs[0]); strings.HasPrefix(id, old) {
			t.Errorf("a new record has an id of the original: %s", id)
		}
	}
	if left, err := filepath.Glob(filepath.Join(b.dir, "backup*")); err != nil || len(left) > 0 {
		t.Errorf("the backup left %v, %v", left, err)
	}
}

func produceOne(t *testing.T, s *spool.Spool, stream string) {
	st, err := s.Ensure(context.Background(), spool.StreamConfig{Name: "s"})
	if err == nil {
		st, err = s.CreateStream(context.Background(), spool.StreamConfig{Name: conf.Stream(stream)})
	}
	if err == nil {
		_, err = st.Put(context.Background(), []record.Record{{Key: "k", Data: []byte(stream)}})
	}
	if err != nil {
		t.Error(err)
	}
}

func TestAKilledSpoolIsBackedUpAsItLies(t *testing.T) {
	for dir, want := range goldens(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			src := unpackGolden(t, filepath.Join(dir, "spool.tar.gz"))
			before := tree(t, src)
			var out bytes.Buffer
			rep, err := spool.BackupDir(t.Context(), src, &out)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Epoch != want.Epoch || rep.Gateway != want.Gateway {
				t.Errorf("report %+v", rep)
			}
			for path, sum := range tree(t, src) {
				if before[path] != sum {
					t.Errorf("%s was made or changed", path)
				}
			}
			to := filepath.Join(t.TempDir(), "deep", "restored")
			if _, err := spool.Restore(t.Context(), &out, to); err != nil {
				t.Fatal(err)
			}
			checkGolden(t, to, want)
			s, err := spool.Open(t.Context(), to, goldenConfigOf(t, dir), nil)
			if err != nil {
				t.Fatal(err)
			}
			if s.Identity().Epoch.String() == want.Epoch {
				t.Error("the epoch is the same")
			}
			compareGolden(t, s, want)
			goOn(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// sampleBackup is a backup of a small spool with two logs and chunks.
func sampleBackup(t *testing.T) []byte {
	t.Helper()
	b := newBox(t, spool.Config{})
	fill(t, b.stream(spool.StreamConfig{Name: "mqtt"}), 300, 100)
	put(t, b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo}), record.Record{Key: "c", Blob: make([]byte, 3_000)})
	if err := spool.Roll(b.stream(spool.StreamConfig{Name: "mqtt"})); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := b.Backup(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestABackupThatIsNotWholeMakesNothing(t *testing.T) {
	good := sampleBackup(t)
	end := bytes.LastIndex(good, []byte("manifest.sha256")) + 512 + 65 // what is behind it is padding
	try := func(what string, bad []byte) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "restored")
		if _, err := spool.Restore(t.Context(), bytes.NewReader(bad), dir); err == nil {
			t.Errorf("%s: restored", what)
		}
		if left := allFiles(t, filepath.Dir(dir)); len(left) > 0 {
			t.Errorf("%s: left %v", what, left)
		}
		if _, err := spool.VerifyBackup(t.Context(), bytes.NewReader(bad)); err == nil {
			t.Errorf("%s: verified", what)
		}
	}
	for n := 0; n < end; n += 1 + end/41 {
		try(fmt.Sprint("cut at ", n), good[:n])
	}
	// Where a file's own bytes or the manifest are changed; a time in a tar
	// header means nothing.
	for at := 512; at < end; at += 1 + end/53 {
		if at%512 == 0 || !inFile(good, at) {
			continue
		}
		bad := bytes.Clone(good)
		bad[at] ^= 4
		try(fmt.Sprint("changed at ", at), bad)
	}
	try("empty", nil)
	try("no backup", []byte(strings.Repeat("hello ", 1000)))
}

// inFile reports whether an offset of a tar lies in the bytes of a file.
func inFile(archive []byte, at int) bool {
	r := bytes.NewReader(archive)
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err != nil {
			return false
		}
		from := len(archive) - r.Len()
		if at >= from && at < from+int(h.Size) {
			return true
		}
	}
}

func TestRestoreWritesNowhereElse(t *testing.T) {
	good := sampleBackup(t)
	for _, name := range []string{"../evil", "/etc/evil", "log-00001/../../evil", "lock", "log-00001/0000000001.seg-wal", `log-00001\0000000001.seg`} {
		var bad bytes.Buffer
		w := tar.NewWriter(&bad)
		if err := w.WriteHeader(&tar.Header{Name: name, Size: 1, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		bad.Write(good)
		dir := filepath.Join(t.TempDir(), "restored")
		_, err := spool.Restore(t.Context(), &bad, dir)
		if _, ok := errors.AsType[*spool.BackupError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		if left := allFiles(t, filepath.Dir(dir)); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	there := t.TempDir()
	if err := os.WriteFile(filepath.Join(there, "mine"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Restore(t.Context(), bytes.NewReader(good), there); !errors.Is(err, fs.ErrExist) {
		t.Errorf("into a directory that is in use: %v", err)
	}
	if got := allFiles(t, there); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("it holds %v", got)
	}
	empty := t.TempDir()
	if _, err := spool.Restore(t.Context(), bytes.NewReader(good), empty); err != nil {
		t.Errorf("into an empty directory: %v", err)
	}
}

// noise stores n records of 1,000 bytes that cannot be packed.
func fillNoise(t *testing.T, st *spool.Stream, n int) {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{1})
	for ; n > 0; n -= 100 {
		recs := make([]record.Record, 100)
		for i := range recs {
			recs[i] = record.Record{Key: "k", Data: make([]byte, 1_000)}
			_, _ = rng.Read(recs[i].Data) // never fails
		}
		put(t, st, recs...)
	}
}

// A slowWriter stops a backup after some bytes until it is let go.
type slowWriter struct {
	n    int
	stop func()
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 && w.stop != nil {
		w.stop()
		w.stop = nil
	}
	return len(p), nil
}

func TestABackupWhileRetentionRemovesAndWhileItCloses(t *testing.T) {
	cfg := spool.Config{Quota: 8 << 20, Segment: 256 << 10}
	b := newBox(t, cfg)
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fillNoise(t, st, 6_000)
	eventually(t, "segments are sealed", func() bool { return spool.Sealed(st) })
	var out bytes.Buffer
	w := &slowWriter{n: 1_500_000, stop: func() {
		first := st.Shards()[0].First
		if _, err := b.Backup(t.Context(), &slowWriter{}); !errors.Is(err, spool.ErrBackupRuns) {
			t.Errorf("a second backup at the same time: %v", err)
		}
		fillNoise(t, st, 3_000) // the quota lets the oldest go
		if st.Shards()[0].First == first {
			t.Error("nothing was removed")
		}
	}}
	rep, err := b.Backup(t.Context(), writers{w, &out})
	if err != nil || rep.Expired == 0 {
		t.Fatalf("report %+v, %v", rep, err)
	}
	other, _ := restored(t, out.Bytes(), cfg)
	got, _ := other.Stream("mqtt")
	sh := got.Shards()[0]
	recs, losses := scan(t, got, sh.ID, spool.Oldest())
	if len(losses) > 0 || sh.First == 1 || uint64(len(recs)) != sh.Next-sh.First || sh.Next != 6_001 {
		t.Errorf("%d records, shard %+v, losses %v", len(recs), sh, losses)
	}

	closed := newBox(t, cfg)
	fillNoise(t, closed.stream(spool.StreamConfig{Name: "mqtt"}), 2_000)
	ended := make(chan error)
	_, err = closed.Backup(t.Context(), &slowWriter{n: 300_000, stop: func() {
		go func() { ended <- closed.Close() }()
		if err := <-ended; err != nil { // a backup does not hold it up
			t.Error(err)
		}
	}})
	if !errors.Is(err, record.ErrClosed) {
		t.Errorf("a backup of a spool that is closed meanwhile: %v", err)
	}
	closed.Spool = nil
	ctx, cancel := context.WithCancel(t.Context())
	_, err = other.Backup(ctx, &slowWriter{n: 300_000, stop: cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a backup that is given up: %v", err)
	}
}

type writers []interface{ Write(p []byte) (int, error) }

func (w writers) Write(p []byte) (int, error) {
	for _, to := range w {
		if n, err := to.Write(p); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// Damage does not keep the rest from being backed up.
func TestADamagedSpoolIsBackedUp(t *testing.T) {
	src, _ := writeSample(t)
	files := dataFiles(t, src)
	for _, path := range files[:3] {
		t.Run(filepath.Base(path), func(t *testing.T) {
			dir := copyTree(t, src)
			bad := filepath.Join(dir, "log-00001", filepath.Base(path))
			for at := range int64(400) {
				patch(t, bad, at*97%4096, 0xaa)
			}
			var out bytes.Buffer
			if _, err := spool.BackupDir(t.Context(), dir, &out); err != nil && filepath.Base(path) != "0000000003.seg" {
				t.Fatal(err)
			} else if err != nil {
				if _, ok := errors.AsType[*record.FormatError](err); !ok {
					t.Fatal(err)
				}
				return
			}
			to := filepath.Join(t.TempDir(), "restored")
			if _, err := spool.Restore(t.Context(), &out, to); err != nil {
				t.Fatal(err)
			}
			was, err := os.ReadFile(bad)
			if err != nil {
				t.Fatal(err)
			}
			is, err := os.ReadFile(filepath.Join(to, "log-00001", filepath.Base(path)))
			if err != nil || !bytes.Equal(was, is) {
				t.Errorf("the damaged file is not in the backup as it lies: %v", err)
			}
		})
	}
}

// A gateway's data directory is as a rule a relative path (forebay-data), and
// may have signs in it that mean something in a URI.
func TestABackupOfARelativeDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	b := &box{t: t, dir: filepath.Join("press shop 100%25 #1?", "spool")}
	b.open()
	t.Cleanup(b.finish)
	fill(t, b.stream(spool.StreamConfig{Name: "mqtt"}), 300, 100)
	var out bytes.Buffer
	if _, err := b.Backup(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	back, _ := restored(t, out.Bytes(), spool.Config{})
	st := back.stream(spool.StreamConfig{Name: "mqtt"})
	if recs, losses := scan(t, st, only(st), spool.Oldest()); len(recs) != 300 || len(losses) > 0 {
		t.Errorf("%d records are restored, losses %v", len(recs), losses)
	}
}
