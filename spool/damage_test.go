package spool_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// payload is what record seq of the damage tests holds.
func payload(key string, seq int) []byte {
	n := 50 + seq*37%900
	if seq%20 == 19 {
		n = 257 << 10 // in the chunk file
	}
	return bytes.Repeat(fmt.Appendf(nil, "%s-%d.", key, seq), n/8)
}

// writeSample makes a spool of three segments and returns its directory.
func writeSample(t *testing.T) (dir string, perShard int) {
	t.Helper()
	dir = t.TempDir()
	s, err := spool.Open(t.Context(), dir, spool.Config{Quota: 8 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt", Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	const rounds, each = 12, 5
	for round := range rounds {
		for _, sh := range st.Shards() {
			var recs []record.Record
			for i := range each {
				recs = append(recs, record.Record{Key: fmt.Sprint(sh.Index), HashKey: &sh.From, Source: "src", SourceSeq: uint64(round*each + i + 1), Data: payload(fmt.Sprint(sh.Index), round*each+i)})
			}
			put(t, st, recs...)
		}
		if round%4 == 3 && round < rounds-1 {
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, rounds * each
}

// readDamaged opens a damaged spool and reads all of it: every record is
// either exact or reported as lost.
func readDamaged(t *testing.T, dir, what string, perShard int) (lost uint64) {
	t.Helper()
	s, err := spool.Open(t.Context(), dir, spool.Config{Quota: 8 << 20}, nil)
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", what, err)
		}
	}()
	st, err := s.Stream("mqtt")
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	put(t, st, record.Record{Key: "after", HashKey: &st.Shards()[0].From, Data: []byte("after")})
	for _, sh := range st.Shards() {
		recs, losses := scan(t, st, sh.ID, spool.After(0))
		n := uint64(len(recs))
		for _, l := range losses {
			if e, ok := errors.AsType[*record.CorruptError](l); ok {
				n += e.To - e.From
				lost += e.To - e.From
				if e.File == "" || e.Hint == "" {
					t.Errorf("%s: the loss does not say where: %v", what, l)
				}
			}
			if e, ok := errors.AsType[*record.TrimmedError](l); ok {
				n += e.To - e.From
				lost += e.To - e.From
			}
		}
		if n != sh.Next-1 {
			t.Errorf("%s: shard %d: %d records read or lost of %d", what, sh.ID, n, sh.Next-1)
		}
		for _, r := range recs {
			if r.Key == "after" {
				continue
			}
			if want := payload(r.Key, int(r.Pos.Seq-1)); r.Key != fmt.Sprint(sh.Index) || !bytes.Equal(r.Data, want) || r.Source != "src" || r.SourceSeq != r.Pos.Seq {
				t.Fatalf("%s: record %d of shard %d is wrong: key %q, %d bytes", what, r.Pos.Seq, sh.ID, r.Key, len(r.Data))
			}
		}
		if sh.Index == 0 && (len(recs) == 0 || recs[len(recs)-1].Key != "after") {
			t.Errorf("%s: what was written after the damage is not there", what)
		}
	}
	if err := s.Ledger().Balanced(); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	_ = perShard
	return lost
}

func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func dataFiles(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"*.seg", "*.chunks"} {
		files, err := filepath.Glob(filepath.Join(dir, "log-00001", pattern))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, files...)
	}
	return out
}

func TestFlippedBytesAreNeverServed(t *testing.T) {
	src, per := writeSample(t)
	rng := rand.New(rand.NewPCG(5, uint64(time.Now().UnixNano())))
	reported := 0
	const rounds = 60
	for range rounds {
		dir := copyTree(t, src)
		files := dataFiles(t, dir)
		file := files[rng.IntN(len(files))]
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		at := rng.Int64N(fi.Size())
		if err := flip(file, at); err != nil {
			t.Fatal(err)
		}
		if readDamaged(t, dir, fmt.Sprintf("byte %d of %s flipped", at, filepath.Base(file)), per) > 0 {
			reported++
		}
		os.RemoveAll(dir)
	}
	if reported == 0 {
		t.Error("no flip hit a record; the test shows nothing")
	}
	t.Logf("%d of %d flips cost records, all of them reported", reported, rounds)
}

func TestCutFilesAreNeverServed(t *testing.T) {
	src, per := writeSample(t)
	rng := rand.New(rand.NewPCG(6, uint64(time.Now().UnixNano())))
	for range 25 {
		dir := copyTree(t, src)
		files := dataFiles(t, dir)
		file := files[rng.IntN(len(files))]
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		size := rng.Int64N(fi.Size())
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
		readDamaged(t, dir, fmt.Sprintf("%s cut to %d of %d bytes", filepath.Base(file), size, fi.Size()), per)
		os.RemoveAll(dir)
	}
}

