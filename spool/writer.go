package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/spool/record"
)

// run is the log's writer. It ends when the log is closed and all that was
// queued is settled.
func (l *commitLog) run() {
	defer close(l.quiet)
	for {
		l.qmu.Lock()
		for l.q.empty() && !l.closing {
			l.cond.Wait()
		}
		if l.q.empty() {
			l.qmu.Unlock()
			return
		}
		l.pieces = l.q.take(min(txnBytes, l.segmentBytes()), l.pieces[:0])
		l.qmu.Unlock()
		l.settle(l.pieces)
		clear(l.pieces)
	}
}

// settle writes the pieces and tells those who wait for them.
func (l *commitLog) settle(pieces []piece) {
	l.pend = l.pend[:0]
	for _, p := range pieces {
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
			l.pend = append(l.pend, pe)
		}
	}
	var behind []*item
	if len(l.pend) > 0 {
		if err := l.store(); err != nil {
			for i := range l.pend {
				*l.pend[i].res = record.Result{Err: err}
			}
			behind = l.failBehind(pieces, err)
		}
		clear(l.pend)
	}
	var settled []*item
	for _, p := range pieces {
		if p.to == len(p.it.recs) && (len(settled) == 0 || settled[len(settled)-1] != p.it) {
			settled = append(settled, p.it)
		}
	}
	settled = append(settled, behind...)
	l.qmu.Lock()
	for _, it := range settled {
		l.q.release(it)
	}
	l.wake()
	l.qmu.Unlock()
	for _, it := range settled {
		it.done(it.res)
	}
	if l.failing != nil {
		l.qmu.Lock()
		l.failing = nil
		l.qmu.Unlock()
	}
}

// failBehind fails what waits of the sources of a failed commit, be it queued
// or on its way into the queue, and what they append until they were told:
// what comes later must not be stored before what its producer will send again.
func (l *commitLog) failBehind(pieces []piece, err error) []*item {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	l.failing = map[string]error{}
	var behind []*item
	for _, p := range pieces {
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
			behind = append(behind, it)
		}
	}
	for it := range l.waiting {
		if err := l.failing[it.source]; err != nil {
			it.behind = err
		}
	}
	return behind
}

// store writes l.pend. Where a commit fails, everything of it fails.
func (l *commitLog) store() error {
	need := int64(commitPages)
	for i := range l.pend {
		need += l.pend[i].need()
	}
	if err := l.writable(); err != nil {
		return err // before anything is dropped for it
	}
	if err := l.sp.makeRoom(l, need); err != nil {
		return err
	}
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.ready(); err != nil {
		return err
	}
	ctx := context.Background()
	chunkStart := l.w.chunkSize
	err := l.encode()
	if err == nil {
		start := time.Now()
		err = l.w.commit(ctx, l.blocks)
		l.sp.stats.lastFsync.Store(int64(time.Since(start)))
	}
	if err != nil {
		l.next = l.next[:0] // read again from what is published
		return l.failed(err, chunkStart, need)
	}
	l.stored(need)
	l.publish(l.blocks)
	clear(l.blocks)
	return nil
}

// encode makes l.blocks of l.pend, each up to maxBlock.
func (l *commitLog) encode() error {
	l.blocks = l.blocks[:0]
	for from := 0; from < len(l.pend); {
		size, to := 0, from
		for to < len(l.pend) {
			p := &l.pend[to]
			if len(p.rec.Blob) > 0 || p.outside() {
				if err := l.w.outside(p); err != nil {
					return err
				}
			}
			n := p.bound()
			if size > 0 && size+n > maxBlock {
				break
			}
			size += n
			to++
		}
		l.blocks = append(l.blocks, l.enc.encode(l.pend[from:to], l.next, l.ids, l.isQuarantine))
		from = to
	}
	return nil
}

func (l *commitLog) isQuarantine(slot int32) bool {
	return l.own[slot].stream.quarantine
}

// writable is nil where the log has an active segment or finds only no room for
// one.
func (l *commitLog) writable() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
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
	if l.w == nil {
		if err := l.reopen(); err != nil {
			return err
		}
	}
	if l.w.bytes >= l.segmentBytes() || (l.w.last > 0 && time.Since(l.rolled) >= l.rollAfter()) {
		if err := l.roll(); err != nil {
			// The old segment goes on; a full disk must not stop a log that
			// still finds room in its file.
			l.sp.raise("segment", 3, "a new segment of log "+logDir(l.num)+" could not be opened: "+err.Error())
		}
	}
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
		return max(min(l.sp.segmentBytes, m/8), 4*segmentPageSize)
	}
	return l.sp.segmentBytes
}

// rollAfter is how long a segment stays active.
func (l *commitLog) rollAfter() time.Duration {
	r := l.retention()
	if r.maxAge > 0 {
		return max(min(r.maxAge/8, time.Hour), time.Second)
	}
	return time.Hour
}

// failed says what a failed write means and takes the segment out of use
// where it cannot be trusted; wmu is held.
func (l *commitLog) failed(cause error, chunkStart, need int64) error {
	err := storeError(cause)
	if errors.Is(err, record.ErrFull) {
		if l.w.chunks != nil {
			// What the failed batch left in the chunk file is in the way.
			_ = l.w.chunks.Truncate(chunkStart)
			l.w.chunkSize, l.w.dirty = chunkStart, false
		}
		l.sp.diskFull(l, err, need)
		return err
	}
	l.bad.Add(1)
	l.suspect = err
	l.sp.retire(l, l.w)
	l.w = nil
	l.retryAt = time.Time{}
	kind := "fsync"
	if errors.Is(err, record.ErrReadOnly) {
		kind = "read-only"
	}
	l.sp.raise(kind, 1, fmt.Sprintf("%s could not be written: %v; what was not acknowledged will be sent again by its producers", logDir(l.num), cause))
	return err
}

// reopen starts a new segment after a failed write, once the old one was read
// back; wmu is held.
func (l *commitLog) reopen() error {
	if now := time.Now(); now.Before(l.retryAt) {
		return l.suspect
	}
	l.retryAt = time.Now().Add(time.Second)
	ctx := context.Background()
	old := l.active()
	if old == nil { // not even the first one could be opened
		if err := l.openFirst(ctx); err != nil {
			l.suspect = storeError(err)
			return l.suspect
		}
		l.suspect = nil
		return nil
	}
	var damaged int
	for id, last := int64(1), old.blocks.Load(); id <= last; {
		run, err := old.readRun(ctx, id, last)
		if err != nil {
			l.suspect = storeError(fmt.Errorf("verify %s: %w", old.file(), err))
			return l.suspect
		}
		for _, st := range run {
			if st.err != nil {
				damaged++
				l.damaged(old, st)
			}
			id = st.id + 1
		}
	}
	if err := l.openNext(ctx); err != nil {
		l.suspect = storeError(err)
		return l.suspect
	}
	l.sp.clear("read-only")
	l.log.Warn("log goes on in a new segment after a failed write", "segment", l.active().num, "cause", l.suspect, "damaged_blocks", damaged)
	l.suspect = nil
	return nil
}

// roll closes the active segment and opens the next; wmu is held.
func (l *commitLog) roll() error {
	old := l.w
	if err := l.openNext(context.Background()); err != nil {
		return err
	}
	l.sp.retire(l, old)
	return nil
}
