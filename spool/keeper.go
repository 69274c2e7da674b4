package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"forebay/spool/record"
)

const (
	keepEvery = time.Second
	// lookEvery is how often the clock is stamped where nothing else writes
	// state.db, and the directories are looked through.
	lookEvery = 5 * time.Minute
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
	if short := s.clock.settle(s.now()); short > 0 {
		s.log.Info("time the spool was closed counts in full, the clock is synchronised", "late_by", short)
	}
	s.rollOld()
	s.sweep(ctx)
	s.state.enterOwed(false)
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	s.removeDoomed()
	s.restoreReserve()
	now := s.clock.now()
	if now-s.looked >= int64(lookEvery) {
		s.looked = now
		s.findStrangers()
		s.state.stampSoon()
	}
	mins := s.state.mins()
	s.tellPinned(ctx, mins)
	s.tellStalled(ctx)
	s.clearOld("dropped", "max-age", "fsync", "corrupt")
}

// rollOld closes active segments that have been written to for as long as a
// segment may, where a legal limit says so: a record that nothing follows must
// not keep its segment open.
func (s *Spool) rollOld() {
	for _, l := range s.allLogs() {
		r, seg := l.retention(), l.active()
		if r.hard == 0 || seg == nil || seg.blocks.Load() <= 0 {
			continue
		}
		m := seg.knownMeta()
		if m == nil || time.Duration(s.clock.now()-m.created) < r.roll() {
			continue
		}
		l.lockEmpty()
		var err error
		if l.active() == seg {
			err = l.rollNow()
		}
		l.wmu.Unlock()
		if err != nil {
			s.raise("segment", 3, "a new segment of log "+logDir(l.num)+" could not be opened: "+err.Error())
		}
	}
}

// sweep lets go of what may go, and lets producers in where there is room.
func (s *Spool) sweep(ctx context.Context) {
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	s.measure()
	mins := s.state.mins()
	for _, l := range s.allLogs() {
		s.sweepDead(ctx, l, mins)
		s.expireByAge(ctx, l, mins)
		s.relieveLog(ctx, l, mins, 0)
	}
	s.relieve(ctx, mins, 0, record.ClassEvidence) // nobody's pressure: every class that may be dropped
	s.letGo(ctx, mins)
}

// measure adds up what is in the directory.
func (s *Spool) measure() {
	n := s.strangers
	for _, l := range s.allLogs() {
		n += l.size()
	}
	for _, seg := range s.doomed {
		n += seg.size.Load()
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		s.log.Warn("spool could not be measured", "error", err)
		return // the last figure stands
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			n += fileSize(filepath.Join(s.dir, e.Name()))
		}
	}
	s.used.Store(n)
}

// findStrangers measures the files in the logs' directories that belong to no
// segment: they count in the quota too. roomMu is held.
func (s *Spool) findStrangers() {
	var n int64
	for _, l := range s.allLogs() {
		entries, err := os.ReadDir(l.dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				s.log.Warn("log could not be measured", "log", l.num, "error", err)
			}
			continue
		}
		ours := map[string]bool{}
		for _, seg := range slices.Concat(l.segments(), s.doomed) {
			base := filepath.Base(seg.path)
			if seg.log == l.num {
				ours[base], ours[base+"-wal"], ours[base+"-shm"], ours[filepath.Base(chunkFileOf(seg.path))] = true, true, true, true
			}
		}
		for _, e := range entries {
			if e.Type().IsRegular() && !ours[e.Name()] {
				n += fileSize(filepath.Join(l.dir, e.Name()))
			}
		}
	}
	s.strangers = n
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

// expireByAge removes segments that are older than the log keeps them. A legal
// limit asks nobody.
func (s *Spool) expireByAge(ctx context.Context, l *commitLog, mins map[record.ShardID]uint64) {
	r := l.retention()
	for r.maxAge > 0 || r.hard > 0 {
		judged, there := l.oldest()
		if !there {
			return
		}
		segs := l.segments()
		written, err := l.writtenAt(ctx, segs, 0)
		if err != nil {
			s.cannotJudge(l, err)
			return
		}
		age := time.Duration(s.clock.now() - written)
		legal := r.hard > 0 && age > r.hard
		if !legal && (r.maxAge == 0 || age <= r.maxAge) {
			return
		}
		n, err := l.undelivered(ctx, segs, 0, mins)
		if err != nil && !legal {
			s.cannotJudge(l, err)
			return
		}
		why := removal{StepExpired, fmt.Sprintf("older than retention, %v", r.maxAge)}
		switch {
		case legal:
			why = removal{StepMaxAge, fmt.Sprintf("older than max_age_hard, %v", r.hard)}
		case n > 0 && !r.expire:
			return
		}
		done := s.removeOldest(ctx, l, judged, mins, why)
		if done == stuck {
			return
		}
		if done == removed && legal && n > 0 {
			s.raise("max-age", 2, fmt.Sprintf("max_age_hard removed %s of class %s before delivery; forebay ledger --steps tells which", counted(n), r.class))
		}
	}
}

