package spool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/faultdisk"
	"forebay/spool/record"
)

// childDir tells the re-executed test binary what to do: "KIND DIR".
const childEnv = "FOREBAY_SPOOL_TEST_CHILD"

func TestMain(m *testing.M) {
	if kind, dir, ok := strings.Cut(os.Getenv(childEnv), " "); ok {
		if err := child(kind, dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child is the process that is killed. It prints a line per acknowledged batch.
func child(kind, dir string) error {
	ctx := context.Background()
	if kind == "golden" {
		return goldenChild(ctx, dir)
	}
	var seam spool.Seam
	if kind == "unsynced" { // as synchronous=NORMAL would be: a control
		d, err := faultdisk.New(false)
		if err != nil {
			return err
		}
		d.SetLies(func(e faultdisk.Event) bool { return strings.HasSuffix(e.Path, ".seg-wal") })
		seam = spool.Faults(d)
	}
	s, err := spool.OpenWith(ctx, dir, spool.Config{Segment: 256 << 10, Quota: 64 << 20}, nil, seam)
	if err != nil {
		return err
	}
	if kind == "hold" {
		fmt.Println("open")
		_, _ = io.ReadAll(os.Stdin) // until the parent lets go
		return s.Close()
	}
	st, err := s.Ensure(ctx, spool.StreamConfig{Name: "mqtt", Shards: 4})
	if err != nil {
		return err
	}
	video, err := s.Ensure(ctx, spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	if err != nil {
		return err
	}
	go consume(ctx, st)
	errs := make(chan error, 4)
	for p := range 3 {
		go func() { errs <- produce(ctx, s, st, fmt.Sprint("p", p)) }()
	}
	go func() { errs <- produce(ctx, s, video, "camera") }()
	return <-errs
}

func produce(ctx context.Context, s *spool.Spool, st *spool.Stream, source string) error {
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	seq := s.SourceSeq(source)
	for {
		var recs []record.Record
		for range 1 + rng.IntN(60) {
			seq++
			r := record.Record{Key: fmt.Sprint(source, seq%7), Source: source, SourceSeq: seq, Data: make([]byte, rng.IntN(900))}
			if source == "camera" {
				r.Blob = make([]byte, 1+rng.IntN(20_000))
			}
			recs = append(recs, r)
		}
		res, err := st.Put(ctx, recs)
		if err != nil {
			return err
		}
		var out strings.Builder
		for _, r := range res {
			if r.Err != nil {
				return r.Err
			}
			fmt.Fprintf(&out, " %d:%d", r.Pos.Shard, r.Pos.Seq)
		}
		// One write a line: what the parent reads was acknowledged.
		fmt.Printf("ack %s %d%s\n", source, seq, out.String())
	}
}

// consume moves a cursor along, as an uplink does.
func consume(ctx context.Context, st *spool.Stream) {
	for _, sh := range st.Shards()[:2] {
		go func() {
			c, err := st.Cursor(ctx, "uplink", sh.ID, spool.Oldest())
			if err != nil {
				fmt.Println("error", err)
				return
			}
			for {
				b, err := c.Next(ctx, 50)
				if err == nil {
					err = c.Commit(b.Next-1, record.Tally{Delivered: uint64(len(b.Recs) - 1), Filtered: 1})
				}
				if err != nil {
					fmt.Println("error", err)
					return
				}
			}
		}()
	}
}

func startChild(t *testing.T, kind, dir string) (*exec.Cmd, *bufio.Scanner, io.WriteCloser) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+kind+" "+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return cmd, lines, in
}

func TestKill9LosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acked := map[record.Pos]bool{}
	lastSeq := map[string]uint64{}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	rounds := 8
	if s := os.Getenv("FOREBAY_CRASH_ROUNDS"); s != "" { // make crash
		var err error
		if rounds, err = strconv.Atoi(s); err != nil || rounds < 1 {
			t.Fatalf("FOREBAY_CRASH_ROUNDS is %q", s)
		}
	}
	for round := range rounds {
		cmd, lines, _ := startChild(t, "write", dir)
		kill := time.AfterFunc(time.Duration(150+rng.IntN(250))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for lines.Scan() {
			line := lines.Text()
			if strings.HasPrefix(line, "error") {
				t.Fatalf("round %d: the child says: %s", round, line)
			}
			f := strings.Fields(line)
			if len(f) < 4 || f[0] != "ack" || !strings.HasSuffix(line, f[len(f)-1]) {
				continue
			}
			seq, _ := strconv.ParseUint(f[2], 10, 64)
			lastSeq[f[1]] = max(lastSeq[f[1]], seq)
			for _, p := range f[3:] {
				var pos record.Pos
				if _, err := fmt.Sscanf(p, "%d:%d", &pos.Shard, &pos.Seq); err != nil {
					t.Fatalf("line %q: %v", line, err)
				}
				if acked[pos] {
					t.Fatalf("position %v was given twice", pos)
				}
				acked[pos] = true
			}
		}
		kill.Stop()
		_ = cmd.Wait() // killed
		verifyAfterKill(t, dir, acked, lastSeq)
		if t.Failed() {
			t.Fatalf("after round %d", round)
		}
	}
	if len(acked) < rounds*10 {
		t.Fatalf("only %d records were acknowledged; the test shows nothing", len(acked))
	}
	t.Logf("%d rounds, %d records acknowledged, none lost", rounds, len(acked))
}

func verifyAfterKill(t *testing.T, dir string, acked map[record.Pos]bool, lastSeq map[string]uint64) {
	t.Helper()
	report, err := spool.Check(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) > 0 {
		t.Fatalf("check right after the kill: %s", strings.Join(report.Problems, "\n"))
	}
	s, err := spool.Open(t.Context(), dir, spool.Config{Segment: 256 << 10, Quota: 64 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ledger().Balanced(); err != nil {
		t.Error(err)
	}
	found := map[record.Pos]bool{}
	first := map[record.ShardID]uint64{}
	for _, st := range s.Streams() {
		for _, sh := range st.Shards() {
			first[sh.ID] = sh.First
			recs, losses := scan(t, st, sh.ID, spool.Oldest())
			if len(losses) > 0 {
				t.Errorf("shard %d: %v", sh.ID, losses)
			}
			for _, r := range recs {
				found[r.Pos] = true
			}
		}
	}
	for p := range acked {
		if p.Seq >= first[p.Shard] && !found[p] {
			t.Fatalf("acknowledged record %v is lost", p)
		}
	}
	for source, seq := range lastSeq {
		if got := s.SourceSeq(source); got < seq {
			t.Errorf("source %s goes on at %d, but %d was acknowledged", source, got, seq)
		}
	}
}

func TestASecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	cmd, lines, in := startChild(t, "hold", dir)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("the child says %q", lines.Text())
	}
	_, err := spool.Open(t.Context(), dir, spool.Config{}, nil)
	locked, ok := errors.AsType[*spool.LockedError](err)
	if !ok || locked.PID != cmd.Process.Pid {
		t.Errorf("open answers %v; the owner is %d", err, cmd.Process.Pid)
	}
	_, err = spool.Check(t.Context(), dir)
	if locked, ok = errors.AsType[*spool.LockedError](err); !ok || locked.PID != cmd.Process.Pid {
		t.Errorf("check answers %v; the owner is %d", err, cmd.Process.Pid)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(t.Context(), dir, spool.Config{}, nil)
	if err != nil {
		t.Fatalf("after it ended: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A crash between the steps of making or removing a segment leaves files that
// the next opening puts in order.
func TestHalfDoneFilesAreCleanedUp(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 10, 100)
	dir := spool.LogDir(st)
	b.close()
	for _, name := range []string{"0000000002.seg.new", "0000000002.seg.new-wal", "0000000000.chunks", "0000000000.seg-wal", "0000000000.seg-shm"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("left over"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.open()
	st, _ = b.Stream("mqtt")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "0000000001.") {
			t.Errorf("%s is still there", e.Name())
		}
	}
	if recs, _ := scan(t, st, only(st), spool.Oldest()); len(recs) != 10 {
		t.Errorf("%d records", len(recs))
	}
}

// The WAL of a crashed spool cut or flipped at its tail: what is read is a
// prefix of what was written, without gaps.
func TestATornTailIsRepairedAtOpen(t *testing.T) {
	b := newBox(t, spool.Config{})
	for _, c := range []spool.StreamConfig{{Name: "mqtt", Shards: 4}, {Name: "video", Class: record.ClassVideo}} {
		st := b.stream(c)
		for i := range 200 {
			put(t, st, record.Record{Key: fmt.Sprint(i), Data: make([]byte, 300), Blob: make([]byte, i)})
		}
	}
	st, _ := b.Stream("mqtt")
	c := cursor(t, st, "up", spool.Oldest())
	batch, err := c.Next(t.Context(), 1000)
	if err == nil {
		err = c.Commit(batch.Next-1, record.Tally{Delivered: uint64(len(batch.Recs))})
	}
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir() // what a crash at this moment would leave
	if err := os.CopyFS(src, os.DirFS(b.dir)); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 8 {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(src)); err != nil {
			t.Fatal(err)
		}
		logs, err := filepath.Glob(filepath.Join(dir, "log-*"))
		if err != nil {
			t.Fatal(err)
		}
		torn := 0
		for _, l := range logs {
			// The active segment's WAL: those before it were all committed.
			segs, err := spool.SegmentFiles(l)
			if err != nil {
				t.Fatal(err)
			}
			w := segs[len(segs)-1] + "-wal"
			fi, err := os.Stat(w)
			if err != nil {
				t.Fatal(err)
			}
			torn++
			if round%2 == 0 {
				err = os.Truncate(w, fi.Size()-1-rng.Int64N(fi.Size()/4))
			} else {
				err = flip(w, fi.Size()-1-rng.Int64N(fi.Size()/4))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if torn != 2 {
			t.Fatalf("%d WALs were torn; the test shows nothing", torn)
		}
		s, err := spool.Open(t.Context(), dir, spool.Config{}, nil)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, st := range s.Streams() {
			put(t, st, record.Record{Key: "after", Data: []byte("after")})
			for _, sh := range st.Shards() {
				// What a cursor had passed and the tear took is a loss that is
				// told, and so is what a flip in a synced commit took.
				recs, losses := scan(t, st, sh.ID, spool.Oldest())
				flipped := round%2 == 1
				if len(losses) > 1 || len(losses) == 1 && !flipped && (st.Name() != "mqtt" || sh.Index != 0) || len(recs) < 10 {
					t.Errorf("round %d: stream %s: %d records, %v", round, st.Name(), len(recs), losses)
				}
			}
		}
		if err := s.Ledger().Balanced(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 0x55
	_, err = f.WriteAt(b[:], at)
	return err
}
