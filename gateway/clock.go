package main

import (
	"sync"
	"time"
)

// A clock is every time that the gateway reads. It is handed to the parts, so
// that none of them asks the machine by itself.
type clock struct {
	now    func() time.Time
	mono   func() time.Duration // since boot, suspended time included
	synced func() bool          // the machine says that its wall clock is right
}

// newSynced asks at most once a second: the answer changes slowly and the
// question is a system call.
func newSynced(ask func() bool) func() bool {
	var c struct {
		mu   sync.Mutex
		at   time.Time
		last bool
	}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if now := time.Now(); c.at.IsZero() || now.Sub(c.at) > time.Second {
			c.at, c.last = now, ask()
		}
		return c.last
	}
}
