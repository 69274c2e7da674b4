package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"forebay/spool/record"
)

const (
	keepEvery = time.Second
	// nearlyFull is the part of the quota, in percent, that undelivered
	// records may take before an operator is told.
	nearlyFull = 80
	// tellFor is how long a loss stays a standing condition.
	tellFor = time.Hour
)

// keeper lets go of what retention no longer wants, keeps the quota and the
// reserve, and notices when there is room again.
func (s *Spool) keeper() {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-tick.C:
			s.keep(context.Background())
			continue
		case <-s.state.moved:
		}
		s.sweep(context.Background())
		select { // cursors move often; a pass is not free
		case <-s.closing:
			return
		case <-time.After(keepEvery / 10):
		}
	}
}

// keep is one pass with all that belongs to it.
func (s *Spool) keep(ctx context.Context) {
	s.sweep(ctx)
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	s.removeDoomed()
	s.restoreReserve()
	s.tellPinned(ctx, s.state.mins())
	s.clearOld("dropped", "fsync", "corrupt")
}

// sweep lets go of what may go, and lets producers in where there is room.
func (s *Spool) sweep(ctx context.Context) {
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	s.measure()
	mins := s.state.mins()
	for _, l := range s.allLogs() {
		s.expireByAge(ctx, l, mins)
		s.relieveLog(ctx, l, mins, 0)
	}
	s.relieve(ctx, mins, 0)
	s.letGo(ctx, mins)
}

// measure adds up what is in the directory.
func (s *Spool) measure() {
	n := fileSize(filepath.Join(s.dir, "reserve"))
	for _, f := range []string{"state.db", "state.db-wal", "state.db-shm", "lock"} {
		n += fileSize(filepath.Join(s.dir, f))
	}
	for _, l := range s.allLogs() {
		n += l.size()
	}
	for _, seg := range s.doomed {
		n += seg.size.Load()
	}
	s.used.Store(n)
}

func (l *commitLog) size() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var n int64
	for _, seg := range l.segs {
		n += seg.size.Load()
	}
	return n
}

// short is how many bytes are missing for need more; 0 or less is enough.
func (s *Spool) short(need int64) int64 {
	if fileSize(filepath.Join(s.dir, "reserve")) < s.reserveBytes {
		need += s.reserveBytes
	}
	n := s.used.Load() + need - s.quota
	if _, free, err := s.seam.space(s.dir); err == nil {
		n = max(n, s.freeFloor()+need-free)
	}
	return n
}

// makeRoom sees to it that a log may write need bytes. record.ErrFull: all
// that may go is gone, and the producers of the log are held back.
func (s *Spool) makeRoom(l *commitLog, need int64) error {
	maxBytes := l.retention().maxBytes
	if s.short(need) <= 0 && (maxBytes == 0 || l.size()+need <= maxBytes) {
		return nil
	}
	ctx := context.Background()
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	mins := s.state.mins()
	s.measure()
	missing := s.relieveLog(ctx, l, mins, need)
	missing = max(missing, s.relieve(ctx, mins, need))
	if missing <= 0 {
		return nil
	}
	l.full.Store(true)
	s.raise("full", 1, fmt.Sprintf("no room for class %s: %d bytes are missing and what is left must not be dropped; its producers are held back until an uplink delivers or the quota is raised", l.retention().class, missing))
	return fmt.Errorf("store in %s: %w", logDir(l.num), record.ErrFull)
}

// diskFull notes that a write found no room; the log's wmu is held. The
// reserve is given up so that checkpoints, cursors and opening still work.
func (s *Spool) diskFull(l *commitLog, cause error) {
	l.full.Store(true)
	s.releaseReserve()
	s.raise("full", 1, fmt.Sprintf("the disk is full: %v; producers are held back until there is room", cause))
	touch(s.state.moved)
}

