package spool

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"forebay/spool/faultdisk"
	"forebay/spool/record"
)

// Seam lets a test make commits, syncs and the disk's size answer as it likes.
// A nil function is the system's own.
type Seam struct {
	VFS    string       // SQLite VFS that databases are written through
	Commit func() error // before the real commit
	Sync   func() error // before the real sync of a plain file
	Space  func() (total, free int64)
	Mono   func() time.Duration // a clock that nobody sets
	Synced func() bool          // whether the system vouches for the wall clock
	Boot   func() (record.BootID, time.Duration)
	// Disk is asked before every other change of a file or a name that SQLite
	// does not make, and told of it afterwards.
	Disk   DiskSpy
	faults *faultdisk.Disk // see Faults
}

// A DiskSpy sees what a spool does to files by itself. Before may refuse the
// step by an error; After is called when it was done. data belongs to the
// spool.
type DiskSpy interface {
	Before(op DiskOp) error
	After(op DiskOp)
}

// A DiskOp is one step: create, write, sync, truncate, allocate, remove,
// rename, mkdir or syncdir.
type DiskOp struct {
	Op   string
	Path string
	To   string // of a rename
	Off  int64  // of a write, or the size of a truncate or an allocate
	Data []byte
}

type spiedDisk struct {
	systemDisk
	spy DiskSpy
}

type spiedFile struct {
	diskFile
	path string
	spy  DiskSpy
}

func spied(spy DiskSpy, op DiskOp, do func() error) error {
	if err := spy.Before(op); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	spy.After(op)
	return nil
}

func (d spiedDisk) open(path string, flag int, perm fs.FileMode) (diskFile, error) {
	var f diskFile
	open := func() (err error) {
		f, err = d.systemDisk.open(path, flag, perm)
		return err
	}
	there, err := exists(path)
	if err != nil {
		return nil, err
	}
	switch {
	case !there && flag&os.O_CREATE != 0:
		err = spied(d.spy, DiskOp{Op: "create", Path: path}, open)
	case flag&os.O_TRUNC != 0:
		err = spied(d.spy, DiskOp{Op: "truncate", Path: path}, open)
	default:
		err = open()
	}
	if err != nil {
		return nil, err
	}
	return spiedFile{f, path, d.spy}, nil
}

func (d spiedDisk) remove(path string) error {
	if there, err := exists(path); err != nil || !there {
		return errors.Join(err, d.systemDisk.remove(path))
	}
	return spied(d.spy, DiskOp{Op: "remove", Path: path}, func() error { return d.systemDisk.remove(path) })
}

func (d spiedDisk) rename(from, to string) error {
	return spied(d.spy, DiskOp{Op: "rename", Path: from, To: to}, func() error { return d.systemDisk.rename(from, to) })
}

func (d spiedDisk) mkdir(path string) error {
	return spied(d.spy, DiskOp{Op: "mkdir", Path: path}, func() error { return d.systemDisk.mkdir(path) })
}

func (d spiedDisk) syncDir(path string) error {
	return spied(d.spy, DiskOp{Op: "syncdir", Path: path}, func() error { return d.systemDisk.syncDir(path) })
}

