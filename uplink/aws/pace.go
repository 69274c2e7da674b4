package aws

import (
	"sync"
	"time"
)

// A Pace is how many bytes a request may hold, so that a slow link passes it
// well within the request's timeout. It is safe for concurrent use.
type Pace struct {
	// Most is what a request may hold on the best of links.
	Most int

	mu    sync.Mutex
	limit int // 0: nothing is known yet
}

const (
	minPace = 16 << 10
	// slowest is the link on which a record that is larger than the pace may
	// take its time, in bytes a second.
	slowest = 16 << 10
)

// Size is how many bytes the next request may hold.
func (p *Pace) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size()
}

func (p *Pace) size() int {
	if p.limit == 0 {
		p.limit = p.Most / 8
	}
	return p.limit
}

// Timeout is how long a request of n bytes may take, where timeout is what one
// of the usual size may.
func (p *Pace) Timeout(n int, timeout time.Duration) time.Duration {
	if over := n - 2*p.Size(); over > 0 {
		timeout += time.Duration(over) * time.Second / slowest
	}
	return timeout
}

// Took learns from a request of n bytes that took d.
func (p *Pace) Took(n int, d, timeout time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.size()
	switch {
	case d >= timeout:
		p.limit = max(limit/4, minPace)
	case d >= timeout/3:
		p.limit = max(limit/2, minPace)
	case err == nil && d < timeout/8 && n >= limit:
		p.limit = min(limit*2, p.Most)
	}
}
