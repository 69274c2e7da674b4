package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"sort"
	"sync/atomic"

	"forebay/spool/record"
)

const (
	// partRecords is how many records one step of a Scanner yields at most: so
	// many that a step costs nothing, so few that they stay in the processor's
	// cache.
	partRecords = 256
	// headWindow is how many heads of blocks are looked at before the bodies of
	// those that count are read.
	headWindow = 512
)

// A Scanner reads what a stream held when the Scanner was made, all its shards
// in one pass over their log: block by block as they were committed, each split
// by its directory. Within a shard the order is that of the sequence numbers.
// Segments and blocks outside the Span are passed over by their heads. It is
// used by one goroutine at a time; Progress may be called from another.
type Scanner struct {
	sp     *Spool
	log    *commitLog
	span   Span
	bounds bounds
	shards []scanShard // by id
	segs   []*segment
	began  bool

	seg    *segment
	origin *record.Origin // of the records of seg
	segAt  int            // of seg in segs
	after  int64          // block of seg to go on with
	last   int64          // block of seg to end with
	plan   []planned
	run    []stored
	cur    groupReader
	whole  bool // the current block lies within the span
	blk    *block
	group  int // of blk, next
	gone   bool
	faults []error
	recs   []record.Record

	start              int // of segs
	records, blocks    atomic.Uint64
	skipped, sharePerm atomic.Uint64
}

type scanShard struct {
	sh   *shard
	next uint64 // expected, 0 where it is not known
	end  uint64 // first number that was not there yet
	told uint64 // what was erased is told up to here
}

// A planned block is one that counts, by its head.
type planned struct {
	st    stored
	whole bool
	read  bool // its body is wanted
}

// Scanner makes a Scanner. record.ErrNoShard, record.ErrClosed.
func (t *Stream) Scanner(span Span) (*Scanner, error) {
	if err := t.sp.enter(); err != nil {
		return nil, err
	}
	defer t.sp.leave()
	s := &Scanner{sp: t.sp, log: t.log, span: span, bounds: boundsOf(span)}
	for _, id := range span.Shards {
		if _, err := t.shard(id); err != nil {
			return nil, err
		}
	}
	t.log.mu.RLock()
	defer t.log.mu.RUnlock()
	s.segs = t.log.segs
	for _, sh := range t.all() {
		if span.Shards == nil || slices.Contains(span.Shards, sh.id) {
			s.shards = append(s.shards, scanShard{sh: sh, next: sh.first.next, end: sh.next})
		}
	}
	slices.SortFunc(s.shards, func(a, b scanShard) int { return cmp.Compare(a.sh.id, b.sh.id) })
	return s, nil
}

// Progress says how far the scan is.
func (s *Scanner) Progress() ScanProgress {
	return ScanProgress{s.records.Load(), s.blocks.Load(), s.skipped.Load(), float64(s.sharePerm.Load()) / 1000}
}

// Next yields the next part, a view that is valid until the next call; io.EOF
// at the end. *record.TrimmedError, *record.ErasedError and
// *record.CorruptError are told once and the scan goes on behind the loss at
// the next call; any other error ends it.
func (s *Scanner) Next(ctx context.Context) (Part, error) {
	if err := s.sp.enter(); err != nil {
		return Part{}, err
	}
	defer s.sp.leave()
	for {
		if len(s.faults) > 0 {
			err := s.faults[0]
			s.faults = s.faults[1:]
			return Part{}, err
		}
		if p, ok := s.part(); ok {
			s.records.Add(uint64(p.Len()))
			return p, nil
		}
		if len(s.faults) > 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return Part{}, context.Cause(ctx)
		}
		if err := s.advance(ctx); err != nil {
			return Part{}, err
		}
	}
}

// part yields of the current block what is left of it.
func (s *Scanner) part() (Part, bool) {
	for s.blk != nil {
		if at, gone := s.sp.keys.gone(s.blk.key); gone { // perhaps since it was opened
			s.erased(s.blk, at)
			s.blk = nil
			return Part{}, false
		}
		if s.cur.b == s.blk && s.cur.left() > 0 {
			if p, ok := s.decode(); ok || len(s.faults) > 0 {
				return p, ok
			}
			continue
		}
		if s.group >= len(s.blk.groups) {
			s.blk = nil
			return Part{}, false
		}
		g := s.blk.groups[s.group]
		s.group++
		k := s.shard(g.shard)
		if k == nil || g.first >= k.end || s.span.LastSeq > 0 && g.first > s.span.LastSeq || g.first+uint64(g.count) <= s.span.FirstSeq {
			continue
		}
		if s.blk.body != nil {
			s.cur = newGroupReader(s.blk, g, s.log.num)
			s.cur.origin = s.origin
			continue
		}
		// Told by the head alone: all of it counts but for the sequence.
		first, next := max(g.first, s.span.FirstSeq), min(g.first+uint64(g.count), k.end)
		if s.span.LastSeq > 0 {
			next = min(next, s.span.LastSeq+1)
		}
		if first < next {
			return Part{Batch: record.Batch{Shard: g.shard, Next: next}, First: first, Origin: *s.origin}, true
		}
	}
	return Part{}, false
}

