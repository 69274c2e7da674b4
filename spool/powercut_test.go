//go:build powercut && linux

package spool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forebay/spool"
	"forebay/spool/record"
)

// These tests need root: they mount file systems of their own. `make powercut`
// runs them.

// shutdown is EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: from now on
// nothing reaches the device, neither data nor the journal
// (include/uapi/linux/ext4.h).
const (
	shutdown        = 0x8004587d
	shutdownNoFlush = 2
)

// A volume is an ext4 file system in a file.
type volume struct {
	t     *testing.T
	image string
	dir   string
	opts  string
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func newVolume(t *testing.T, size int64, mountOpts string, mkfs ...string) *volume {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root")
	}
	base := t.TempDir()
	v := &volume{t: t, image: filepath.Join(base, "image"), dir: filepath.Join(base, "mount"), opts: mountOpts}
	if err := errors.Join(os.WriteFile(v.image, nil, 0o600), os.Truncate(v.image, size), os.Mkdir(v.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", append(append([]string{"-q", "-F"}, mkfs...), v.image)...)
	v.mount()
	t.Cleanup(func() { _ = exec.CommandContext(context.Background(), "umount", v.dir).Run() })
	return v
}

func (v *volume) mount() {
	opts := "loop"
	if v.opts != "" {
		opts += "," + v.opts
	}
	command(v.t, "mount", "-o", opts, v.image, v.dir)
}

// unmount waits for those who still hold files.
func (v *volume) unmount() {
	v.t.Helper()
	eventually(v.t, "the volume is unmounted", func() bool { return unix.Unmount(v.dir, 0) == nil })
}

// cut takes the power away.
func (v *volume) cut() error {
	f, err := os.Open(v.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	flag := uint32(shutdownNoFlush)
	return unix.IoctlSetPointerInt(int(f.Fd()), shutdown, int(flag))
}

// An ackLog is what a child said so far.
type ackLog struct {
	mu    sync.Mutex
	lines []string
	over  bool // what comes later does not count
	err   string
}

func (a *ackLog) read(lines *bufio.Scanner) {
	for lines.Scan() {
		a.mu.Lock()
		switch {
		case a.over:
		case strings.HasPrefix(lines.Text(), "error"):
			a.err = lines.Text()
		default:
			a.lines = append(a.lines, lines.Text())
		}
		a.mu.Unlock()
	}
}

// cutRound lets a child write into the volume until the power goes, and
// returns what it had acknowledged before.
func (v *volume) cutRound(kind string, wait time.Duration) []string {
	v.t.Helper()
	cmd, lines, _ := startChild(v.t, kind, filepath.Join(v.dir, "spool"))
	var acks ackLog
	var reader sync.WaitGroup
	reader.Go(func() { acks.read(lines) })
	// The moment of the cut is what is drawn by lot: nothing waits for it.
	<-time.After(wait)
	acks.mu.Lock()
	acks.over = true
	err := v.cut()
	acks.mu.Unlock()
	_ = cmd.Process.Kill()
	reader.Wait()
	_ = cmd.Wait()
	if err != nil || acks.err != "" {
		v.t.Fatalf("cut: %v; the child says %q", err, acks.err)
	}
	v.unmount()
	v.mount()
	return acks.lines
}

func noteAcks(t *testing.T, lines []string, acked map[record.Pos]bool, lastSeq map[string]uint64) {
	t.Helper()
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "ack" {
			continue
		}
		seq, err := strconv.ParseUint(f[2], 10, 64)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
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
}

// A power cut loses nothing that was acknowledged before it.
func TestPowerCutsLoseNothingAcknowledged(t *testing.T) {
	rounds := number(t, "FOREBAY_POWER_CUTS", 6)
	v := newVolume(t, 256<<20, "")
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 3))
	acked, lastSeq := map[record.Pos]bool{}, map[string]uint64{}
	for round := range rounds {
		lines := v.cutRound("write", time.Duration(200+rng.IntN(500))*time.Millisecond)
		noteAcks(t, lines, acked, lastSeq)
		verifyAfterKill(t, filepath.Join(v.dir, "spool"), acked, lastSeq)
		if t.Failed() {
			t.Fatalf("after cut %d", round+1)
		}
	}
	if len(acked) < rounds*10 {
		t.Fatalf("only %d records were acknowledged; the test shows nothing", len(acked))
	}
	t.Logf("%d power cuts on ext4, %d records acknowledged before them: 0 lost, 0 torn, order kept, ledger balanced, check clean %d/%d", rounds, len(acked), rounds, rounds)
}

// The control: without the sync of every commit, which is what
// synchronous=NORMAL means, cuts must lose something, or the test above is
// blind.
func TestPowerCutsAreNotBlind(t *testing.T) {
	const most = 12
	for n := range most {
		v := newVolume(t, 256<<20, "")
		lines := v.cutRound("unsynced", time.Second)
		acked, lastSeq := map[record.Pos]bool{}, map[string]uint64{}
		noteAcks(t, lines, acked, lastSeq)
		lost := lostOf(t, filepath.Join(v.dir, "spool"), acked)
		v.unmount()
		if lost > 0 {
			t.Logf("control without syncs: cut %d lost %d of %d acknowledged records", n+1, lost, len(acked))
			return
		}
	}
	t.Errorf("%d cuts without syncs lost nothing: the harness is blind", most)
}

func lostOf(t *testing.T, dir string, acked map[record.Pos]bool) int {
	t.Helper()
	s, err := spool.Open(t.Context(), dir, spool.Config{Segment: 256 << 10, Quota: 64 << 20}, nil)
	if err != nil {
		return len(acked) // not even that
	}
	defer s.Close()
	found, first := map[record.Pos]bool{}, map[record.ShardID]uint64{}
	for _, st := range s.Streams() {
		for _, sh := range st.Shards() {
			first[sh.ID] = sh.First
			for b, err := range st.Scan(t.Context(), sh.ID, spool.Oldest()) {
				if err != nil {
					continue
				}
				for _, r := range b.Recs {
					found[r.Pos] = true
				}
			}
		}
	}
	lost := 0
	for p := range acked {
		if p.Seq >= first[p.Shard] && !found[p] {
			lost++
		}
	}
	return lost
}

// load puts records until it is told to stop; it keeps what was acknowledged
// and how long ago the last one was.
type load struct {
	*truth
	stop    chan struct{}
	parts   sync.WaitGroup
	stored  atomic.Int64
	refused atomic.Int64
	mu      sync.Mutex
	last    error // of the latest refusal
}

func startLoad(s *spool.Spool, streams ...*spool.Stream) *load {
	l := &load{truth: newTruth(), stop: make(chan struct{})}
	for i, st := range streams {
		l.parts.Go(func() { l.produce(s, st, rand.New(rand.NewPCG(9, uint64(i)))) })
	}
	return l
}

func (l *load) produce(s *spool.Spool, st *spool.Stream, rng *rand.Rand) {
	source := "to-" + st.Name()
	seq := s.SourceSeq(source)
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		seq++
		r := record.Record{Key: "k", Source: source, SourceSeq: seq, Data: noise(rng, 100+rng.IntN(2000))}
		res, err := st.Put(context.Background(), []record.Record{r})
		if err == nil {
			_, err = l.took([]record.Record{r}, []uint64{fingerprint(&r, nil)}, res)
		}
		if err == nil {
			l.stored.Add(1)
			continue
		}
		seq--
		l.refused.Add(1)
		l.mu.Lock()
		l.last = err
		l.mu.Unlock()
		select { // as a producer that is told to come again
		case <-l.stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (l *load) end() {
	close(l.stop)
	l.parts.Wait()
}

func (l *load) lastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// verify closes nothing and opens the closed spool again: all that was
// acknowledged is there.
func (l *load) verify(t *testing.T, dir string, cfg spool.Config) {
	t.Helper()
	h := newHistory(l.truth, nil)
	for pos := range l.recs {
		h.acked[pos.Shard] = []step{{0, max(pos.Seq, after(h.acked[pos.Shard], 0))}}
		h.first[pos.Shard] = []step{{0, 1 << 62}}
	}
	if err := h.verify(t.Context(), dir, cfg, 1); err != nil {
		t.Error(err)
	}
}

// within waits and says how long it took.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, what, ok)
	took := time.Since(began)
	if took > limit {
		t.Errorf("%s: it took %v, at most %v is promised", what, took, limit)
	}
	return took.Round(time.Millisecond)
}

// balloon fills what is free on the volume.
func (v *volume) balloon() string {
	v.t.Helper()
	path := filepath.Join(v.dir, "balloon")
	f, err := os.Create(path)
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for len(chunk) > 0 {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	return path
}

// A disk that somebody else fills while records come in: nothing acknowledged
// is lost, an alarm stands, and it goes on by itself.
func TestAFullDiskUnderLoad(t *testing.T) {
	hold := time.Duration(number(t, "FOREBAY_FULL_SECONDS", 5)) * time.Second
	v := newVolume(t, 96<<20, "")
	dir, cfg := filepath.Join(v.dir, "spool"), spool.Config{Quota: 48 << 20, FreeFloor: 1, Segment: 1 << 20}
	s, err := spool.Open(t.Context(), dir, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	alarms, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "alarms", Class: record.ClassAlarm})
	if err != nil {
		t.Fatal(err)
	}
	mqtt, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt", Shards: 2, MaxBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	l := startLoad(s, mqtt, alarms)
	eventually(t, "records come in", func() bool { return l.stored.Load() > 200 })
	balloon := v.balloon()
	alarm := within(t, 10*time.Second, "the alarm stands", func() bool { v.topUp(balloon); return has(s, "full") })
	end := time.Now().Add(hold)
	for time.Now().Before(end) { // whatever the spool lets go is taken too
		v.topUp(balloon)
		<-time.After(100 * time.Millisecond)
	}
	at := l.stored.Load()
	if err := os.Remove(balloon); err != nil {
		t.Fatal(err)
	}
	resumed := within(t, 5*time.Second, "both streams go on", func() bool { return l.stored.Load() > at+200 })
	eventually(t, "the alarm goes", func() bool { return !has(s, "full") })
	l.end()
	if !errors.Is(l.lastError(), record.ErrFull) {
		t.Errorf("producers were told %v", l.lastError())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	l.verify(t, dir, cfg)
	t.Logf("disk full for %v under load: %d records acknowledged, 0 lost; alarm after %v, on again after %v, no restart", hold, l.stored.Load(), alarm, resumed)
}

// topUp takes what has come free on the volume.
func (v *volume) topUp(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		v.t.Error(err)
		return
	}
	defer f.Close()
	for n := 64 << 10; n > 0; {
		if _, err := f.Write(make([]byte, n)); err != nil {
			n /= 2
		}
	}
}

// The file system turns read-only under load, as ext4 does on an error of the
// disk: reads go on, nothing is acknowledged, and after a repair all is there.
func TestAFileSystemThatTurnsReadOnly(t *testing.T) {
	v := newVolume(t, 96<<20, "errors=remount-ro")
	dir, cfg := filepath.Join(v.dir, "spool"), spool.Config{Quota: 48 << 20, FreeFloor: 1, Segment: 1 << 20}
	s, err := spool.Open(t.Context(), dir, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt"})
	if err != nil {
		t.Fatal(err)
	}
	l := startLoad(s, st)
	eventually(t, "records come in", func() bool { return l.stored.Load() > 300 })
	v.breakFS()
	eventually(t, "nothing is taken any more", func() bool { return l.refused.Load() > 3 })
	at, refused := l.stored.Load(), l.refused.Load()
	eventually(t, "producers try again", func() bool { return l.refused.Load() > refused+20 })
	if now := l.stored.Load(); now != at {
		t.Errorf("%d records were acknowledged on a read-only file system", now-at)
	}
	if err := l.lastError(); !errors.Is(err, record.ErrReadOnly) {
		t.Errorf("producers were told %v", err)
	}
	if !has(s, "read-only") || !s.Stats().ReadOnly {
		t.Errorf("no condition: %+v", s.Stats().Conditions)
	}
	told := l.lastError()
	spool.DropCache(st)
	if recs, losses := scan(t, st, only(st), spool.Oldest()); int64(len(recs)) < at || len(losses) > 0 {
		t.Errorf("%d records can be read of %d, %v", len(recs), at, losses)
	}
	l.end()
	if err := s.Close(); err == nil {
		t.Log("closed in order on a read-only file system")
	}
	v.unmount()
	_ = exec.CommandContext(t.Context(), "e2fsck", "-fy", v.image).Run() // 1 says that it mended something
	v.mount()
	l.verify(t, dir, cfg)
	t.Logf("file system read-only under load: %d records acknowledged, 0 lost, all readable meanwhile; producers were told: %v", at, told)
}

// breakFS makes ext4 believe that it met an error.
func (v *volume) breakFS() {
	v.t.Helper()
	dev, err := exec.CommandContext(v.t.Context(), "findmnt", "-no", "SOURCE", v.dir).Output()
	if err == nil {
		err = os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(string(dev))), "trigger_fs_error"), []byte("1"), 0)
	}
	if err != nil {
		v.t.Fatal(err)
	}
}

