package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

const (
	// commitPages is what a commit takes beside its records, bytes.
	commitPages = 4 * segmentPageSize
	// emptyFile is about what a segment's file takes before its first block, bytes.
	emptyFile = 10 * segmentPageSize
	// maxReserve is what is kept for a full disk at most: it lets a few logs open
	// a segment, bytes.
	maxReserve = 16 << 20
	// minWAL is how much the WAL of a segment may hold at least, bytes.
	minWAL = 64 << 10
	// refusedFor is how long a refusal counts against what else is seen since.
	refusedFor = time.Minute
)

// short is how many bytes are missing for need more; 0 or less is enough.
func (s *Spool) short(need int64) int64 {
	if fileSize(filepath.Join(s.dir, "reserve")) < s.reserveBytes {
		need += s.reserveBytes
	}
	n := s.used.Load() + need - s.quota
	if _, free, err := s.seam.space(s.dir); err == nil { // where the disk does not tell, the quota still holds
		n = max(n, s.freeFloor()+need-free)
	}
	return n
}

// whyShort says which limit makes the spool short of need bytes.
func (s *Spool) whyShort(need int64) string {
	if _, free, err := s.seam.space(s.dir); err == nil && s.freeFloor()+need-free > s.used.Load()+need-s.quota {
		return fmt.Sprintf("to keep free_floor, %v, free on the disk", conf.Size(s.freeFloor()))
	}
	return fmt.Sprintf("to keep within quota, %v", conf.Size(s.quota))
}

// makeRoom sees to it that a log may write need bytes. record.ErrFull: even
// with all gone that may go for this log there would be no room, so nothing
// was dropped; the producers of the log are held back.
func (s *Spool) makeRoom(l *commitLog, need int64) error {
	maxBytes, asked := l.retention().maxBytes, need
	need += l.nextSegment(need)
	if s.short(need) <= 0 && (maxBytes == 0 || l.size()+need <= maxBytes) {
		return nil
	}
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	s.measure()
	missing := s.clearFor(context.Background(), l, s.state.mins(), need)
	if missing <= 0 {
		return nil
	}
	l.refuse(refusal{need: asked, at: time.Now()})
	s.raise("full", 1, fmt.Sprintf("no room for class %s: %s are missing and what is left must not be dropped for it; its producers are held back until an uplink delivers or the quota is raised", l.retention().class, amount(missing)))
	return fmt.Errorf("store in %s: %w", logDir(l.num), record.ErrFull)
}

// nextSegment is what need bytes more take for a segment that is begun with
// them.
func (l *commitLog) nextSegment(need int64) int64 {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.w != nil && l.w.bytes+need < l.segmentBytes() {
		return 0
	}
	return l.emptySegment()
}

// clearFor drops what must go so that a log may write need bytes, and returns
// what is missing. Nothing is dropped where it would not be enough. roomMu is
// held.
func (s *Spool) clearFor(ctx context.Context, l *commitLog, mins map[record.ShardID]uint64, need int64) int64 {
	if missing := s.lacking(ctx, l, mins, need); missing > 0 {
		return missing
	}
	missing := s.relieveLog(ctx, l, mins, need)
	return max(missing, s.relieve(ctx, mins, need, l.retention().class))
}

// lacking is how many of need bytes a log would be missing when all is gone
// that may go for it; 0 or less is enough.
func (s *Spool) lacking(ctx context.Context, l *commitLog, mins map[record.ShardID]uint64, need int64) int64 {
	r := l.retention()
	if r.maxBytes > 0 {
		own := l.size() + need - r.maxBytes
		if own -= l.droppable(ctx, mins, r.class, own); own > 0 {
			return own
		}
	}
	all := s.short(need)
	for _, other := range s.allLogs() {
		all -= other.droppable(ctx, mins, r.class, all)
	}
	return all
}

// droppable is how many bytes of a log may go for pressure that a class makes;
// it stops counting at want.
func (l *commitLog) droppable(ctx context.Context, mins map[record.ShardID]uint64, by record.Class, want int64) int64 {
	segs, r := l.segments(), l.retention()
	var sum int64
	for i, seg := range segs {
		if sum >= want {
			break
		}
		size := seg.size.Load()
		if i+1 == len(segs) {
			if seg.blocks.Load() <= 0 {
				break
			}
			size -= l.emptySegment() // another takes its place
		}
		n, err := l.undelivered(ctx, segs, i, mins)
		if err != nil || (n > 0 && !r.expendable(by)) {
			break // what cannot be told is kept
		}
		sum += max(size, 0)
	}
	return sum
}