// cannotJudge tells that retention passes a log over, because what lies in its
// oldest segment cannot be told now.
func (s *Spool) cannotJudge(l *commitLog, err error) {
	s.raise("segment", 3, "retention passes over "+logDir(l.num)+": "+err.Error())
}

// segments is the log's segments now, oldest first.
func (l *commitLog) segments() []*segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.segs
}

// writtenAt is when a segment was last written, by the retention clock; where
// damage hides that, a time that is not earlier.
func (l *commitLog) writtenAt(ctx context.Context, segs []*segment, i int) (int64, error) {
	if at := segs[i].closed.Load(); at != 0 {
		return at, nil
	}
	for k := i + 1; k < len(segs); k++ {
		m, err := segs[k].loadMeta(ctx)
		l.sp.handles.used(segs[k])
		switch {
		case err == nil && k == i+1:
			segs[i].closed.Store(m.prevWritten)
			return m.prevWritten, nil
		case err == nil:
			return m.created, nil
		case !isDamage(err) && !isForeign(segs[k].path):
			return 0, err
		}
	}
	return l.sp.clock.now(), nil
}

// A removal says why a segment goes: a kind of step, and words.
type removal struct{ kind, reason string }

// A judgement is of the oldest segment as it was: what is decided about it holds
// only while it holds no more.
type judgement struct {
	seg    *segment
	blocks int64 // -1 where that was not known, which is so of closed ones only
}

// oldest is what is to be judged; false where there is nothing to remove.
func (l *commitLog) oldest() (judgement, bool) {
	segs := l.segments()
	if len(segs) == 0 {
		return judgement{}, false
	}
	j := judgement{segs[0], segs[0].blocks.Load()}
	return j, len(segs) > 1 || j.blocks > 0
}

// An outcome is what became of a removal.
type outcome byte

const (
	stuck    outcome = iota // it cannot be done now
	outdated                // what was judged is not so any more: look again
	removed
)

// holds reports whether the judged segment is still the oldest and as it was.
func (j judgement) holds(segs []*segment) bool {
	return len(segs) > 0 && segs[0] == j.seg && (j.blocks < 0 || j.seg.blocks.Load() == j.blocks)
}

// removeOldest unlinks a log's oldest segment as it was judged; the active one
// is closed first. Where something was stored in it since, nothing is removed.
// It is written down in the ledger before: where a crash comes in between, the
// next opening sees that the records are still there. A ledger that cannot be
// written does not stop it, because it may be what makes room. roomMu is held.
func (s *Spool) removeOldest(ctx context.Context, l *commitLog, judged judgement, mins map[record.ShardID]uint64, why removal) outcome {
	if l.keepsAll() {
		return stuck
	}
	segs := l.segments()
	if len(segs) == 1 {
		if segs[0].blocks.Load() <= 0 {
			return stuck
		}
		l.lockEmpty()
		var err error
		if judged.holds(l.segments()) {
			err = l.rollNow()
		}
		l.wmu.Unlock()
		if err != nil {
			s.log.Warn("active segment could not be closed to make room", "log", l.num, "error", err)
			return stuck
		}
		segs = l.segments()
	}
	if len(segs) == 1 || !judged.holds(segs) {
		return outdated
	}
	next, err := l.firstAfter(ctx, segs)
	if err != nil {
		s.log.Warn("oldest segment cannot be removed yet", "log", l.num, "error", err)
		return stuck
	}
	steps := s.announce(l, next, mins, why)
	if err := s.flushState(ctx); err != nil {
		s.raise("state", 1, "cursors and counts could not be written: "+err.Error())
	}
	l.mu.Lock()
	s.state.mu.Lock()
	for i, h := range next {
		if sh := l.slots[i]; h.next >= sh.first.next { // of a deleted stream nothing is left
			sh.first = h
		}
	}
	for _, st := range steps {
		s.state.sumLocked(st)
	}
	l.segs = l.segs[1:]
	s.state.mu.Unlock()
	l.mu.Unlock()
	s.used.Add(-segs[0].size.Load())
	s.doomed = append(s.doomed, segs[0])
	s.removeDoomed()
	return removed
}

// announce lets the next flush write what is about to go, a step per shard.
func (s *Spool) announce(l *commitLog, next []headRow, mins map[record.ShardID]uint64, why removal) []Step {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	var steps []Step
	for i, h := range next {
		sh := l.slots[i]
		from := sh.first.next
		if h.next <= from {
			continue
		}
		st := Step{
			Kind: why.kind, Stream: sh.stream.name, Shard: sh.id, First: from, Past: h.next, Count: h.next - from,
			Undelivered: undeliveredIn(mins, sh.id, from, h.next), Reason: why.reason,
		}
		s.state.announceLocked(&st)
		steps = append(steps, st)
	}
	return steps
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