// releaseReserve gives the reserve's room to whoever must write now; false if
// it was given already.
func (s *Spool) releaseReserve() bool {
	err := os.Remove(filepath.Join(s.dir, "reserve"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("reserve could not be released", "error", err)
	}
	return err == nil
}

// letGo lets producers in again where there is room.
func (s *Spool) letGo(ctx context.Context, mins map[record.ShardID]uint64) {
	need := min(1<<20, s.quota/64)
	full := false
	for _, l := range s.allLogs() {
		if !l.full.Load() {
			continue
		}
		missing := s.relieveLog(ctx, l, mins, need)
		if missing = max(missing, s.relieve(ctx, mins, need)); missing > 0 {
			full = true
			continue
		}
		l.full.Store(false)
		l.qmu.Lock()
		l.wake()
		l.qmu.Unlock()
	}
	if !full {
		s.clear("full")
	}
}

// restoreReserve makes the file that is released when the disk is full, if
// there is room for it.
func (s *Spool) restoreReserve() {
	path := filepath.Join(s.dir, "reserve")
	if fileSize(path) == s.reserveBytes || s.short(0) > 0 {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err == nil {
		err = errors.Join(allocate(f, s.reserveBytes), f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}
	if err != nil {
		s.log.Warn("reserve could not be made", "bytes", s.reserveBytes, "error", err)
		return
	}
	s.measure()
}

// mins is, for every shard that has cursors, the place of the one furthest
// behind.
func (s *stateDB) mins() map[record.ShardID]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[record.ShardID]uint64{}
	for k, p := range s.cursors {
		if m, ok := out[k.shard]; !ok || p.next < m {
			out[k.shard] = p.next
		}
	}
	return out
}

// undelivered counts the records of segs[i] that a cursor has not passed. A
// shard without cursors has nothing to deliver.
func (l *commitLog) undelivered(ctx context.Context, segs []*segment, i int, mins map[record.ShardID]uint64) (uint64, error) {
	l.mu.RLock()
	slots := l.slots
	ends := make([]uint64, len(slots))
	for k, sh := range slots {
		ends[k] = sh.next
	}
	l.mu.RUnlock()
	var n uint64
	for k, sh := range slots {
		place, ok := mins[sh.id]
		if !ok {
			continue
		}
		from, err := sh.headAt(ctx, segs, i, ends[k])
		if err != nil {
			return 0, err
		}
		to, err := sh.headAt(ctx, segs, i+1, ends[k])
		if err != nil {
			return 0, err
		}
		if from = max(from, place); from < to {
			n += to - from
		}
	}
	return n, nil
}

// expireByAge removes segments that are older than the log keeps them.
func (s *Spool) expireByAge(ctx context.Context, l *commitLog, mins map[record.ShardID]uint64) {
	r := l.retention()
	for r.maxAge > 0 {
		segs := l.segments()
		if len(segs) == 0 {
			return
		}
		written, err := l.writtenAt(ctx, segs, 0)
		if err != nil || time.Duration(s.clock.now()-written) <= r.maxAge {
			return
		}
		n, err := l.undelivered(ctx, segs, 0, mins)
		if err != nil || (n > 0 && !r.expire) || !s.removeOldest(ctx, l) {
			return
		}
	}
}

// segments is the log's segments now, oldest first.
func (l *commitLog) segments() []*segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.segs
}

// writtenAt is when a segment was last written, by the retention clock.
func (l *commitLog) writtenAt(ctx context.Context, segs []*segment, i int) (int64, error) {
	if at := segs[i].closed.Load(); at != 0 {
		return at, nil
	}
	if i+1 == len(segs) {
		return l.sp.clock.now(), nil
	}
	m, err := segs[i+1].loadMeta(ctx)
	l.sp.handles.used(segs[i+1])
	if err != nil {
		return 0, err
	}
	segs[i].closed.Store(m.prevWritten)
	return m.prevWritten, nil
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
		segs := l.segments()
		if len(segs) == 0 {
			return missing
		}
		n, err := l.undelivered(ctx, segs, 0, mins)
		if err != nil || (n > 0 && r.class.HoldsBack()) || !s.removeOldest(ctx, l) {
			return missing
		}
		s.noteDropped(r.class, n)
	}
}

// relieve brings the spool under its quota and above the free floor, and
// returns what is missing: delivered segments go first, those of the lowest
// class and the oldest of them first; then undelivered ones of the classes
// that may be dropped, in the same order.
func (s *Spool) relieve(ctx context.Context, mins map[record.ShardID]uint64, need int64) int64 {
	for {
		missing := s.short(need)
		if missing <= 0 {
			return missing
		}
		l, n := s.victim(ctx, mins)
		if l == nil || !s.removeOldest(ctx, l) {
			return missing
		}
		s.noteDropped(l.retention().class, n)
	}
}

// victim chooses the log whose oldest segment goes next, nil if none may go.
func (s *Spool) victim(ctx context.Context, mins map[record.ShardID]uint64) (best *commitLog, undelivered uint64) {
	type rank struct {
		lost  bool
		class record.Class
		at    int64
	}
	var first rank
	for _, l := range s.allLogs() {
		segs := l.segments()
		if len(segs) == 0 || (len(segs) == 1 && segs[0].blocks.Load() == 0) {
			continue
		}
		class := l.retention().class
		n, err := l.undelivered(ctx, segs, 0, mins)
		if err != nil || (n > 0 && class.HoldsBack()) {
			continue
		}
		at, err := l.writtenAt(ctx, segs, 0)
		if err != nil {
			continue
		}
		r := rank{n > 0, class, at}
		less := best == nil || (!r.lost && first.lost)
		if best != nil && r.lost == first.lost {
			less = r.class < first.class || (r.class == first.class && r.at < first.at)
		}
		if less {
			best, undelivered, first = l, n, r
		}
	}
	return best, undelivered
}