// emptySegment is about what a segment takes before its first block, bytes.
func (l *commitLog) emptySegment() int64 {
	wal := l.walBytes()
	return emptyFile + wal + wal/16
}

// walBytes is how much the WAL of a segment may hold; where the log itself is
// bounded, a small part of that.
func (l *commitLog) walBytes() int64 {
	if m := l.retention().maxBytes; m > 0 {
		return max(min(l.sp.walBytes, m/16), minWAL)
	}
	return l.sp.walBytes
}

// expendable reports whether undelivered records may go for pressure that a
// class makes.
func (r retention) expendable(by record.Class) bool { return !r.hold && r.class <= by }

// checkSize refuses a record that would not find room even if all else was
// gone: its producer must not wait for room.
func (l *commitLog) checkSize(r *record.Record) error {
	const small = minQuota / 64 // surely fits
	if len(r.Data)+len(r.Blob) <= small {
		return nil
	}
	p := pending{rec: r}
	p.most = int32(p.bound())
	need := commitPages + l.emptySegment() + p.need()
	if m := l.retention().maxBytes; m > 0 && need > m {
		return &record.InvalidError{Field: "payload", Reason: fmt.Sprintf("has %d bytes; that is larger than max_bytes of its stream allows, %d", len(r.Data)+len(r.Blob), m), TooLarge: true}
	}
	s := l.sp
	s.mu.RLock()
	others := int64(len(s.logs) - 1)
	s.mu.RUnlock()
	room := s.quota - s.reserveBytes - s.besides() - others*l.emptySegment()
	if need > room {
		return &record.InvalidError{Field: "payload", Reason: fmt.Sprintf("has %d bytes; that is larger than the spool's quota allows, %d", len(r.Data)+len(r.Blob), s.quota), TooLarge: true}
	}
	return nil
}

// besides is what the spool takes beside its logs and its reserve, bytes.
func (s *Spool) besides() int64 {
	return fileSize(filepath.Join(s.dir, "state.db")) + fileSize(filepath.Join(s.dir, "state.db-wal"))
}

// diskFull notes that a write found no room. The reserve is given up so that
// checkpoints, cursors and opening still work.
func (s *Spool) diskFull(l *commitLog, cause error, need int64) {
	l.refuse(refusal{need: need, at: time.Now(), disk: true})
	s.releaseReserve()
	s.raise("full", 1, fmt.Sprintf("the disk is full: %v; producers are held back until there is room", cause))
	touch(s.state.moved)
}

