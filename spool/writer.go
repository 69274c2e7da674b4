package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/spool/record"
)

// A batch is what one commit holds, on its way from the queue to the disk.
type batch struct {
	pieces []piece
	pend   []pending
	blocks []*block
	w      *segWriter
	need   int64 // bytes on the disk, not less
	chunk  int64 // where the chunk file ended before
	beside bool  // something was written there
	syncs  uint64

	// Guarded by qmu.
	err    error   // it failed, or one before it did
	behind []*item // that fail with it without having been taken
	// telling is set while those who wait for it are told. Who has been told may
	// append again before all have.
	telling bool
}

// A pipeline carries batches from the encoder, which numbers records and
// writes what lies in the chunk file, to the committer, which syncs that, writes
// the blocks' rows and tells the producers. One batch is encoded while the one
// before is committed.
//
// What fails takes along all that was taken after it, so numbers are given
// again as if it had never been: see breakOff.
type pipeline struct {
	free chan *batch // empty ones
	next chan *batch // encoded ones, in order

	// Guarded by the log's qmu.
	busy  []*batch // taken and not settled, in order
	ahead int      // of them, those the committer was given
	fault *fault   // that the encoder has not looked at yet
}

// A fault is why numbers that were given ahead count no more.
type fault struct {
	err   error
	chunk int64 // the chunk file counts up to here
	// broken is set where the segment cannot be trusted any more.
	broken bool
}

func newPipeline() pipeline {
	p := pipeline{free: make(chan *batch, 2), next: make(chan *batch, 1)}
	p.free <- &batch{}
	p.free <- &batch{}
	return p
}

// run is the log's encoder. It ends when the log is closed and all that was
// queued is settled.
func (l *commitLog) run() {
	defer close(l.quiet)
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		for b := range l.pipe.next {
			l.land(b)
			l.pipe.free <- b
		}
	}()
	for {
		b := <-l.pipe.free
		if !l.gather(b) {
			break
		}
		l.prepare(b)
		l.qmu.Lock()
		l.pipe.ahead++
		l.qmu.Unlock()
		l.pipe.next <- b
	}
	close(l.pipe.next)
	<-committed
}

// gather waits until there is something to commit and takes it. false: the log
// is closed and nothing is left.
//
// While a commit is under way more gathers behind it: only what fills a commit
// by itself is encoded meanwhile, so that the running sync is the linger. On a
// disk whose syncs take long see linger.
func (l *commitLog) gather(b *batch) bool {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	for {
		for (l.q.empty() && !l.closing) || (len(l.pipe.busy) > 0 && l.q.untaken < aheadBytes && !l.closing) {
			l.cond.Wait()
		}
		if l.q.empty() {
			if len(l.pipe.busy) == 0 {
				return false
			}
			l.cond.Wait() // for the committer
			continue
		}
		if len(l.pipe.busy) == 0 {
			l.linger()
		}
		break
	}
	b.pieces = l.q.take(min(txnBytes, l.segmentBytes()), b.pieces[:0])
	l.pipe.busy = append(l.pipe.busy, b)
	return true
}

// prepare encodes a batch and writes what lies in the chunk file. Where that
// fails the committer finds b.err.
func (l *commitLog) prepare(b *batch) {
	b.pend, b.blocks, b.need, b.syncs, b.beside, b.w = b.pend[:0], b.blocks[:0], commitPages, 0, false, nil
	for _, p := range b.pieces {
		for i := p.from; i < p.to; i++ {
			if p.it.slots[i] < 0 {
				continue // outside the limits; its result is set
			}
			r := &p.it.recs[i]
			pe := pending{rec: r, res: &p.it.res[i], slot: p.it.slots[i], arr: p.it.arr, mono: int64(r.Mono)}
			if !r.Arrived.IsZero() {
				pe.arr = r.Arrived.UnixNano()
			}
			if pe.mono == 0 {
				pe.mono = p.it.mono
			}
			pe.most = int32(pe.bound())
			b.need += pe.need()
			b.pend = append(b.pend, pe)
		}
	}
	if len(b.pend) == 0 {
		return
	}
	// What fails before anything was numbered leaves nothing to undo.
	if err := l.writable(); err != nil {
		l.breakOff(b, err, nil)
		return
	}
	if err := l.sp.makeRoom(l, b.need); err != nil {
		l.breakOff(b, err, nil)
		return
	}
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.ready(); err != nil {
		if errors.Is(err, record.ErrFull) {
			l.sp.diskFull(l, err, b.need) // a new segment found no room
		}
		l.breakOff(b, err, nil)
		return
	}
	if l.failed(b) {
		return // one before it failed meanwhile
	}
	b.w, b.chunk = l.w, l.w.chunkSize
	l.enc.maxRow = l.pace.maxRow()
	if err := l.encode(b); err != nil {
		l.stumbled(b, err)
	}
	b.beside = l.w.chunkSize > b.chunk
}

// failed reports whether the batch is known to fail.
func (l *commitLog) failed(b *batch) bool {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	return b.err != nil
}

// encode makes b.blocks of b.pend, each up to maxBlock; wmu is held.
func (l *commitLog) encode(b *batch) error {
	if err := l.w.useKey(l.key.Load()); err != nil {
		return err
	}
	for from := 0; from < len(b.pend); {
		size, to := 0, from
		for to < len(b.pend) {
			p := &b.pend[to]
			n := int(p.most)
			if size > 0 && size+n > maxBlock {
				break // before anything of it is written
			}
			if len(p.rec.Blob) > 0 || p.outside() {
				if err := l.w.outside(p); err != nil {
					return err
				}
			}
			size += n
			to++
		}
		blk := l.enc.encode(b.pend[from:to], l.next, l.ids, l.isQuarantine)
		if err := l.w.take(blk); err != nil {
			return err
		}
		b.blocks = append(b.blocks, blk)
		from = to
	}
	return nil
}