func (f spiedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = spied(f.spy, DiskOp{Op: "write", Path: f.path, Off: off, Data: p}, func() error {
		n, err = f.diskFile.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f spiedFile) Truncate(n int64) error {
	return spied(f.spy, DiskOp{Op: "truncate", Path: f.path, Off: n}, func() error { return f.diskFile.Truncate(n) })
}

func (f spiedFile) sync() error {
	return spied(f.spy, DiskOp{Op: "sync", Path: f.path}, f.diskFile.sync)
}

func (f spiedFile) allocate(n int64) error {
	return spied(f.spy, DiskOp{Op: "allocate", Path: f.path, Off: n}, func() error { return f.diskFile.allocate(n) })
}

// syncHook lets a test refuse the syncs of plain files.
type syncHook struct{ hook func() error }

func (h syncHook) Before(op DiskOp) error {
	if op.Op == "sync" {
		return h.hook()
	}
	return nil
}

func (syncHook) After(DiskOp) {}

// OpenWith is Open with a seam.
func OpenWith(ctx context.Context, dir string, cfg Config, log *slog.Logger, f Seam) (*Spool, error) {
	sm, system := systemSeam(), systemSeam()
	if f.Commit != nil {
		sm.commit = func(ctx context.Context, db *database) error {
			if err := f.Commit(); err != nil {
				return err
			}
			return system.commit(ctx, db)
		}
	}
	sm.vfs = f.VFS
	if f.Sync != nil {
		sm.disk = spiedDisk{spy: syncHook{f.Sync}}
	}
	if f.faults != nil {
		sm.disk = faulty{f.faults}
	}
	if f.Disk != nil {
		sm.disk = spiedDisk{spy: f.Disk}
	}
	if f.Mono != nil {
		sm.time.mono = f.Mono
	}
	if f.Synced != nil {
		sm.time.synced = f.Synced
	}
	if f.Boot != nil {
		sm.time.boot = f.Boot
	}
	if f.Space != nil {
		sm.space = func(string) (int64, int64, error) {
			total, free := f.Space()
			return total, free, nil
		}
	}
	return open(ctx, dir, cfg, log, sm)
}

// Keep makes one pass of retention now.
func Keep(s *Spool) { s.keep(context.Background()) }

// Roll closes the active segment of the stream's log now.
func Roll(t *Stream) error {
	t.log.lockEmpty()
	defer t.log.wmu.Unlock()
	return t.log.rollNow()
}

// DropCache forgets the blocks in memory, so that readers go to the files.
func DropCache(t *Stream) {
	l := t.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cached, l.cachedLen = nil, 0
	for _, sh := range l.slots {
		sh.tail = nil
	}
}

// LogDir is where the stream's segments lie.
func LogDir(t *Stream) string { return t.log.dir }

// SegmentFiles lists the segments in a log's directory.
func SegmentFiles(dir string) ([]string, error) {
	nums, err := listSegments(dir)
	var out []string
	for _, n := range nums {
		out = append(out, filepath.Join(dir, segmentFile(n)))
	}
	return out, err
}

// Sealed waits for nothing: it reports whether all but the active segment are
// sealed.
func Sealed(t *Stream) bool {
	segs := t.log.segments()
	for _, s := range segs[:len(segs)-1] {
		if !s.sealed.Load() {
			return false
		}
	}
	return true
}

// DecodeBlock decodes a block and all its records, and returns their number.
func DecodeBlock(head, body []byte) (int, error) {
	b, err := decodeHead(head)
	if err != nil {
		return 0, err
	}
	return decodeBody(b, body, true)
}

// DecodeBlockUnchecked is DecodeBlock without the body's checksum, so that
// damage reaches the record decoder.
func DecodeBlockUnchecked(head, body []byte) (int, error) {
	fixed := append([]byte(nil), head...)
	if len(fixed) >= headFixed {
		putHeadCRC(fixed)
	}
	b, err := decodeHead(fixed)
	if err != nil {
		return 0, err
	}
	return decodeBody(b, body, false)
}

// IsFull reports whether the stream's log holds producers back.
func IsFull(t *Stream) bool { return t.log.full.Load() }

// Barrier waits until no commit of the stream's log is under way.
func Barrier(t *Stream) {
	t.log.lockEmpty()
	defer t.log.wmu.Unlock()
}

// Datasync is how the spool makes a plain file durable.
func Datasync(f *os.File) error { return datasync(f) }

// Waiting is how many appends wait for room in the queue of the stream's log.
func Waiting(t *Stream) int {
	t.log.qmu.Lock()
	defer t.log.qmu.Unlock()
	return len(t.log.waiting)
}

// FullIn is in how long a figure that was noted every step reaches the limit,
// in words; empty where that cannot be told.
func FullIn(step time.Duration, bytes []int64, limit int64) string {
	var g growth
	at := time.Time{}.Add(time.Hour)
	for _, n := range bytes {
		at = at.Add(step)
		g.add(at, n)
	}
	d, ok := g.reaches(at, bytes[len(bytes)-1], limit)
	if !ok {
		return ""
	}
	return about(d)
}

// MakeAhead makes the files of the next segment now.
func MakeAhead(t *Stream, seg string) { t.log.ahead.make(t.log, seg, true) }

// DeleteAndSweep deletes a stream, finds that its log's oldest segment may go,
// lets something happen and removes it.
func DeleteAndSweep(t *testing.T, s *Spool, st *Stream, between func()) {
	t.Helper()
	s.roomMu.Lock() // the keeper must not be first
	if err := s.Delete(context.Background(), st.name, ""); err != nil {
		t.Fatal(err)
	}
	judged, _ := st.log.oldest()
	if dead, err := st.log.oldestDead(context.Background()); !dead || err != nil {
		t.Fatalf("the segment may not go: %v", err)
	}
	s.roomMu.Unlock()
	between()
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	s.removeOldest(context.Background(), st.log, judged, s.state.mins(), removal{StepDeleted, "the stream was deleted"})
}

// ForgetRead drops what was read for the stream's readers, as an erasure does.
func ForgetRead(t *Stream) { t.log.forgetCached() }

// Again counts the cursors of which state.db says that they began again.
func Again(s *Spool) (n int) {
	err := s.state.db.QueryRowContext(context.Background(), "SELECT count(*) FROM meta WHERE key LIKE 'again %'").Scan(&n)
	if err != nil {
		return -1
	}
	return n
}
