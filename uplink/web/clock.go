package web

import (
	"sync"
	"time"
)

// A clock tells the target's time: the Date of its last answer, plus what has
// passed since by the monotonic clock. The wall clock may jump meanwhile.
type clock struct {
	mu     sync.Mutex
	server time.Time // the target's time at the moment `local`; zero: not known
	local  time.Time // with its monotonic reading
}

func (c *clock) learn(server, local time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server, c.local = server, local
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server.IsZero() {
		return time.Now()
	}
	return c.server.Add(time.Since(c.local))
}

// offset is how far the target's clock is ahead of our wall clock.
func (c *clock) offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server.IsZero() {
		return 0
	}
	now := time.Now()
	// Round(0) drops the monotonic reading, so that both sides are wall time.
	return c.server.Add(now.Sub(c.local)).Round(0).Sub(now.Round(0))
}
