package spool

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"forebay/spool/record"
)

const (
	keepEvery = time.Second
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
	s.relieve(ctx, mins, 0, record.ClassEvidence) // nobody's pressure: every class that may be dropped
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

// removeOldest unlinks a log's oldest segment; the active one is closed first.
// roomMu is held.
func (s *Spool) removeOldest(ctx context.Context, l *commitLog) bool {
	segs := l.segments()
	if len(segs) == 1 {
		if segs[0].blocks.Load() <= 0 {
			return false
		}
		l.lockEmpty()
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
		err := seg.remove(s.seam.disk)
		if err != nil {
			s.log.Warn("segment is no longer used but could not be removed yet", "file", seg.file(), "error", err)
		}
		return err == nil
	})
}

// rollNow closes the active segment if there is one; wmu is held and nothing is
// under way.
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