// edit changes the rows of a segment behind the spool's back.
func edit(t *testing.T, path, statement string, args ...any) {
	t.Helper()
	db := sql.OpenDB(connector{path})
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedBlockIsSkippedAndNamed(t *testing.T) {
	src, per := writeSample(t)
	for name, c := range map[string]struct {
		file string
		sql  string
		lost uint64
	}{
		"body":              {"0000000001.seg", "UPDATE block SET body = substr(body, 1, 100) || x'00' || substr(body, 102) WHERE id = 3", 5},
		"head":              {"0000000001.seg", "UPDATE block SET head = x'00' || substr(head, 2) WHERE id = 3", 5},
		"missing":           {"0000000001.seg", "DELETE FROM block WHERE id = 4", 5},
		"last of a segment": {"0000000001.seg", "DELETE FROM block WHERE id = 8", 5},
		"all of a segment":  {"0000000002.seg", "DELETE FROM block", 40},
		"empty head":        {"0000000002.seg", "UPDATE block SET head = x'' WHERE id = 1", 5},
		"body of the last":  {"0000000003.seg", "UPDATE block SET body = x'' WHERE id = 8", 5},
		"head of the last":  {"0000000003.seg", "UPDATE block SET head = x'' WHERE id = 8", 5},
		// What a segment says of those before it is made again from the blocks.
		"no meta, first":      {"0000000001.seg", "DELETE FROM meta", 0},
		"no meta":             {"0000000002.seg", "DELETE FROM meta", 0},
		"no meta, active":     {"0000000003.seg", "DELETE FROM meta", 0},
		"no heads, first":     {"0000000001.seg", "DROP TABLE heads", 0},
		"a wrong head":        {"0000000002.seg", "UPDATE heads SET next = next + 1", 0},
		"no heads, active":    {"0000000003.seg", "DROP TABLE heads", 0},
		"no meta, no block":   {"0000000001.seg", "DROP TABLE meta; DELETE FROM block WHERE id = 1", 5},
		"no meta, no first":   {"0000000002.seg", "DROP TABLE meta; DELETE FROM block WHERE id = 1", 5},
		"no meta, no middle":  {"0000000002.seg", "DROP TABLE meta; DELETE FROM block WHERE id = 5", 5},
		"no meta, no last":    {"0000000002.seg", "DROP TABLE meta; DELETE FROM block WHERE id = 8", 5},
		"no end, active":      {"0000000003.seg", "DROP TABLE meta; DELETE FROM block WHERE id = 8", 5},
		"no begin, active":    {"0000000003.seg", "DROP TABLE meta; DELETE FROM block WHERE id = 1", 5},
		"an end cut off":      {"0000000003.seg", "DELETE FROM block WHERE id > 6", 10},
		"an idle shard's end": {"0000000003.seg", "UPDATE block SET head = x'' WHERE id = 6; DELETE FROM block WHERE id = 8", 10},
		"nothing, first":      {"0000000001.seg", "DROP TABLE meta; DROP TABLE block", 40},
		"nothing":             {"0000000002.seg", "DROP TABLE meta; DROP TABLE block", 40},
		"nothing, active":     {"0000000003.seg", "DROP TABLE meta; DROP TABLE block", 40},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyTree(t, src)
			edit(t, filepath.Join(dir, "log-00001", c.file), c.sql)
			report, err := spool.Check(t.Context(), dir)
			if err != nil || len(report.Problems) == 0 {
				t.Errorf("check: %+v, %v", report, err)
			}
			lost := readDamaged(t, dir, name, per)
			if lost != c.lost {
				t.Errorf("%d records lost, want %d", lost, c.lost)
			}
			if again := readDamaged(t, dir, name+" again", per); again != lost {
				t.Errorf("the second time %d records are lost, the first time %d", again, lost)
			}
		})
	}
}

func TestACursorCountsWhatIsDamaged(t *testing.T) {
	src, _ := writeSample(t)
	edit(t, filepath.Join(src, "log-00001", "0000000001.seg"), "DELETE FROM block WHERE id = 3")
	b := &box{t: t, dir: src, cfg: spool.Config{Quota: 8 << 20}, damage: true}
	b.open()
	t.Cleanup(b.finish)
	st, _ := b.Stream("mqtt")
	c := cursor(t, st, "up", spool.Oldest())
	var corrupt int
	for c.Committed() < 61 {
		batch, err := c.Next(t.Context(), 7)
		if e, ok := errors.AsType[*record.CorruptError](err); ok {
			corrupt++
			if e.From != 6 || e.To != 11 {
				t.Errorf("the loss is %d to %d: %v", e.From, e.To, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(batch.Next-1, record.Tally{Delivered: uint64(len(batch.Recs))}); err != nil {
			t.Fatal(err)
		}
	}
	if got := line(t, b.Spool, "up", "mqtt"); corrupt != 1 || got.Corrupt != 5 || got.Delivered != 55 || got.Pending != 0 {
		t.Errorf("%d losses, ledger %+v", corrupt, got)
	}
	if l := b.Ledger().Streams[0]; l.Corrupt != 5 || l.In != 120 || l.Kept != 115 {
		t.Errorf("stream ledger %+v", l)
	}
	if !has(b.Spool, "corrupt") {
		t.Error("no condition")
	}
}
