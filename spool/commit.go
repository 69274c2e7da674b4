package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"forebay/spool/record"
)

// land commits an encoded batch and tells those who wait for it. It runs on the
// committer, in the order of the batches.
func (l *commitLog) land(b *batch) {
	if len(b.blocks) > 0 && !l.failed(b) {
		start := time.Now()
		var err error
		if b.beside {
			err = b.w.syncChunks()
			b.syncs++
		}
		if err == nil {
			err = b.w.commit(context.Background(), b.blocks)
		}
		if err != nil {
			l.stumbled(b, err)
		} else {
			l.pace.committed(time.Since(start), b.need)
			l.sp.stats.lastFsync.Store(int64(time.Since(start)))
			b.syncs++
			l.stored(b.need)
			l.publish(b)
		}
	}
	l.settle(b)
}

// stumbled says what a failed write means, and takes along all that was taken
// after the batch.
func (l *commitLog) stumbled(b *batch, cause error) {
	err := l.sp.storeError(cause)
	f := &fault{err: err, chunk: b.chunk}
	if errors.Is(err, record.ErrFull) {
		l.sp.diskFull(l, err, b.need)
	} else {
		f.broken = true
		l.bad.Add(1)
		kind := "fsync"
		if errors.Is(err, record.ErrReadOnly) {
			kind = "read-only"
		}
		l.sp.raise(kind, 1, fmt.Sprintf("%s could not be written: %v; what was not acknowledged will be sent again by its producers", logDir(l.num), cause))
	}
	l.breakOff(b, err, f)
}

// breakOff fails a batch, every batch that was taken after it, and what waits
// of their sources, be it queued or on its way into the queue; and what those
// sources append until they were told. What comes later must not be stored
// before what its producer will send again.
func (l *commitLog) breakOff(b *batch, err error, f *fault) {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	if f != nil {
		if old := l.pipe.fault; old != nil {
			f.chunk, f.broken = min(f.chunk, old.chunk), f.broken || old.broken
		}
		l.pipe.fault = f
	}
	if l.failing == nil {
		l.failing = map[string]error{}
	}
	after, last := false, l.pipe.busy[len(l.pipe.busy)-1]
	for _, one := range l.pipe.busy {
		after = after || one == b
		if after && one.err == nil {
			one.err = err
			l.failBehind(one, last, err)
		}
	}
}

// failBehind fails what waits behind a failed batch. It is told with the last
// batch that was taken, because the queue is behind that. qmu is held.
func (l *commitLog) failBehind(b, last *batch, err error) {
	for _, p := range b.pieces {
		if l.failing[p.it.source] != nil {
			continue
		}
		l.failing[p.it.source] = err
		for _, it := range l.q.drop(p.it.source) {
			for i := it.taken; i < len(it.recs); i++ {
				if it.slots[i] >= 0 {
					it.res[i] = record.Result{Err: err}
				}
			}
			last.behind = append(last.behind, it)
		}
	}
	for it := range l.waiting {
		if err := l.failing[it.source]; err != nil {
			it.behind = err
		}
	}
}

// settle tells those who wait for a batch what became of it.
func (l *commitLog) settle(b *batch) {
	var settled []*item
	l.qmu.Lock()
	for _, p := range b.pieces {
		if b.err != nil {
			for i := p.from; i < p.to; i++ {
				if p.it.slots[i] >= 0 {
					p.it.res[i] = record.Result{Err: b.err}
				}
			}
		}
		if p.to == len(p.it.recs) && (len(settled) == 0 || settled[len(settled)-1] != p.it) {
			settled = append(settled, p.it)
		}
	}
	settled = append(settled, b.behind...)
	for _, it := range settled {
		l.q.release(it)
	}
	l.told = told{uint64(len(settled)), l.q.pushed}
	b.telling = true
	l.wake()
	l.qmu.Unlock()
	for _, it := range settled {
		it.done(it.res)
	}
	l.qmu.Lock()
	defer l.qmu.Unlock()
	l.pipe.busy = append(l.pipe.busy[:0], l.pipe.busy[1:]...)
	l.pipe.ahead--
	for source := range l.failing {
		if l.lastTold(source) {
			delete(l.failing, source)
			l.wake()
		}
	}
	clear(b.pieces)
	clear(b.pend)
	clear(b.blocks)
	b.err, b.behind, b.w, b.telling = nil, nil, nil, false
	l.cond.Broadcast()
}

// lastTold reports whether all that failed of a source has been told, or is
// being told now; qmu is held.
func (l *commitLog) lastTold(source string) bool {
	for _, b := range l.pipe.busy {
		if b.err != nil && !b.telling && b.holds(source) {
			return false
		}
	}
	return true
}

// holds reports whether something of the source is settled with the batch.
func (b *batch) holds(source string) bool {
	return slices.ContainsFunc(b.pieces, func(p piece) bool { return p.it.source == source }) ||
		slices.ContainsFunc(b.behind, func(it *item) bool { return it.source == source })
}

// publish makes a committed batch visible to readers and wakes them.
func (l *commitLog) publish(b *batch) {
	seg := b.w.seg
	var recs uint64
	var payload, rows, written int64
	l.mu.Lock()
	for _, blk := range b.blocks {
		rows += blk.row()
		if blk.beside() {
			written += int64(len(blk.stored)) + chunkHeader
		}
		blk.stored = nil
		seg.index.add(blk)
		l.count(blk)
		for i, g := range blk.groups {
			sh := l.shardByID(g.shard)
			sh.tail = append(sh.tail, tailEntry{blk.groups[i], blk})
			sh.wake()
			payload += g.outside
			written += g.outside
		}
		recs += uint64(blk.count)
		payload += int64(blk.rawLen)
		l.cached = append(l.cached, blk)
		l.cachedLen += blk.size() + 512
	}
	seg.blocks.Store(b.w.last)
	l.evict()
	l.mu.Unlock()
	// Rows go to the WAL in whole pages and, many together, to the file.
	written += (rows/segmentPageSize+2)*segmentPageSize + rows
	seg.closed.Store(l.sp.clock.now())
	before := seg.size.Load()
	l.sp.used.Add(seg.measure() - before)
	l.sp.stats.committed(recs, payload, written, b.syncs, l.sp.now())
}
