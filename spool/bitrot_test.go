package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// A specimen is a small spool whose content is known, as files in memory.
type specimen struct {
	name    string
	files   map[string][]byte // by path within the spool
	records map[slot]uint64
	places  map[string]uint64 // cursor by stream and shard
}

// A slot names a record for whoever does not know shard ids.
type slot struct {
	stream string
	index  int
	seq    uint64
}

// makeSpecimen writes a spool of a few segments with chunks and a cursor. A
// killed one is what lies on the disk before it is closed, WALs and all.
func makeSpecimen(t *testing.T, killed bool) *specimen {
	t.Helper()
	dir := filepath.Join(scratch(t), "spool")
	sp := &specimen{name: "closed", files: map[string][]byte{}, records: map[slot]uint64{}, places: map[string]uint64{}}
	s, err := spool.Open(t.Context(), dir, smallSpool(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []spool.StreamConfig{{Name: "mqtt", Shards: 2}, {Name: "alarms", Class: record.ClassAlarm}} {
		st, err := s.Ensure(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			for _, sh := range st.Shards() {
				r := record.Record{Key: fmt.Sprint("k", i), HashKey: &sh.From, Source: "press", SourceSeq: uint64(i + 1), Data: noise(rng, 40+rng.IntN(100)), Attrs: map[string]string{"a": "b"}}
				if i%3 == 1 && st.Name() == "mqtt" {
					r.Blob = noise(rng, 300)
				}
				res := put(t, st, r)
				sp.records[slot{st.Name(), sh.Index, res[0].Pos.Seq}] = fingerprint(&r, r.Blob)
			}
			if i == 3 && st.Name() == "mqtt" {
				if err := spool.Roll(st); err != nil {
					t.Fatal(err)
				}
			}
		}
		sh := st.Shards()[0]
		c := cursor(t, st, "uplink", spool.Oldest())
		if _, err := c.Next(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(2, record.Tally{Delivered: 2}); err != nil {
			t.Fatal(err)
		}
		sp.places[fmt.Sprint(st.Name(), sh.Index)] = 3
	}
	if err := spool.FlushState(s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "segments are sealed", func() bool { st, _ := s.Stream("mqtt"); return spool.Sealed(st) })
	if killed {
		sp.name = "killed"
		sp.read(t, dir)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !killed {
		sp.read(t, dir)
	}
	return sp
}

// read takes the files in that a damage is tried on: not the reserve and the
// lock, whose content means nothing, nor SQLite's shared memory, which it makes
// anew.
func (sp *specimen) read(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "reserve" || e.Name() == "lock" || filepath.Ext(path) == ".seg-shm" || filepath.Ext(path) == ".db-shm" {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err == nil {
			sp.files[rel], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (sp *specimen) paths() []string {
	var out []string
	for p, b := range sp.files {
		if len(b) > 0 {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

func (sp *specimen) write(dir, path string, content []byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for p, b := range sp.files {
		if p == path {
			b = content
		}
		to := filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(to, b, 0o640); err != nil {
			return err
		}
	}
	return nil
}

// An outcome is what became of a damaged spool.
type outcome struct {
	refused  bool // opening said what is wrong
	reported bool // Check, a loss or a condition tells of it
	missing  int  // records not returned
	moved    int  // cursors that are not where they were
}

// unnamed says that something is missing and nothing tells of it.
func (o outcome) unnamed() bool { return o.missing+o.moved > 0 && !o.reported }

// short reports whether what a damaged WAL lacks is what it would lack if its
// last commit had not ended: a commit whose sync has not ended, and the end of a
// file that was never written, look no different. Nobody can tell them apart.
func (o outcome) short(d damage, killed bool) bool {
	if killed && d.path == "state.db" && o.missing == 0 {
		return true // not guarded until it is closed, see statesum.go
	}
	return strings.HasSuffix(d.path, "-wal") && (d.cut || o.missing+o.moved <= 1)
}

// examine opens a damaged spool and reads all of it. An error is a wrong
// answer: a record that is not what was stored, a panic, or an end that does
// not come.
func (sp *specimen) examine(dir string) (o outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	report, err := spool.Check(ctx, dir)
	o.reported = err != nil || len(report.Problems) > 0
	s, err := spool.Open(ctx, dir, smallSpool(), nil)
	if ctx.Err() != nil {
		return o, errors.New("it does not end")
	}
	if err != nil {
		o.refused, o.reported = true, true
		return o, nil
	}
	err = sp.readAll(ctx, s, &o)
	if len(s.Stats().Conditions) > 0 {
		o.reported = true
	}
	_ = s.Close() // what is damaged may not close in order
	if ctx.Err() != nil {
		return o, errors.New("it does not end")
	}
	return o, err
}

func (sp *specimen) readAll(ctx context.Context, s *spool.Spool, o *outcome) error {
	got := 0
	for _, st := range s.Streams() {
		for _, sh := range st.Shards() {
			n, err := sp.readShard(ctx, st, sh, o)
			if err != nil {
				return err
			}
			got += n
		}
	}
	o.missing = len(sp.records) - got
	for key, want := range sp.places {
		found := false
		for _, st := range s.Streams() {
			for _, sh := range st.Shards() {
				if fmt.Sprint(st.Name(), sh.Index) != key {
					continue
				}
				c, err := st.Cursor(ctx, "uplink", sh.ID, spool.Oldest())
				if err == nil {
					found = c.Committed() == want
					_ = c.Close()
				}
			}
		}
		if !found {
			o.moved++
		}
	}
	return nil
}

func (sp *specimen) readShard(ctx context.Context, st *spool.Stream, sh spool.Shard, o *outcome) (n int, _ error) {
	stream := st.Name()
	if _, known := sp.records[slot{stream, 0, 1}]; !known {
		// Its name is damaged. What it holds must be right all the same.
		o.moved++
		stream = ""
	}
	for b, err := range st.Scan(ctx, sh.ID, spool.After(0)) {
		if err != nil {
			o.reported = true
			if isTrimmed(err) || isCorrupt(err) {
				continue
			}
			return n, nil // it says that it cannot be read
		}
		for i := range b.Recs {
			r := &b.Recs[i]
			print, known := sp.records[slot{st.Name(), sh.Index, r.Pos.Seq}]
			blob, err := readBlob(st, r)
			if err != nil {
				o.reported = true
				continue
			}
			if stream == "" {
				known = slices.Contains(slices.Collect(maps.Values(sp.records)), fingerprint(r, blob))
				print = fingerprint(r, blob)
			}
			if !known || print != fingerprint(r, blob) {
				return n, fmt.Errorf("record %d of shard %d of stream %q is wrong", r.Pos.Seq, sh.Index, st.Name())
			}
			n++
		}
	}
	return n, nil
}

func readBlob(st *spool.Stream, r *record.Record) ([]byte, error) {
	if r.Chunk.IsZero() {
		return nil, nil
	}
	c, err := st.OpenChunk(r.Chunk)
	if err != nil {
		return nil, err
	}
	blob, err := io.ReadAll(c)
	return blob, errors.Join(err, c.Close())
}

func isCorrupt(err error) bool {
	_, ok := errors.AsType[*record.CorruptError](err)
	return ok
}

// A damage is one change of one file.
type damage struct {
	path string
	what string
	cut  bool
	make func([]byte) []byte
}

// tally counts outcomes by kind of file.
type tally struct{ tried, harmless, refused, cost, records, short int }

// tryAll examines every damage, two at a time.
func (sp *specimen) tryAll(t *testing.T, damages []damage) {
	t.Helper()
	base := scratch(t)
	t.Setenv("TMPDIR", base)
	work := make(chan damage)
	var mu sync.Mutex
	var workers sync.WaitGroup
	tallies, wrong, unnamed := map[string]*tally{}, 0, 0
	for k := range 2 {
		workers.Go(func() {
			dir := filepath.Join(base, fmt.Sprint("spool", k))
			for d := range work {
				err := sp.write(dir, d.path, d.make(slices.Clone(sp.files[d.path])))
				var o outcome
				if err == nil {
					o, err = sp.examine(dir)
				}
				mu.Lock()
				c := tallies[kindOf(d.path)]
				if c == nil {
					c = &tally{}
					tallies[kindOf(d.path)] = c
				}
				c.tried++
				switch {
				case err != nil:
					if wrong++; wrong <= 10 {
						t.Errorf("%s: %s, %s: %v", sp.name, d.path, d.what, err)
					}
				case o.unnamed() && o.short(d, sp.name == "killed"):
					c.short++
				case o.unnamed():
					if unnamed++; unnamed <= 10 {
						t.Errorf("%s: %s, %s: %d records are missing and %d cursors elsewhere, and nothing says so", sp.name, d.path, d.what, o.missing, o.moved)
					}
				case o.refused:
					c.refused++
				case o.missing > 0:
					c.cost++
					c.records += o.missing
				default:
					c.harmless++
				}
				mu.Unlock()
			}
		})
	}
	for _, d := range damages {
		work <- d
	}
	close(work)
	workers.Wait()
	for kind, c := range tallies {
		t.Logf("%s spool, %-12s %6d damages: %6d cost nothing, %6d cost records (%d, all reported), %6d refused at opening, %d not told (docs/guarantees.md)", sp.name, kind, c.tried, c.harmless, c.cost, c.records, c.refused, c.short)
	}
	t.Logf("%s spool: %d damages: %d wrong answers or panics, %d losses not reported", sp.name, len(damages), wrong, unnamed)
}

// Every byte of a small spool flipped: nothing wrong is ever served, and what
// is not served is reported. The short form takes bytes by lot.
func TestFlippedBytesOfAWholeSpool(t *testing.T) {
	for _, killed := range []bool{false, true} {
		sp := makeSpecimen(t, killed)
		total := 0
		for _, p := range sp.paths() {
			total += len(sp.files[p])
		}
		rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 4))
		limit := number(t, "FOREBAY_FLIPS", 400)
		var damages []damage
		for _, p := range sp.paths() {
			size := len(sp.files[p])
			n := min(size, max(limit*size/total, limit/20))
			for _, off := range sample(rng, size, n) {
				mask := byte(1 << rng.IntN(8))
				if n == size {
					mask = 0xff
				}
				damages = append(damages, damage{p, fmt.Sprintf("byte %d ^ %#x", off, mask), false, func(b []byte) []byte { b[off] ^= mask; return b }})
			}
		}
		t.Logf("%s spool: %d files, %d bytes, %d of them flipped", sp.name, len(sp.paths()), total, len(damages))
		sp.tryAll(t, damages)
	}
}

// sample is n of the numbers below size, rising.
func sample(rng *rand.Rand, size, n int) []int {
	if n >= size {
		out := make([]int, size)
		for i := range out {
			out[i] = i
		}
		return out
	}
	out := rng.Perm(size)[:n]
	slices.Sort(out)
	return out
}

// Every length that a file can be cut to; the short form takes lengths by lot
// and the ends of pages.
func TestCutFilesOfAWholeSpool(t *testing.T) {
	for _, killed := range []bool{false, true} {
		sp := makeSpecimen(t, killed)
		rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 5))
		limit := number(t, "FOREBAY_CUTS", 120)
		var damages []damage
		for _, p := range sp.paths() {
			size := len(sp.files[p])
			lengths := sample(rng, size, max(1, limit/len(sp.paths())))
			for n := 0; n < size && limit >= 1000; n += 512 {
				lengths = append(lengths, n)
			}
			for _, n := range append(lengths, 0) {
				damages = append(damages, damage{p, fmt.Sprintf("cut to %d of %d bytes", n, size), true, func(b []byte) []byte { return b[:n] }})
			}
		}
		sp.tryAll(t, damages)
	}
}

// The words that make id another name of rowid may be damaged: the blocks are
// there all the same.
func TestDamagedWordsOfTheSchemaHideNoBlock(t *testing.T) {
	sp := makeSpecimen(t, true)
	var damages []damage
	for _, p := range sp.paths() {
		if !strings.HasSuffix(p, ".seg") {
			continue
		}
		from := bytes.Index(sp.files[p], []byte("CREATE TABLE block("))
		if from < 0 {
			t.Fatalf("%s has no table of blocks", p)
		}
		for off := from; off < from+80; off++ {
			damages = append(damages, damage{p, fmt.Sprintf("byte %d ^ 0x4", off), false, func(b []byte) []byte { b[off] ^= 4; return b }})
		}
	}
	sp.tryAll(t, damages)
}
