package spool

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sort"

	"forebay/spool/record"
)

// cold reads the segments. false without an error: look again.
func (r *Reader) cold(ctx context.Context, segs []*segment, next uint64) (bool, error) {
	for {
		if found, err := r.fromRun(); found || err != nil {
			return found, err
		}
		if r.takeFed() {
			continue
		}
		i, err := r.segmentOf(ctx, segs)
		if err != nil {
			return false, err
		}
		end, err := r.sh.headAt(ctx, segs, i+1, next)
		if err != nil {
			return false, err
		}
		if segs[i] != r.seg {
			r.seg, r.after = segs[i], 1
			if err := r.place(ctx, segs, i); err != nil {
				if isDamage(err) || isForeign(r.seg.path) {
					return false, r.damage(r.seg, 0, end, err)
				}
				r.seg = nil // it passes by itself
				return false, err
			}
			r.follow()
			if r.takeFed() || r.seg == nil { // what was read may be forgotten at once
				continue
			}
		}
		last, err := r.sh.log.blocksOf(ctx, segs, i)
		if err == nil && r.after > last {
			// Passed the whole segment without meeting pos.
			r.seg = nil
			return false, r.damage(segs[i], 0, end, errors.New("records are missing"))
		}
		if err == nil && r.fed.Load() {
			x := stretch{seg: r.seg, last: last}
			if i+1 < len(segs) {
				x.next = segs[i+1]
			}
			err = r.lead(ctx, x)
			if err == nil {
				continue
			}
		} else if err == nil {
			r.run, err = r.sh.log.readRun(ctx, r.seg, r.after, last)
		}
		switch {
		case err != nil && (isDamage(err) || isForeign(segs[i].path)):
			r.seg = nil
			return false, r.damage(segs[i], 0, end, err)
		case err != nil:
			return false, err
		case len(r.run) == 0:
			r.after = last + 1
		default:
			r.after = r.run[len(r.run)-1].id + 1
		}
	}
}

// warm leaves the segments: what is wanted is in memory, or not there yet.
func (r *Reader) warm() {
	r.run, r.seg = nil, nil
	if r.fed.Load() {
		r.fed.Store(false)
		r.sh.log.feeds.leave(r.feed)
		r.feed.stand(nil, 0)
	}
}

// follow lets others bring what lies behind r.after.
func (r *Reader) follow() {
	if r.feed == nil {
		return
	}
	r.fed.Store(true)
	r.feed.enter(r.seg, r.after)
	r.sh.log.feeds.join(r.feed)
	select {
	case <-r.closed:
		r.sh.log.feeds.leave(r.feed)
	default:
	}
}

// takeFed takes what others have brought; false if that is nothing.
func (r *Reader) takeFed() bool {
	if !r.fed.Load() {
		return false
	}
	parts, after, ok := r.feed.take(r.seg)
	if !ok {
		r.warm() // what was read was forgotten; it is found again by its number
		return false
	}
	r.run, r.after = parts, after
	return len(parts) > 0
}

// lead reads blocks for all cursors of the log that follow here, and takes its
// own part of them. It begins with the hindmost of those that are near and reads
// as many as its own feed holds: cursors whose shards have more or fewer records
// than others stand at different places, and each such stretch brings those
// together that stand within it.
func (r *Reader) lead(ctx context.Context, x stretch) error {
	l := r.sh.log
	select {
	case l.feeds.lead <- struct{}{}:
		defer func() { <-l.feeds.lead }()
	case <-r.feed.came:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.closed:
		return record.ErrClosed
	}
	if r.takeFed() || !r.fed.Load() || r.after > x.last {
		return nil // others were faster
	}
	var run []stored
	for n, from := 0, l.feeds.hindmost(x.seg, r.after); n < leadMost && from <= x.last; {
		more, err := l.readBlocks(ctx, x.seg, from, x.last)
		if err != nil && from < r.after {
			from = r.after
			continue
		}
		if err != nil {
			if n == 0 {
				return err
			}
			break // it is met again by who stands there
		}
		run = more
		goOn := l.feeds.share(x, from, run)
		if len(run) == 0 {
			break
		}
		if from = run[len(run)-1].id + 1; from > r.after {
			n++
		}
		// What its own feed had no room for, it takes from this run.
		if !r.feed.reached(x.seg, from) || n > 0 && !goOn {
			break
		}
	}
	if r.takeFed() || !r.fed.Load() {
		return nil
	}
	// Nothing of its shard is in there, or more than a feed holds.
	i := slices.IndexFunc(run, func(st stored) bool { return st.id >= r.after })
	switch {
	case i >= 0:
		r.run, r.after = []stored{run[i].of(r.sh.id)}, run[i].id+1
	case len(run) == 0:
		r.after = x.last + 1
	default:
		return nil
	}
	r.feed.stand(r.seg, r.after)
	return nil
}