// decode yields up to partRecords of the current group that lie in the span.
func (s *Scanner) decode() (Part, bool) {
	k := s.shard(s.cur.g.shard)
	s.recs = s.recs[:0]
	size := 0
	for s.cur.left() > 0 && len(s.recs) < partRecords && size < batchBytes {
		if cap(s.recs) == len(s.recs) {
			s.recs = slices.Grow(s.recs, min(partRecords, int(s.cur.left())))
		}
		s.recs = s.recs[:len(s.recs)+1]
		rec := &s.recs[len(s.recs)-1]
		seq := s.cur.g.first + uint64(s.cur.done)
		out, err := s.cur.next(rec)
		if err != nil { // the rest of the group cannot be found
			s.recs = s.recs[:len(s.recs)-1]
			s.lose(k, seq, s.cur.g.first+uint64(s.cur.g.count), s.cur.b.id, err)
			s.cur.done = s.cur.g.count
			break
		}
		if seq >= k.end || !s.keeps(rec) {
			s.recs = s.recs[:len(s.recs)-1]
			continue
		}
		if out.n > 0 && !s.span.WithoutData {
			if rec.Data, err = s.seg.readChunk(out); err != nil {
				s.recs = s.recs[:len(s.recs)-1]
				if _, ok := errors.AsType[*fs.PathError](err); ok && !isDamage(err) {
					s.faults = append(s.faults, fmt.Errorf("scan %s: %w", s.seg.file(), err)) // it may pass by itself
					break
				}
				if _, ok := errors.AsType[*erasedKey](err); ok {
					s.cur.done = s.cur.g.count // part tells it
					break
				}
				s.gone = s.gone || errors.Is(err, errGone)
				s.lose(k, seq, seq+1, s.cur.b.id, err)
				continue
			}
			s.sp.handles.used(s.seg)
		}
		size += len(rec.Data)
	}
	if len(s.recs) == 0 {
		return Part{}, false
	}
	last := s.recs[len(s.recs)-1].Pos.Seq
	return Part{Batch: record.Batch{Shard: k.sh.id, Recs: s.recs, Next: last + 1}, First: s.recs[0].Pos.Seq, Origin: *s.origin}, true
}

// keeps reports whether a record lies in the span.
func (s *Scanner) keeps(r *record.Record) bool {
	if r.Pos.Seq < s.span.FirstSeq || s.span.LastSeq > 0 && r.Pos.Seq > s.span.LastSeq {
		return false
	}
	if s.whole {
		return true
	}
	if s.bounds.arrival {
		if arr := r.Arrived.UnixNano(); arr < s.bounds.since || arr > s.bounds.until {
			return false
		}
	}
	if s.bounds.event {
		at := eventTime(r)
		return (s.span.SinceEvent.IsZero() || !at.Before(s.span.SinceEvent)) && (s.span.UntilEvent.IsZero() || !at.After(s.span.UntilEvent))
	}
	return true
}

func (s *Scanner) shard(id record.ShardID) *scanShard {
	i := sort.Search(len(s.shards), func(i int) bool { return s.shards[i].sh.id >= id })
	if i < len(s.shards) && s.shards[i].sh.id == id {
		return &s.shards[i]
	}
	return nil
}

// lose notes records that cannot be read.
func (s *Scanner) lose(k *scanShard, from, to uint64, blk int64, cause error) {
	from, to = max(from, s.span.FirstSeq), min(to, k.end)
	if s.span.LastSeq > 0 {
		to = min(to, s.span.LastSeq+1)
	}
	if from >= to {
		return
	}
	if s.gone {
		s.faults = append(s.faults, &record.TrimmedError{Shard: k.sh.id, From: from, To: to})
		return
	}
	e := &record.CorruptError{Block: blk, Shard: k.sh.id, From: from, To: to, Err: cause, Hint: "the records before and after it are served; the file is kept for inspection until retention removes it"}
	if s.seg != nil {
		e.File = s.seg.file()
	}
	if s.sp.state.addCorrupt(corruptRange{shard: k.sh.id, from: from, to: to, file: e.File, block: blk}) > 0 {
		s.sp.raise("corrupt", 2, e.Error())
	}
	s.faults = append(s.faults, e)
}

// reach notes that the shard goes on at seq.
func (s *Scanner) reach(k *scanShard, seq uint64, blk int64) {
	if k.next != 0 && seq > k.next {
		s.lose(k, k.next, seq, blk, errMissing)
	}
	if seq > k.next {
		k.next = seq
	}
}

