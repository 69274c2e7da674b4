package spool

import (
	"sync/atomic"
	"time"
)

const (
	// aheadBytes is what must wait for the next commit before it is encoded
	// while one is under way.
	aheadBytes = 256 << 10
	// lingerBytes is what is committed at once, however slow the disk.
	lingerBytes = 32 << 10
	// slowCommit is the commit time from which a disk is worth waiting for.
	slowCommit = 3 * time.Millisecond
	// comeBack is how soon a producer that waited for its acknowledgement
	// appends again.
	comeBack = time.Millisecond
	// maxLinger bounds how long a record waits for company.
	maxLinger = 80 * time.Millisecond
)

// told is whom the last commit's end was told.
type told struct {
	items  uint64
	pushed uint64 // items ever queued when it began
}

// A pace knows how long small commits take. On a disk whose syncs are slow a
// few milliseconds more let many small records share one: less is written per
// record, and the sync is not repeated for each.
type pace struct {
	small atomic.Int64 // a running mean over small commits, ns
	alone atomic.Int32 // commits in a row that held one producer's records only
}

// committed notes how long a commit of about n bytes took.
func (p *pace) committed(took time.Duration, n int64) {
	if n > 256<<10 {
		return
	}
	old := p.small.Load()
	if old == 0 {
		old = int64(took)
	}
	p.small.Store(old + (int64(took)-old)/8)
}

// maxRow is the largest body that lies in the block's row, bytes as stored.
// More goes to the chunk file: a row is written twice, to the WAL and to the
// file, but needs no sync of its own, which is dear where syncs are slow
// (docs/decisions/0010).
func (p *pace) maxRow() int {
	if time.Duration(p.small.Load()) < slowCommit {
		return 64 << 10
	}
	return 192 << 10
}

// linger is how long to wait for more, and how long a pause in it ends the
// wait; zero on a fast disk.
func (p *pace) linger() (most, gap time.Duration) {
	small := time.Duration(p.small.Load())
	if small < slowCommit || p.alone.Load() >= 2 {
		return 0, 0
	}
	return min(6*small, maxLinger), small / 2
}

// linger waits for company on a slow disk; qmu is held. It ends when enough
// waits to be worth a commit, when nothing more came for half a commit's time,
// and in any case after maxLinger. Producers that wait for each acknowledgement
// come back at once or not at all: one that is alone is not made to wait, and
// where half of those that were told last are back within a millisecond it is
// only waited for the others of them.
func (l *commitLog) linger() {
	if most, gap := l.pace.linger(); most > 0 {
		start := time.Now()
		last, seen := start, l.q.pushed
		for l.q.untaken < lingerBytes && !l.closing {
			back := l.q.pushed - l.told.pushed
			if 2*back >= l.told.items && time.Since(start) < comeBack {
				gap = min(gap, comeBack)
			}
			if back >= l.told.items && gap <= comeBack {
				break
			}
			d := min(most-time.Since(start), gap-time.Since(last))
			if d <= 0 {
				break
			}
			timer := time.AfterFunc(d, func() {
				l.qmu.Lock()
				l.cond.Broadcast()
				l.qmu.Unlock()
			})
			l.cond.Wait()
			timer.Stop()
			if l.q.pushed != seen {
				last, seen = time.Now(), l.q.pushed
			}
		}
	}
	if l.q.items == 1 {
		l.pace.alone.Add(1)
	} else {
		l.pace.alone.Store(0)
	}
}
