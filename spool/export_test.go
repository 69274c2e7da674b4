package spool

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Seam lets a test make commits, syncs and the disk's size answer as it likes.
// A nil function is the system's own.
type Seam struct {
	Commit func() error // before the real commit
	Sync   func() error // before the real sync of a chunk file
	Space  func() (total, free int64)
}

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
	if f.Sync != nil {
		sm.sync = func(file *os.File) error {
			if err := f.Sync(); err != nil {
				return err
			}
			return system.sync(file)
		}
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
	t.log.wmu.Lock()
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
	t.log.wmu.Lock()
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