// No file can be made any more: the log goes on in the segment that it has.
func TestAFullInodeTable(t *testing.T) {
	v := newVolume(t, 64<<20, "", "-N", "64")
	dir, cfg := filepath.Join(v.dir, "spool"), spool.Config{Quota: 48 << 20, FreeFloor: 1, Segment: 256 << 10}
	s, err := spool.Open(t.Context(), dir, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt"})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, st, 10, 100)
	var fillers []string
	for n := 0; ; n++ {
		name := filepath.Join(v.dir, fmt.Sprint("file", n))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		fillers = append(fillers, name)
	}
	l := startLoad(s, st)
	eventually(t, "the log wants a new segment and cannot have it", func() bool { return has(s, "segment") || l.refused.Load() > 0 })
	at := l.stored.Load()
	eventually(t, "it goes on in the old one", func() bool { return l.stored.Load() > at+50 })
	for _, name := range fillers {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the condition goes", func() bool { return !has(s, "segment") })
	l.end()
	refused := l.refused.Load()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	l.verify(t, dir, cfg)
	t.Logf("inode table full: %d records acknowledged, %d refused, 0 lost", l.stored.Load(), refused)
}

// A directory that belongs to somebody else is refused in words that name it.
func TestWrongPermissions(t *testing.T) {
	v := newVolume(t, 64<<20, "")
	binary := filepath.Join(v.dir, "child")
	b, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = errors.Join(os.WriteFile(binary, b, 0o755), os.Chmod(v.dir, 0o755), os.Chmod(filepath.Dir(v.dir), 0o755), os.Chmod(filepath.Dir(filepath.Dir(v.dir)), 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(v.dir, "spool")
	s, err := spool.Open(t.Context(), dir, spool.Config{Quota: 16 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt"})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, st, 5, 100)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"nothing may be read": 0o700, "nothing may be written": 0o755} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), binary, "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"=hold "+dir)
		cmd.Dir = v.dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), dir) || !strings.Contains(string(out), "permission denied") || strings.Contains(string(out), "panic") {
			t.Errorf("%s: %v: %s", name, err, out)
		} else {
			t.Logf("%s: %s", name, strings.TrimSpace(string(out)))
		}
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := checkClean(t.Context(), dir); err != nil {
		t.Error(err)
	}
}