var errMissing = errors.New("records are missing")

// meet takes note of a block's head.
func (s *Scanner) meet(st stored) {
	if st.blk == nil {
		return
	}
	for _, g := range st.blk.groups {
		if k := s.shard(g.shard); k != nil {
			s.reach(k, g.first, st.id-1)
			k.next = g.first + uint64(g.count)
		}
	}
}

// advance makes the next block the current one; io.EOF at the end.
func (s *Scanner) advance(ctx context.Context) error {
	if len(s.run) > 0 {
		st := s.run[0]
		s.run = s.run[1:]
		s.use(st, false)
		return nil
	}
	if len(s.plan) > 0 {
		return s.passed(s.fromPlan(ctx))
	}
	if s.seg == nil || s.after > s.last {
		return s.enter(ctx)
	}
	if s.simple() {
		run, err := s.seg.readRun(ctx, s.after, s.last)
		s.sp.handles.used(s.seg)
		if err != nil {
			return s.passed(err)
		}
		if len(run) == 0 {
			s.after = s.last + 1
			return nil
		}
		for _, st := range run {
			s.meet(st)
		}
		s.run, s.after = run, run[len(run)-1].id+1
		s.share()
		return nil
	}
	return s.passed(s.look(ctx))
}

// simple reports whether every block is read anyway.
func (s *Scanner) simple() bool {
	return !s.bounds.arrival && !s.bounds.event && !s.span.HeadsOnly && s.span.FirstSeq == 0 && s.span.LastSeq == 0 && s.span.Shards == nil
}

// passed decides what an error of the current segment means: what cannot be
// read of it is told as a loss when the next one begins.
func (s *Scanner) passed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errGone):
		s.gone = true
	case !isDamage(err) && !isForeign(s.seg.path):
		return fmt.Errorf("scan %s: %w", s.seg.file(), err)
	}
	s.plan, s.run, s.after = nil, nil, s.last+1
	return nil
}

// share notes how far the scan is.
func (s *Scanner) share() {
	part := 0.0
	if s.last > 0 {
		part = float64(min(s.after, s.last+1)-1) / float64(s.last)
	}
	s.sharePerm.Store(uint64((float64(s.segAt-s.start) + part) / float64(max(1, len(s.segs)-s.start)) * 1000))
}

// look passes over the heads of the next blocks and plans which to read.
func (s *Scanner) look(ctx context.Context) error {
	to := min(s.last, s.after+headWindow-1)
	err := s.seg.scanHeads(ctx, s.after, to, func(st stored) error {
		s.meet(st)
		if st.err != nil {
			s.plan = append(s.plan, planned{st: st})
			return nil
		}
		if in, whole := s.selects(st.blk); in {
			s.plan = append(s.plan, planned{st: st, whole: whole, read: !whole || !s.span.HeadsOnly || s.doubtful(st.blk)})
		} else {
			s.skipped.Add(1)
		}
		return nil
	})
	s.sp.handles.used(s.seg)
	s.after = to + 1
	s.share()
	return err
}

// selects reports whether a block may hold records of the span, and whether
// all its records of the wanted shards lie in it, sequence numbers apart.
func (s *Scanner) selects(b *block) (in, whole bool) {
	if !slices.ContainsFunc(b.groups, func(g group) bool {
		k := s.shard(g.shard)
		return k != nil && g.first < k.end && g.first+uint64(g.count) > s.span.FirstSeq && (s.span.LastSeq == 0 || g.first <= s.span.LastSeq)
	}) {
		return false, false
	}
	w := &s.bounds
	if b.maxArr < w.since || b.minArr > w.until {
		return false, false
	}
	whole = b.minArr >= w.since && b.maxArr <= w.until
	if w.event {
		if b.maxEvt < w.sinceEvent || b.minEvt > w.untilEvent {
			return false, false
		}
		// The first and the last nanosecond stand for all beyond them, and for
		// what a head of version 1 does not tell.
		whole = whole && b.minEvt > minTime && b.maxEvt < math.MaxInt64 && b.minEvt >= w.sinceEvent && b.maxEvt <= w.untilEvent
	}
	return true, whole
}

// doubtful reports whether some of a block is known to be damaged, so that its
// head is not enough to count it.
func (s *Scanner) doubtful(b *block) bool {
	st := s.sp.state
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.ContainsFunc(b.groups, func(g group) bool {
		return slices.ContainsFunc(st.corrupt[g.shard], func(r corruptRange) bool {
			return r.from < g.first+uint64(g.count) && r.to > g.first
		})
	})
}

