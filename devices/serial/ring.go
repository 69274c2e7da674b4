package serial

import (
	"context"
	"slices"
	"sync"
	"time"
)

// lineCharge is what a waiting line costs besides its bytes.
const lineCharge = 64

type line struct {
	data []byte
	at   time.Time // when its end was read
}

func (l line) cost() int { return len(l.data) + lineCharge }

// A ring holds the lines that wait for the log, oldest first, bounded in bytes.
type ring struct {
	mu    sync.Mutex
	lines []line
	bytes int
	limit int
	more  chan struct{} // holds a token when a line came
}

func newRing(limit int) *ring { return &ring{limit: limit, more: make(chan struct{}, 1)} }

// push adds the newest line and returns how many of the oldest had to go.
func (r *ring) push(l line) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, l)
	r.bytes += l.cost()
	shed := r.trim()
	select {
	case r.more <- struct{}{}:
	default:
	}
	return shed
}

// putBack returns lines that take gave out, as the oldest.
func (r *ring) putBack(ls []line) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(slices.Clip(ls), r.lines...)
	for _, l := range ls {
		r.bytes += l.cost()
	}
	return r.trim()
}

func (r *ring) trim() (shed uint64) {
	for r.bytes > r.limit && len(r.lines) > 1 {
		r.bytes -= r.lines[0].cost()
		r.lines[0] = line{}
		r.lines = r.lines[1:]
		shed++
	}
	return shed
}

// take gives out up to n of the oldest lines.
func (r *ring) take(n int) []line {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = min(n, len(r.lines))
	out := append([]line(nil), r.lines[:n]...)
	for i, l := range out {
		r.bytes -= l.cost()
		r.lines[i] = line{}
	}
	r.lines = r.lines[n:]
	return out
}

// wait is take that waits for at least one line; nil when ctx ends.
func (r *ring) wait(ctx context.Context, n int) []line {
	for ctx.Err() == nil {
		if ls := r.take(n); len(ls) > 0 {
			return ls
		}
		select {
		case <-r.more:
		case <-ctx.Done():
		}
	}
	return nil
}