func (l *commitLog) isQuarantine(slot int32) bool {
	return l.own[slot].stream.quarantine
}

// lockEmpty takes wmu when nothing is on its way to the disk, so that what is
// published is all there is.
func (l *commitLog) lockEmpty() {
	l.wmu.Lock()
	l.drain()
}

// drain waits until the committer has nothing left, and looks at what it found;
// wmu is held, so that nothing new comes.
func (l *commitLog) drain() {
	l.qmu.Lock()
	for l.pipe.ahead > 0 {
		l.cond.Wait()
	}
	f := l.pipe.fault
	l.pipe.fault = nil
	l.qmu.Unlock()
	if f != nil {
		l.absorb(f)
	}
}

// absorb takes back what a fault made void; wmu is held and nothing is under
// way.
func (l *commitLog) absorb(f *fault) {
	l.next = l.next[:0] // read again from what is published
	if l.w == nil {
		return
	}
	if f.broken {
		l.suspect = f.err
		l.sp.retire(l, l.w)
		l.w = nil
		l.retryAt = time.Time{}
		return
	}
	if err := l.w.undo(f.chunk); err != nil {
		l.log.Warn("what a failed commit left in the chunk file stays there", "error", err)
	}
	// A commit that a full disk cut in two may have left its mark in the WAL. Two
	// such would look like commits behind damage after a kill (waltail.go).
	if err := l.w.db.truncateWAL(context.Background()); err != nil {
		l.log.Debug("the WAL keeps what a failed commit left", "error", err)
	}
}

// faulty reports whether a fault waits to be absorbed.
func (l *commitLog) faulty() bool {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	return l.pipe.fault != nil
}

// writable is nil where the log has an active segment or finds only no room for
// one.
func (l *commitLog) writable() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.faulty() {
		l.drain()
	}
	if l.w != nil {
		return nil
	}
	now := !time.Now().Before(l.retryAt)
	err := l.reopen()
	if now && errors.Is(err, record.ErrFull) {
		l.retryAt = time.Time{} // once more when room is made for it
		return nil
	}
	return err
}

// ready sees to it that there is an active segment with room; wmu is held.
func (l *commitLog) ready() error {
	if l.faulty() {
		l.drain()
	}
	if l.w == nil {
		if err := l.reopen(); err != nil {
			return err
		}
	}
	due := l.w.bytes >= l.segmentBytes() || (l.w.nextID > 1 && time.Since(l.rolled) >= l.retention().roll())
	if due && !time.Now().Before(l.retryAt) {
		l.drain()
		if err := l.rollNow(); err != nil {
			if l.w == nil {
				return err
			}
			// The old segment goes on; a full disk must not stop a log that
			// still finds room in its file, nor make it try with each commit.
			l.retryAt = time.Now().Add(time.Second)
			l.sp.raise("segment", 3, "a new segment of log "+logDir(l.num)+" could not be opened: "+err.Error())
		}
	}
	l.makeAhead()
	l.mu.RLock()
	defer l.mu.RUnlock()
	for len(l.ids) < len(l.slots) {
		sh := l.slots[len(l.ids)]
		l.own, l.ids = append(l.own, sh), append(l.ids, sh.id)
	}
	for len(l.next) < len(l.slots) {
		l.next = append(l.next, l.slots[len(l.next)].next)
	}
	return nil
}

// segmentBytes is the size at which the active segment is closed.
func (l *commitLog) segmentBytes() int64 {
	if m := l.retention().maxBytes; m > 0 {
		return max(min(l.sp.segmentBytes, m/8), 16*segmentPageSize)
	}
	return l.sp.segmentBytes
}

// reopen starts a new segment after a failed write, once the old one was read
// back; wmu is held and nothing is under way.
func (l *commitLog) reopen() error {
	if now := time.Now(); now.Before(l.retryAt) {
		return l.suspect
	}
	l.retryAt = time.Now().Add(time.Second)
	ctx := context.Background()
	old := l.active()
	if old == nil { // not even the first one could be opened
		if err := l.openFirst(ctx); err != nil {
			l.suspect = l.sp.storeError(err)
			return l.suspect
		}
		l.suspect = nil
		return nil
	}
	damaged, err := l.verify(ctx, old)
	if err != nil {
		l.suspect = err
		return err
	}
	if err := l.openNext(ctx); err != nil {
		l.suspect = l.sp.storeError(err)
		return l.suspect
	}
	l.sp.clear("read-only")
	l.log.Warn("log goes on in a new segment after a failed write", "segment", l.active().num, "cause", l.suspect, "damaged_blocks", damaged)
	l.suspect = nil
	return nil
}

// verify reads a segment back up to its last good commit, and notes what is
// damaged in it.
func (l *commitLog) verify(ctx context.Context, seg *segment) (damaged int, err error) {
	for id, last := int64(1), seg.blocks.Load(); id <= last; {
		run, err := seg.readRun(ctx, id, last)
		if err != nil {
			return damaged, storeError(fmt.Errorf("verify %s: %w", seg.file(), err))
		}
		for _, st := range run {
			if st.err != nil {
				damaged++
				l.damaged(seg, st)
			}
			id = st.id + 1
		}
	}
	return damaged, nil
}

// roll closes the active segment and opens the next; wmu is held and nothing is
// under way.
func (l *commitLog) roll() error {
	old := l.w
	if err := l.openNext(context.Background()); err != nil {
		return err
	}
	l.sp.retire(l, old)
	return nil
}