// releaseReserve gives the reserve's room to whoever must write now; false if
// it was given already.
func (s *Spool) releaseReserve() bool {
	err := s.seam.disk.remove(filepath.Join(s.dir, "reserve"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("reserve could not be released", "error", err)
	}
	return err == nil
}

// A refusal is a commit that found no room.
type refusal struct {
	need int64 // bytes it asked for
	at   time.Time
	disk bool // the disk itself refused it, whatever its figures say
}

// refuse notes a refusal and holds the log's producers back.
func (l *commitLog) refuse(r refusal) {
	if old := l.refused.Load(); old != nil {
		r.need = max(r.need, old.need)
	}
	l.refused.Store(&r)
	l.full.Store(true)
}

// stored notes that a commit of need bytes succeeded. It ends a refusal of as
// much, and an old one: small records may go on fitting where large ones do
// not.
func (l *commitLog) stored(need int64) {
	r := l.refused.Load()
	if r != nil && (r.disk || need >= r.need || time.Since(r.at) > refusedFor) {
		l.refused.CompareAndSwap(r, nil)
	}
}

// letGo lets producers in again where there is some room. That alone does not
// end the condition "full": it stands until as much was stored as was refused,
// or there is clearly room for it.
func (s *Spool) letGo(ctx context.Context, mins map[record.ShardID]uint64) {
	margin := min(1<<20, s.quota/64)
	full := false
	for _, l := range s.allLogs() {
		if l.full.Load() && s.clearFor(ctx, l, mins, margin) <= 0 {
			l.full.Store(false)
			l.qmu.Lock()
			l.wake()
			l.qmu.Unlock()
		}
		r := l.refused.Load()
		if r != nil && s.eased(ctx, l, mins, r, margin) {
			l.refused.CompareAndSwap(r, nil)
		}
		full = full || l.held()
	}
	if !full {
		s.clear("full")
	}
}

// held reports whether the log has refused records and not taken as much since.
func (l *commitLog) held() bool { return l.full.Load() || l.refused.Load() != nil }

// eased reports whether what a log refused would fit now, and a margin more.
// The figures of a disk that refused a write are believed after a while only.
func (s *Spool) eased(ctx context.Context, l *commitLog, mins map[record.ShardID]uint64, r *refusal, margin int64) bool {
	if r.disk && time.Since(r.at) < refusedFor {
		return false
	}
	return s.lacking(ctx, l, mins, r.need+2*margin) <= 0
}

// restoreReserve makes the file that is released when the disk is full, if
// there is room for it.
func (s *Spool) restoreReserve() {
	path := filepath.Join(s.dir, "reserve")
	if fileSize(path) == s.reserveBytes || s.short(0) > 0 {
		return
	}
	f, err := s.seam.disk.open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err == nil {
		err = errors.Join(f.allocate(s.reserveBytes), f.Close())
		if err != nil {
			err = errors.Join(err, s.seam.disk.remove(path))
		}
	}
	if err != nil {
		s.log.Warn("reserve could not be made", "bytes", s.reserveBytes, "error", err)
		return
	}
	s.measure()
}

// relieveLog brings a log under its own limit, and returns what is missing.
func (s *Spool) relieveLog(ctx context.Context, l *commitLog, mins map[record.ShardID]uint64, need int64) int64 {
	r := l.retention()
	if r.maxBytes == 0 {
		return 0
	}
	for {
		missing := l.size() + need - r.maxBytes
		if missing <= 0 {
			return missing
		}
		judged, there := l.oldest()
		if !there {
			return missing
		}
		n, err := l.undelivered(ctx, l.segments(), 0, mins)
		if err != nil {
			s.cannotJudge(l, err)
			return missing
		}
		why := removal{StepDropped, fmt.Sprintf("to keep within max_bytes, %v", conf.Size(r.maxBytes))}
		if n > 0 && r.hold {
			return missing
		}
		switch s.removeOldest(ctx, l, judged, mins, why) {
		case stuck:
			return missing
		case removed:
			s.noteDropped(r.class, n)
		}
	}
}

// relieve brings the spool under its quota and above the free floor, and
// returns what is missing: delivered segments go first, those of the lowest
// class and the oldest of them first; then undelivered ones of the classes
// that may be dropped for the class that needs the room, in the same order.
func (s *Spool) relieve(ctx context.Context, mins map[record.ShardID]uint64, need int64, by record.Class) int64 {
	for {
		missing := s.short(need)
		if missing <= 0 {
			return missing
		}
		l, judged, n := s.victim(ctx, mins, by)
		if l == nil {
			return missing
		}
		switch s.removeOldest(ctx, l, judged, mins, removal{StepDropped, s.whyShort(need)}) {
		case stuck:
			return missing
		case removed:
			s.noteDropped(l.retention().class, n)
		}
	}
}

// victim chooses the log whose oldest segment goes next, nil if none may go.
func (s *Spool) victim(ctx context.Context, mins map[record.ShardID]uint64, by record.Class) (best *commitLog, judged judgement, undelivered uint64) {
	type rank struct {
		lost  bool
		class record.Class
		at    int64
	}
	var first rank
	for _, l := range s.allLogs() {
		oldest, there := l.oldest()
		if !there {
			continue
		}
		segs := l.segments()
		keeps := l.retention()
		n, err := l.undelivered(ctx, segs, 0, mins)
		if err != nil {
			s.cannotJudge(l, err)
			continue
		}
		if n > 0 && !keeps.expendable(by) {
			continue
		}
		at, err := l.writtenAt(ctx, segs, 0)
		if err != nil {
			s.cannotJudge(l, err)
			continue
		}
		r := rank{n > 0, keeps.class, at}
		less := best == nil || (!r.lost && first.lost)
		if best != nil && r.lost == first.lost {
			less = r.class < first.class || (r.class == first.class && r.at < first.at)
		}
		if less {
			best, judged, undelivered, first = l, oldest, n, r
		}
	}
	return best, judged, undelivered
}