// removeOldest unlinks a log's oldest segment; the active one is closed first.
// roomMu is held.
func (s *Spool) removeOldest(ctx context.Context, l *commitLog) bool {
	segs := l.segments()
	if len(segs) == 1 {
		if segs[0].blocks.Load() <= 0 {
			return false
		}
		l.wmu.Lock()
		err := l.rollNow()
		l.wmu.Unlock()
		if err != nil {
			s.log.Warn("active segment could not be closed to make room", "log", l.num, "error", err)
			return false
		}
		segs = l.segments()
	}
	next, err := l.firstAfter(ctx, segs)
	if err != nil {
		s.log.Warn("oldest segment cannot be removed yet", "log", l.num, "error", err)
		return false
	}
	l.mu.Lock()
	for i, h := range next {
		l.slots[i].first = h
	}
	l.segs = l.segs[1:]
	l.mu.Unlock()
	s.used.Add(-segs[0].size.Load())
	s.doomed = append(s.doomed, segs[0])
	s.removeDoomed()
	return true
}

// removeDoomed unlinks segments that are no longer used. What cannot be
// unlinked now (a file that is still open on Windows, a disk that is
// read-only) is tried again. roomMu is held.
func (s *Spool) removeDoomed() {
	s.doomed = slices.DeleteFunc(s.doomed, func(seg *segment) bool {
		err := seg.remove()
		if err != nil {
			s.log.Warn("segment is no longer used but could not be removed yet", "file", seg.file(), "error", err)
		}
		return err == nil
	})
}

// rollNow closes the active segment if there is one; wmu is held.
func (l *commitLog) rollNow() error {
	if l.w == nil {
		return l.reopen()
	}
	return l.roll()
}

// firstAfter is where every shard begins once the oldest segment is gone.
func (l *commitLog) firstAfter(ctx context.Context, segs []*segment) ([]headRow, error) {
	for _, seg := range segs[1:] {
		m, err := seg.loadMeta(ctx)
		l.sp.handles.used(seg)
		if err != nil {
			if isDamage(err) || isForeign(seg.path) {
				continue
			}
			return nil, err
		}
		l.mu.RLock()
		defer l.mu.RUnlock()
		out := make([]headRow, len(l.slots))
		for i, sh := range l.slots {
			out[i] = m.head(sh.id)
		}
		return out, nil
	}
	return nil, errors.New("no later segment can be read")
}

// tellPinned raises nearly-full when undelivered records take most of the
// quota: those can only go by being delivered or lost.
func (s *Spool) tellPinned(ctx context.Context, mins map[record.ShardID]uint64) {
	var pinned int64
	for _, l := range s.allLogs() {
		segs := l.segments()
		from := sort.Search(len(segs), func(i int) bool { return l.waits(ctx, segs, i, mins) })
		for _, seg := range segs[from:] {
			pinned += seg.size.Load()
		}
	}
	if pinned < s.quota/100*nearlyFull {
		s.clear("nearly-full")
		return
	}
	s.raise("nearly-full", 2, fmt.Sprintf("undelivered records take %d of %d bytes of the quota (%d %%)", pinned, s.quota, pinned*100/s.quota))
}

// waits reports whether a cursor has not passed the end of segs[i]. Once it is
// true it is for all later ones.
func (l *commitLog) waits(ctx context.Context, segs []*segment, i int, mins map[record.ShardID]uint64) bool {
	l.mu.RLock()
	slots := l.slots
	ends := make([]uint64, len(slots))
	for k, sh := range slots {
		ends[k] = sh.next
	}
	l.mu.RUnlock()
	for k, sh := range slots {
		place, ok := mins[sh.id]
		if !ok {
			continue
		}
		if end, err := sh.headAt(ctx, segs, i+1, ends[k]); err == nil && place < end {
			return true
		}
	}
	return false
}

// note adds to the counts of what was removed undelivered, and tells; roomMu is
// held.
func (s *Spool) noteDropped(class record.Class, n uint64) {
	if n == 0 {
		return
	}
	s.dropped[class] += n
	var text strings.Builder
	text.WriteString("removed to make room before they were delivered, since the spool was opened:")
	for _, c := range record.Classes() {
		if s.dropped[c] > 0 {
			fmt.Fprintf(&text, " %d records of class %s", s.dropped[c], c)
		}
	}
	s.raise("dropped", 2, text.String())
}

// retire seals a segment that is not written any more, in the background.
func (s *Spool) retire(l *commitLog, w *segWriter) {
	s.parts.Go(func() { s.seal(l, w) })
}

// seal brings a segment's WAL into the file, so that it can be read without
// locks. It is tried until it succeeds: on a full disk it needs room first.
func (s *Spool) seal(l *commitLog, w *segWriter) {
	ctx := context.Background()
	for {
		w.seg.release() // a reader would hold the WAL up
		if w.seg.removed() {
			break
		}
		err := w.db.truncateWAL(ctx)
		if err == nil {
			w.seg.sealed.Store(true)
			break
		}
		l.log.Warn("segment could not be sealed yet", "segment", w.seg.num, "error", err)
		select {
		case <-s.closing:
		case <-time.After(keepEvery):
			continue
		}
		break
	}
	if err := w.close(); err != nil {
		l.log.Warn("segment was not closed in order", "segment", w.seg.num, "error", err)
	}
	w.seg.release() // readers open it again, sealed
	w.seg.measure()
}
