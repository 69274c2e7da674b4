package spool

import (
	"sync"
	"time"

	"forebay/spool/record"
)

// maxPause is how much of the time between two openings counts as age where
// nothing vouches for the wall clock. A clock that is years ahead at start then
// makes nothing old.
const maxPause = 24 * time.Hour

// A timeSource is what the retention clock is made of, so that tests can let
// each of it say what they like. The product uses systemTime.
type timeSource struct {
	// mono is a time that nobody can set, from any beginning.
	mono func() time.Duration
	// synced reports whether the system vouches for its wall clock.
	synced func() bool
	// boot is the run of the machine and how long it has lasted.
	boot func() (record.BootID, time.Duration)
}

// A clock is the time by which records grow old. It runs with the monotonic
// clock while the spool is open and is carried over a restart in state.db;
// setting the wall clock does not move it. It reads like nanoseconds since
// 1970 but is only good for differences, and it never goes back.
type clock struct {
	src   timeSource
	since time.Duration // src.mono when opened

	mu   sync.Mutex
	base int64
	// sure is the last moment at which the system vouched for the wall clock.
	// owed says that a pause since then was counted by guess, and is made good
	// once the system vouches again.
	sure moment
	owed bool
}

// A moment is one point in time by both clocks; zero if there was none.
type moment struct{ clock, wall int64 }

// A clockStamp is what state.db keeps of a moment, so that the next opening
// can tell how long the pause was.
type clockStamp struct {
	moment
	sure moment // the last one with a wall clock that was vouched for
	boot record.BootID
	up   time.Duration // since boot
}

// newClock goes on from what was stored. Of the time since then there counts
// what the machine measured, where it has not booted in between; else what the
// wall clock says, but at least 0 and at most maxPause. Where the system
// vouches for the wall clock and did once before, all counts that lies between
// the two.
func newClock(old clockStamp, src timeSource, wall time.Time) *clock {
	c := &clock{src: src, since: src.mono(), sure: old.sure}
	if old.clock == 0 {
		c.base = wall.UnixNano()
		return c
	}
	boot, up := src.boot()
	same := boot == old.boot && boot != (record.BootID{}) && up >= old.up
	if same {
		c.base = old.clock + int64(up-old.up)
	} else {
		c.base = old.clock + min(max(wall.UnixNano()-old.wall, 0), int64(maxPause))
	}
	c.owed = old.sure != (moment{}) && (!same || old.sure != old.moment)
	c.settle(wall)
	return c
}

func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked()
}

func (c *clock) nowLocked() int64 { return c.base + int64(c.src.mono()-c.since) }

// settle counts what is owed of a pause, once the system vouches for the wall
// clock; it returns how much that was.
func (c *clock) settle(wall time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.owed || !c.src.synced() {
		return 0
	}
	c.owed = false
	short := max(c.sure.clock+wall.UnixNano()-c.sure.wall-c.nowLocked(), 0)
	c.base += short
	return time.Duration(short)
}

// stamp is what to store of this moment.
func (c *clock) stamp(wall time.Time) clockStamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := clockStamp{moment: moment{c.nowLocked(), wall.UnixNano()}}
	st.boot, st.up = c.src.boot()
	if !c.owed && c.src.synced() {
		c.sure = st.moment
	}
	st.sure = c.sure
	return st
}
