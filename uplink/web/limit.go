package web

import "sync"

// A Limit is how many bytes a request may hold at a target that answers 413 to
// larger ones and does not say how large they may be. After a refusal it falls,
// and it rises again with what is taken: by small steps, and after each refusal
// of such a step only when twice as many requests were taken, so that a limit
// that stays where it is is run into ever more seldom. It is safe for
// concurrent use.
type Limit struct {
	mu         sync.Mutex
	size, most int
	good       int  // the largest request taken; 0: none since a smaller one was refused
	wall       int  // good at the last refusal: what is larger and taken shows that the limit was raised
	wait, ok   int  // requests that must be taken for the next step, and those that were
	stepped    bool // since the last refusal
}

const (
	firstWait, lastWait = 16, 4096
	// steps is how many it takes from nothing to the most.
	steps = 32
)

// NewLimit begins with the most that a request may have.
func NewLimit(most int) *Limit { return &Limit{size: most, most: most, wait: firstWait} }

// Size is how many bytes the next request may hold.
func (l *Limit) Size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// Took learns from a request of n bytes that was taken.
func (l *Limit) Took(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.good = max(l.good, n)
	if l.size >= l.most || n < l.size/2 { // a small one proves nothing
		return
	}
	if l.wall > 0 && n > l.wall {
		l.wait, l.wall = firstWait, 0
	}
	if l.ok++; l.ok >= l.wait {
		l.stepped = true
		l.ok, l.size = 0, min(l.size+max(l.most/steps, 1), l.most)
	}
}

// Refused learns from a request of n bytes, of several records, that was too
// large.
func (l *Limit) Refused(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > l.size { // it was under way when another one told
		return
	}
	if l.good >= n {
		l.good = 0 // the limit was lowered
	}
	l.size = max(n/2, l.good, 1)
	if l.wall, l.ok = l.good, 0; l.stepped {
		l.stepped, l.wait = false, min(2*l.wait, lastWait)
	}
}

// PlausiblyLarge is how large a single record has to be for a target to call
// it too large before it has taken anything: one that takes batches takes that.
const PlausiblyLarge = 64 << 10
