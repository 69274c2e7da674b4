package spool_test

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

func steps(t *testing.T, s *spool.Spool, kinds ...string) (out []spool.Step) {
	t.Helper()
	all, err := s.Steps(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return ofKinds(all, kinds...)
}

func ofKinds(all []spool.Step, kinds ...string) (out []spool.Step) {
	for _, st := range all {
		for _, k := range kinds {
			if st.Kind == k {
				out = append(out, st)
			}
		}
	}
	return out
}

// lossy makes a spool with something of most kinds in its ledger, and closes it.
func lossy(t *testing.T) *box {
	t.Helper()
	b := newBox(t, spool.Config{NoPacking: true, Quota: 16 << 20})
	st := b.stream(spool.StreamConfig{Name: "mqtt", MaxBytes: 1 << 20})
	c := cursor(t, st, "it's", spool.Oldest())
	fill(t, st, 20, 1000)
	batch, err := c.Next(t.Context(), 10)
	if err == nil {
		err = c.Commit(batch.Next-1, record.Tally{Delivered: 7, Filtered: 1, Refused: 2})
	}
	if err != nil {
		t.Fatal(err)
	}
	fill(t, st, 60, 50<<10)
	b.Shed("press", 7)
	b.Shed("oven", 2)
	b.Shed("press", 1)
	if err := b.Ledger().Balanced(); err != nil {
		t.Error(err)
	}
	b.close()
	return b
}

func TestEveryLossIsAStep(t *testing.T) {
	b := lossy(t)
	b.open()
	all := steps(t, b.Spool, spool.StepEpoch, spool.StepShed, spool.StepRefused, spool.StepDropped)
	if epochs := ofKinds(all, spool.StepEpoch); len(epochs) != 1 || epochs[0].ID != 1 || epochs[0].Who != b.Identity().Epoch.String() {
		t.Errorf("epochs %+v", epochs)
	}
	sheds := map[string]uint64{}
	for _, st := range ofKinds(all, spool.StepShed) {
		sheds[st.Who] += st.Count
	}
	if sheds["press"] != 8 || sheds["oven"] != 2 || len(sheds) != 2 {
		t.Errorf("shed %v", sheds)
	}
	if r := ofKinds(all, spool.StepRefused); len(r) != 1 || r[0].Count != 2 || r[0].Who != "it's" || r[0].First != 1 || r[0].Past != 11 || r[0].Stream != "mqtt" {
		t.Errorf("refused %+v", r)
	}
	st, _ := b.Stream("mqtt")
	next := uint64(1)
	for _, d := range ofKinds(all, spool.StepDropped) {
		if d.First != next || d.Count != d.Past-d.First || d.Shard != only(st) || !strings.Contains(d.Reason, "max_bytes") {
			t.Errorf("after %d: %+v", next, d)
		}
		if want := d.Past - min(max(d.First, 11), d.Past); d.Undelivered != want {
			t.Errorf("%d undelivered, want %d: %+v", d.Undelivered, want, d)
		}
		next = d.Past
	}
	if first := firstKept(st); next != first || first == 1 {
		t.Errorf("the steps end at %d, the stream begins at %d", next, first)
	}
}

// The hash can be computed with what every machine has.
func TestAStepsHashIsOverSQLsOwnWords(t *testing.T) {
	b := lossy(t)
	db := sql.OpenDB(connector{filepath.Join(b.dir, "state.db")})
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT quote(id)||','||quote(at)||','||quote(clock)||','||quote(kind)||','||quote(stream)||','||quote(shard)||','||quote(first)||','||
		quote(past)||','||quote(count)||','||quote(undelivered)||','||quote(who)||','||quote(reason)||','||quote(prev), prev, hash FROM ledger ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	before, n := string(make([]byte, sha256.Size)), 0
	for ; rows.Next(); n++ {
		var text, prev, hash string
		if err := rows.Scan(&text, &prev, &hash); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256([]byte(text)); string(sum[:]) != hash || prev != before {
			t.Errorf("%s has another hash", text)
		}
		before = hash
	}
	if err := rows.Err(); err != nil || n < 4 {
		t.Errorf("%d steps, %v", n, err)
	}
}

// Every count is kept twice, in different places, and one that is changed is
// seen.
func TestATamperedCountIsSeen(t *testing.T) {
	src := lossy(t)
	for name, c := range map[string]struct{ statement, want string }{
		"untouched":            {"SELECT 1", ""},
		"delivered":            {"UPDATE cursors SET delivered = delivered + 1", "is not delivered"},
		"expired":              {"UPDATE cursors SET start = start + 1", "is not delivered"},
		"refused":              {"UPDATE cursors SET refused = refused - 1, delivered = delivered + 1", "its steps say"},
		"shed, more":           {"UPDATE shed SET records = records + 1 WHERE source = 'oven'", "its steps say"},
		"shed, less":           {"UPDATE shed SET records = records - 1 WHERE source = 'oven'", "its steps say"},
		"shed, none":           {"DELETE FROM shed WHERE source = 'oven'", "its steps say"},
		"damage":               {"INSERT INTO corrupt VALUES(1, 60, 62, 'x', 1)", "damaged"},
		"uncounted":            {"UPDATE logs SET uncounted = 1", "numbers were given"},
		"a step's count":       {"UPDATE ledger SET count = count + 1 WHERE kind = 'dropped' AND id = (SELECT max(id) FROM ledger WHERE kind = 'dropped')", "was changed"},
		"a step's reason":      {"UPDATE ledger SET reason = 'nothing' WHERE kind = 'shed'", "was changed"},
		"a step":               {"DELETE FROM ledger WHERE id = 2", "does not follow"},
		"the first step":       {"DELETE FROM ledger WHERE id = 1", "are missing"},
		"the newest step":      {"DELETE FROM ledger WHERE id = (SELECT max(id) FROM ledger)", "are missing"},
		"all steps":            {"DELETE FROM ledger", "all steps are missing"},
		"sums that never were": {"INSERT INTO ledger_sums VALUES('shed', '', 0, 'oven', 1, 2, 0)", "are missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyTree(t, src.dir)
			edit(t, filepath.Join(dir, "state.db"), c.statement)
			offline, err := spool.ReadLedger(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			report, err := spool.Check(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(c.want, "missing") || strings.Contains(c.want, "was changed") || strings.Contains(c.want, "follow") {
				if text := strings.Join(report.Problems, "\n"); !strings.Contains(text, c.want) {
					t.Errorf("check says %q, want %q", text, c.want)
				}
			}
			s, err := spool.Open(t.Context(), dir, spool.Config{Quota: 16 << 20}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for where, l := range map[string]spool.Ledger{"closed": offline.Ledger, "open": s.Ledger()} {
				said := ""
				if err := l.Balanced(); err != nil {
					said = err.Error()
				}
				if (c.want == "") != (said == "") || !strings.Contains(said, c.want) {
					t.Errorf("%s: the ledger says %q, want %q", where, said, c.want)
				}
			}
			if strings.Contains(name, "step") && (!has(s, "ledger") || len(steps(t, s, spool.StepBroken)) != 1) {
				t.Errorf("conditions %+v, steps %+v", s.Stats().Conditions, steps(t, s, spool.StepBroken))
			}
		})
	}
}

func TestALedgerOfAClosedSpoolIsThatOfTheOpenOne(t *testing.T) {
	b := lossy(t)
	r, err := spool.ReadLedger(t.Context(), b.dir)
	if err != nil {
		t.Fatal(err)
	}
	b.open()
	all := steps(t, b.Spool, spool.StepEpoch, spool.StepShed, spool.StepRefused, spool.StepDropped)
	if want, got := fmt.Sprintf("%+v", b.Ledger()), fmt.Sprintf("%+v", r.Ledger); got != want {
		t.Errorf("closed %s\nopen   %s", got, want)
	}
	if len(r.Steps) != len(all) || r.Steps[len(all)-1] != all[len(all)-1] || r.Identity.Epoch != b.Identity().Epoch {
		t.Errorf("closed %+v\nopen   %+v", r.Steps, all)
	}
	if _, err := spool.ReadLedger(t.Context(), b.dir); err == nil {
		t.Error("a spool in use was read")
	}
	if _, err := spool.ReadLedger(t.Context(), t.TempDir()); err == nil {
		t.Error("no spool was read")
	}
}

// The steps are bounded: the oldest are folded into sums, and the chain still
// verifies.
func TestAFoldedLedgerHolds(t *testing.T) {
	b := newBox(t, spool.Config{})
	const rounds, sources = 3, 2500
	for range rounds {
		for i := range sources {
			b.Shed(fmt.Sprintf("device-%d", i%1200), 1)
			if i%1200 == 1199 { // the same source again is another step
				steps(t, b.Spool)
			}
		}
		all := steps(t, b.Spool, spool.StepShed, spool.StepFolded, spool.StepEpoch)
		if len(all) > 4200 {
			t.Fatalf("%d steps are kept", len(all))
		}
		if err := b.Ledger().Balanced(); err != nil {
			t.Fatal(err)
		}
		b.reopen()
	}
	l := b.Ledger()
	if n := uint64(len(steps(t, b.Spool, spool.StepShed, spool.StepFolded, spool.StepEpoch))); l.Chain.Steps <= n || len(steps(t, b.Spool, spool.StepFolded)) == 0 {
		t.Errorf("%d of %d steps are kept", n, l.Chain.Steps)
	}
	var sum uint64
	for _, s := range l.Sources {
		sum += s.Shed
	}
	if sum != rounds*sources || len(l.Sources) != 1200 {
		t.Errorf("%d shed of %d sources", sum, len(l.Sources))
	}
	b.close()
	for _, statement := range []string{
		"UPDATE ledger_sums SET count = count + 1 WHERE who = 'device-7'",
		"DELETE FROM ledger_sums WHERE who = 'device-7'",
		"DELETE FROM ledger WHERE id = (SELECT min(id) FROM ledger)",
		"DELETE FROM ledger WHERE kind = 'folded'",
	} {
		dir := copyTree(t, b.dir)
		edit(t, filepath.Join(dir, "state.db"), statement)
		r, err := spool.ReadLedger(t.Context(), dir)
		if err != nil || r.Ledger.Chain.Broken == "" {
			t.Errorf("%s: %v, %q", statement, err, r.Ledger.Chain.Broken)
		}
	}
}

// blocked lets nothing be removed from a directory of a log.
type blocked struct{ on atomic.Bool }

func (b *blocked) Before(op spool.DiskOp) error {
	if b.on.Load() && op.Op == "remove" && strings.HasSuffix(op.Path, ".seg") {
		return errors.New("no")
	}
	return nil
}

func (*blocked) After(spool.DiskOp) {}

// A removal is entered before it is done. What a crash leaves between the two
// is put right at the next opening, either way.
func TestACrashBetweenTheStepAndTheRemoval(t *testing.T) {
	hold := &blocked{}
	hold.on.Store(true)
	b := newBox(t, spool.Config{NoPacking: true, Quota: 16 << 20}, spool.Seam{Disk: hold})
	st := b.stream(spool.StreamConfig{Name: "mqtt", MaxBytes: 1 << 20})
	for firstKept(st) == 1 {
		fill(t, st, 2, 50<<10)
	}
	stuck := firstKept(st)
	eventually(t, "all is sealed", func() bool { return spool.Sealed(st) })
	crashed := copyTree(t, b.dir) // as a kill would leave it
	hold.on.Store(false)
	spool.Keep(b.Spool)
	b.close()

	s, err := spool.Open(t.Context(), crashed, spool.Config{Quota: 16 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all := steps(t, s, spool.StepDropped, spool.StepKept)
	if len(all) < 2 || all[len(all)-1].Kind != spool.StepKept || all[len(all)-1].Past != stuck {
		t.Errorf("steps %+v", all)
	}
	if err := s.Ledger().Balanced(); err != nil {
		t.Error(err)
	}

	files, err := spool.SegmentFiles(filepath.Join(b.dir, "log-00001"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.Remove(files[0]); err != nil { // by another hand
		t.Fatal(err)
	}
	b.open()
	st, _ = b.Stream("mqtt")
	gone := steps(t, b.Spool, spool.StepGone)
	if len(gone) != 1 || gone[0].Past != firstKept(st) || !has(b.Spool, "ledger") {
		t.Errorf("steps %+v, conditions %+v", gone, b.Stats().Conditions)
	}
}

func TestADroppedCursorStandsInTheLedger(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	other := b.stream(spool.StreamConfig{Name: "other"})
	c := cursor(t, st, "old", spool.Oldest())
	cursor(t, other, "old", spool.Oldest())
	fill(t, st, 10, 10)
	batch, err := c.Next(t.Context(), 4)
	if err == nil {
		err = c.Commit(batch.Next-1, record.Tally{Delivered: 3, Refused: 1})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DropCursor(t.Context(), "old", "kim"); !errors.Is(err, record.ErrInUse) {
		t.Errorf("a cursor in use: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := st.DropCursor(t.Context(), "none", "kim"); !errors.Is(err, record.ErrNoCursor) {
		t.Errorf("no cursor: %v", err)
	}
	if err := st.DropCursor(t.Context(), "old", "kim"); err != nil {
		t.Fatal(err)
	}
	d := steps(t, b.Spool, spool.StepCursorDropped)
	if len(d) != 1 || d[0].Who != "old" || d[0].First != 5 || d[0].Past != 11 || d[0].Count != 6 || !strings.Contains(d[0].Reason, "by kim") {
		t.Errorf("steps %+v", d)
	}
	if l := b.Ledger(); len(l.Cursors) != 1 || l.Cursors[0].Stream != "other" {
		t.Errorf("cursors %+v", l.Cursors)
	}
	// The same name again begins anew, and the ledger keeps both.
	c = cursor(t, st, "old", spool.Oldest())
	if batch, err = c.Next(t.Context(), 4); err == nil {
		err = c.Commit(batch.Next-1, record.Tally{Delivered: 2, Refused: 2})
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := line(t, b.Spool, "old", "mqtt"); got.Refused != 2 {
		t.Errorf("%+v", got)
	}
	b.reopen()
	if got := line(t, b.Spool, "old", "mqtt"); got.Refused != 2 || got.Pending != 6 {
		t.Errorf("%+v", got)
	}
}

// unpack makes a directory of a .tar.gz.
func unpack(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir, tr := t.TempDir(), tar.NewReader(z)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(to, 0o750)
		} else {
			var b []byte
			if b, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(to, b, 0o640)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A spool of version 1, written by the program of that version, opens with all
// it had; its state.db is backed up and changed in one step.
func TestVersion1IsTakenOver(t *testing.T) {
	dir := unpack(t, "testdata/v1.tar.gz")
	old, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	report, err := spool.Check(t.Context(), dir)
	if err != nil || len(report.Problems) != 1 { // the damaged block
		t.Errorf("check: %+v, %v", report, err)
	}
	r, err := spool.ReadLedger(t.Context(), dir)
	if err != nil || r.Ledger.Balanced() != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if after := tree(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("reading changed it")
	}

	full := &blocked{}
	boom := errors.New("no")
	for _, op := range []string{"create", "write", "sync", "rename"} {
		failed := copyTree(t, dir)
		_, err := spool.OpenWith(t.Context(), failed, spool.Config{}, nil, spool.Seam{Disk: &failing{op: op, path: filepath.Join(failed, "state.db.v1"), err: boom}})
		if !errors.Is(err, boom) {
			t.Errorf("%s of the backup failed: %v", op, err)
		}
		s, err := spool.OpenWith(t.Context(), failed, spool.Config{}, nil, spool.Seam{Disk: full})
		if err != nil {
			t.Fatalf("after a failed %s: %v", op, err)
		}
		if err := errors.Join(s.Ledger().Balanced(), s.Close()); err != nil {
			t.Errorf("after a failed %s: %v", op, err)
		}
	}

	b := &box{t: t, dir: dir, cfg: spool.Config{Quota: 8 << 20}, damage: true}
	b.open()
	t.Cleanup(b.finish)
	copied, err := os.ReadFile(filepath.Join(dir, "state.db.v1"))
	if err != nil || string(copied) != string(old) {
		t.Errorf("the backup is not the old file: %v", err)
	}
	if got := line(t, b.Spool, "cloud", "mqtt"); got.In != 200 || got.Delivered != 16 || got.Refused != 4 || got.Expired != 170 || got.Pending != 10 {
		t.Errorf("%+v", got)
	}
	want := spool.StreamLedger{Stream: "mqtt", In: 200, Kept: 25, Expired: 170, Corrupt: 5}
	if l := b.Ledger(); l.Streams[1] != want || l.Sources[0].Shed != 7 || l.Sources[0].Taken != 200 {
		t.Errorf("%+v", l)
	}
	sums := map[string]uint64{}
	for _, st := range steps(t, b.Spool, spool.StepEpoch, spool.StepExpired, spool.StepShed, spool.StepRefused, spool.StepCorrupt) {
		sums[st.Kind] += st.Count
		if !strings.Contains(st.Reason, "ledger beg") {
			t.Errorf("%+v", st)
		}
	}
	if sums[spool.StepExpired] != 170 || sums[spool.StepShed] != 7 || sums[spool.StepRefused] != 4 || sums[spool.StepCorrupt] != 5 {
		t.Errorf("%v", sums)
	}
	st, _ := b.Stream("mqtt")
	fill(t, st, 3, 10)
	n := b.Ledger().Chain.Steps
	b.reopen()
	if got := b.Ledger().Chain.Steps; got != n {
		t.Errorf("%d steps, were %d: it was taken over twice", got, n)
	}
}

// failing lets one kind of step on one path fail.
type failing struct {
	op, path string
	err      error
}

func (f *failing) Before(op spool.DiskOp) error {
	if op.Op == f.op && strings.HasPrefix(op.Path, f.path) {
		return f.err
	}
	return nil
}

func (*failing) After(spool.DiskOp) {}
