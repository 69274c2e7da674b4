package kinesisapi

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// stallPatience is how long a client may keep what it holds waiting while
	// others find no room.
	stallPatience = 2 * time.Second
	// roomPatience is how long a request waits for room.
	roomPatience = 3 * time.Second
	// roomTick is how often one who waits looks whether another has stalled.
	roomTick = 50 * time.Millisecond
	// smallLoan is what a loan may come to before it must leave a quarter of the
	// pool to others: most requests are small, and find room also where large
	// ones have to wait.
	smallLoan = 1 << 20
	// smallAnswer is what a connection's buffers take, so that nobody waits for
	// the client.
	smallAnswer = 4 << 10
)

// A pool is memory that is shared by all clients: its value is how many bytes
// are held. Nobody has a share of his own as long as there is enough. Where
// there is not, those whose client has kept them waiting for stallPatience,
// sending its body or taking its answer, are cut off, the longest first: who
// sends and reads as he should finds room however many others do not.
type pool struct {
	atomic.Int64
	most int64

	mu      sync.Mutex
	stalled map[*loan]stalled
	waiting atomic.Int32
	freed   chan struct{} // closed when something is given back while one waits
}

type stalled struct {
	since time.Time
	until deadline
	held  int64
}

// A deadline moves the end of reading a request's body, or of writing its
// answer.
type deadline func(time.Time) error

// A loan is what one request or subscription holds of a pool. It is used by
// one goroutine.
type loan struct {
	held *pool
	n    atomic.Int64 // bytes
	slow bool         // between stall and goOn
}

// take takes n bytes more, for which it waits and has others cut off; false if
// there were not so many within roomPatience.
func (l *loan) take(n int64) bool {
	return l.takeWithin(n, l.share(n)) || l.await(n, nil, roomPatience)
}

// share is how much all together may hold once l has n bytes more.
func (l *loan) share(n int64) int64 {
	if l.n.Load()+n > smallLoan {
		return l.held.most - l.held.most/4
	}
	return l.held.most
}

// takeWithin takes n bytes more if all together then hold no more than limit.
func (l *loan) takeWithin(n, limit int64) bool {
	for {
		have := l.held.Load()
		if have+n > limit {
			return false
		}
		if l.held.CompareAndSwap(have, have+n) {
			l.n.Add(n)
			return true
		}
	}
}

// await waits for n bytes; false if they did not come in time, or done was
// closed before.
func (l *loan) await(n int64, done <-chan struct{}, patience time.Duration) bool {
	p := l.held
	limit := l.share(n)
	if n > limit {
		return false
	}
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(roomTick)
	defer tick.Stop()
	for {
		p.mu.Lock()
		if p.freed == nil {
			p.freed = make(chan struct{})
		}
		freed := p.freed
		p.mu.Unlock()
		if l.takeWithin(n, limit) {
			return true
		}
		p.cut(n, time.Now())
		select {
		case <-freed:
		case <-tick.C:
		case <-end.C:
			return l.takeWithin(n, limit)
		case <-done:
			return false
		}
	}
}

// cut cuts off as many of those that have stalled as hold n bytes. One who got
// another deadline just then is cut off again the next time.
func (p *pool) cut(n int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ripe []stalled
	for l, s := range p.stalled {
		if s.held = l.n.Load(); s.held > 0 && now.Sub(s.since) >= stallPatience {
			ripe = append(ripe, s)
		}
	}
	slices.SortFunc(ripe, func(a, b stalled) int { return a.since.Compare(b.since) })
	for _, s := range ripe {
		if n <= 0 {
			return
		}
		n -= s.held
		// An error means that the request has come to its end by itself.
		_ = s.until(now.Add(-time.Second))
	}
}

// stall says that from now on it is the client who is waited for. until ends
// the waiting; it is not called any more once goOn has returned.
func (l *loan) stall(until deadline) {
	l.slow = true
	l.held.mu.Lock()
	defer l.held.mu.Unlock()
	if l.held.stalled == nil {
		l.held.stalled = make(map[*loan]stalled)
	}
	l.held.stalled[l] = stalled{since: time.Now(), until: until}
}

// goOn says that the client is not waited for any more.
func (l *loan) goOn() {
	l.slow = false
	l.held.mu.Lock()
	defer l.held.mu.Unlock()
	delete(l.held.stalled, l)
}

// give gives n bytes back.
func (l *loan) give(n int64) {
	l.n.Add(-n)
	l.held.Add(-n)
	l.held.wake()
}

// giveBack gives all back, at the end.
func (l *loan) giveBack() {
	if l.slow { // a panic came between
		l.goOn()
	}
	l.give(l.n.Load())
}

// wake lets those who wait for room look again.
func (p *pool) wake() {
	if p.waiting.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.freed != nil {
		close(p.freed)
		p.freed = nil
	}
}