// fromPlan takes the next planned blocks.
func (s *Scanner) fromPlan(ctx context.Context) error {
	p := s.plan[0]
	if !p.read {
		s.plan = s.plan[1:]
		s.use(p.st, p.whole)
		return nil
	}
	n := 1
	for n < len(s.plan) && s.plan[n].read && s.plan[n].whole == p.whole && s.plan[n].st.id == p.st.id+int64(n) {
		n++
	}
	run, err := s.seg.readRun(ctx, p.st.id, p.st.id+int64(n)-1)
	s.sp.handles.used(s.seg)
	if err != nil {
		return err
	}
	if len(run) == 0 {
		s.plan = s.plan[1:]
		return nil
	}
	s.plan = s.plan[len(run):]
	s.whole = p.whole
	s.run = run
	return nil
}

// use makes a block the current one, or tells that it is lost.
func (s *Scanner) use(st stored, whole bool) {
	if st.blk == nil {
		return // its records are missed by their numbers
	}
	s.blocks.Add(1)
	if at, gone := s.sp.keys.gone(st.blk.key); gone {
		s.erased(st.blk, at)
		return
	}
	if st.err != nil {
		s.log.damaged(s.seg, st)
		for _, g := range st.blk.groups {
			if k := s.shard(g.shard); k != nil {
				s.lose(k, g.first, g.first+uint64(g.count), st.id, st.err)
			}
		}
		return
	}
	if whole {
		s.whole = true
	}
	s.blk, s.group, s.cur = st.blk, 0, groupReader{}
}

// enter goes to the next segment that may hold records of the span.
func (s *Scanner) enter(ctx context.Context) error {
	s.whole = s.simple()
	if !s.began {
		s.began = true
		k, err := s.first(ctx)
		if err != nil {
			return err
		}
		if k > 0 {
			for i := range s.shards {
				s.shards[i].next = 0
			}
		}
		s.start, s.segAt = k, k-1
	}
	s.segAt++
	if s.segAt >= len(s.segs) {
		if s.seg != nil {
			for i := range s.shards {
				s.reach(&s.shards[i], s.shards[i].end, s.last)
			}
		}
		s.sharePerm.Store(1000)
		s.seg, s.after, s.last = nil, 1, 0
		if len(s.faults) > 0 {
			return nil
		}
		return io.EOF
	}
	before := s.seg
	seg := s.segs[s.segAt]
	m, err := seg.loadMeta(ctx)
	s.sp.handles.used(seg)
	s.origin = &s.sp.origin
	if err == nil { // what the one before did not show is lost there
		s.seg = before
		over := s.span.LastSeq > 0
		for i := range s.shards {
			h := m.head(s.shards[i].sh.id)
			s.reach(&s.shards[i], min(h.next, s.shards[i].end), s.last)
			over = over && h.next > s.span.LastSeq
		}
		s.gone, s.origin = false, &m.origin
		if over {
			s.segAt = len(s.segs) - 1 // nothing behind it counts
			s.seg, s.after, s.last = nil, 1, 0
			return nil
		}
	}
	s.seg, s.after, s.last = seg, 1, 0
	if err != nil {
		return s.passed(err)
	}
	return s.passed(s.placeIn(ctx))
}

// placeIn chooses the blocks of the current segment to pass.
func (s *Scanner) placeIn(ctx context.Context) error {
	last, err := s.log.blocksOf(ctx, s.segs, s.segAt)
	if err != nil {
		return err
	}
	s.last = last
	if s.span.Since.IsZero() {
		return nil
	}
	x, err := s.log.indexOf(ctx, s.seg)
	if err != nil {
		return err
	}
	if s.after = x.byTime(s.bounds.since); s.after > 1 {
		s.skipped.Add(uint64(s.after - 1))
		for i := range s.shards {
			s.shards[i].next = 0
		}
	}
	return nil
}

// first is the first segment that may hold records of the span.
func (s *Scanner) first(ctx context.Context) (int, error) {
	n := len(s.segs)
	if n == 0 || s.span.Since.IsZero() && s.span.FirstSeq == 0 {
		return 0, nil
	}
	var failed error
	k := sort.Search(n-1, func(i int) bool {
		m, err := s.segs[i+1].loadMeta(ctx)
		s.sp.handles.used(s.segs[i+1])
		if err != nil {
			failed = err
			return true // rather one too many than one too few
		}
		// Both rise from segment to segment, whatever the clock did.
		if !s.span.Since.IsZero() && m.maxArr < s.bounds.since {
			return false
		}
		return s.span.FirstSeq == 0 || slices.ContainsFunc(s.shards, func(k scanShard) bool { return m.head(k.sh.id).next > s.span.FirstSeq })
	})
	if failed != nil && !isDamage(failed) && !errors.Is(failed, errGone) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, fmt.Errorf("scan log %d: %w", s.log.num, failed)
	}
	return k, nil
}