// readBlocks is segment.readRun through the cache that readers share.
func (l *commitLog) readBlocks(ctx context.Context, seg *segment, from, to int64) ([]stored, error) {
	if run := l.sp.cold.run(seg, from, to); run != nil {
		return run, nil
	}
	run, err := seg.readRun(ctx, from, to)
	l.sp.stats.read.Add(uint64(len(run)))
	l.sp.handles.used(seg)
	l.sp.cold.add(seg, run)
	return run, err
}

// readRun is readBlocks for a reader that reads for itself alone.
func (l *commitLog) readRun(ctx context.Context, seg *segment, from, to int64) ([]stored, error) {
	run, err := l.readBlocks(ctx, seg, from, to)
	for i, size := 0, int64(0); i < len(run); i++ { // the rest is found again
		if size >= readerBytes {
			return slices.Clone(run[:i]), err
		}
		if run[i].blk != nil {
			size += run[i].blk.size()
		}
	}
	return run, err
}

// fromRun looks for pos in what was read.
func (r *Reader) fromRun() (bool, error) {
	for len(r.run) > 0 {
		st := r.run[0]
		if st.blk != nil {
			if g, ok := st.group(r.sh.id); ok && g.first+uint64(g.count) > r.pos {
				if g.first > r.pos {
					return false, r.damage(r.seg, st.id-1, g.first, errors.New("records are missing"))
				}
				r.run[0], r.run = stored{}, r.run[1:]
				if e, gone := r.erasedSince(st.blk); gone {
					return false, r.erased(g, e)
				}
				if st.err != nil {
					r.sh.log.damaged(r.seg, st)
					return false, r.damage(r.seg, st.id, g.first+uint64(g.count), st.err)
				}
				if st.part != nil {
					r.use(st.part.reader(st.blk, r.sh.log.num))
				} else {
					r.use(newGroupReader(st.blk, g, r.sh.log.num))
				}
				return true, nil
			}
		}
		r.run[0], r.run = stored{}, r.run[1:]
	}
	r.run = nil
	return false, nil
}

// place chooses the block to begin with in a segment that is entered.
func (r *Reader) place(ctx context.Context, segs []*segment, i int) error {
	head, err := r.sh.headAt(ctx, segs, i, 0)
	if err != nil || r.pos <= head {
		return err // the segment's first record of the shard: from its beginning
	}
	if _, err := r.sh.log.blocksOf(ctx, segs, i); err != nil {
		return err
	}
	x, err := r.sh.log.indexOf(ctx, segs[i])
	if err != nil {
		return err
	}
	r.after = x.bySeq(r.sh.id, r.pos)
	return nil
}

// segmentOf finds the segment that should hold pos.
func (r *Reader) segmentOf(ctx context.Context, segs []*segment) (int, error) {
	var failed error
	head := func(i int) uint64 {
		h, err := r.sh.headAt(ctx, segs, i, ^uint64(0))
		if err != nil {
			failed = err
		}
		return h
	}
	if r.seg != nil { // most often the same one or its neighbour
		if k, ok := slices.BinarySearchFunc(segs, r.seg.num, func(s *segment, n uint64) int { return cmp.Compare(s.num, n) }); ok {
			for ; k < len(segs) && k >= 0 && failed == nil; k++ {
				if head(k+1) > r.pos {
					return k, failed
				}
				if k > 0 && segs[k-1] == r.seg {
					break
				}
			}
		}
	}
	i := sort.Search(len(segs), func(i int) bool { return head(i) > r.pos }) - 1
	return max(i, 0), failed
}

// headAt is the shard's number where segs[i] begins, or behind the last of
// them.
func (sh *shard) headAt(ctx context.Context, segs []*segment, i int, behind uint64) (uint64, error) {
	if i >= len(segs) {
		return behind, nil
	}
	m, err := segs[i].loadMeta(ctx)
	sh.log.sp.handles.used(segs[i])
	if err != nil {
		return 0, err
	}
	return m.head(sh.id).next, nil
}

// blocksOf is how many blocks of segs[i] count. What lies behind them was
// never acknowledged.
func (l *commitLog) blocksOf(ctx context.Context, segs []*segment, i int) (int64, error) {
	if n := segs[i].blocks.Load(); n >= 0 {
		return n, nil
	}
	n := int64(-1)
	if i+1 < len(segs) {
		if m, err := segs[i+1].loadMeta(ctx); err == nil {
			n = m.prevBlocks
		}
	}
	if n < 0 {
		var err error
		if n, err = segs[i].lastBlock(ctx); err != nil {
			return 0, err
		}
	}
	segs[i].blocks.Store(n)
	return n, nil
}

func (l *commitLog) indexOf(ctx context.Context, seg *segment) (*segIndex, error) {
	x, err := seg.indexed(ctx)
	l.sp.handles.used(seg)
	return x, err
}
