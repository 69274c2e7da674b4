package spool

import "time"

// maxPause is how much of the time between two openings counts as age. A clock
// that is years ahead at start then makes nothing old.
const maxPause = 24 * time.Hour

// A clock is the time by which records grow old. It runs with the monotonic
// clock while the spool is open and is carried over a restart in state.db;
// setting the wall clock does not move it. It reads like nanoseconds since
// 1970 but is only good for differences.
type clock struct {
	base  int64
	since time.Time // has the monotonic reading
}

// newClock goes on from what was stored: the clock and the wall time then.
func newClock(stored, storedWall int64, wall time.Time) clock {
	if stored == 0 {
		return clock{base: wall.UnixNano(), since: time.Now()}
	}
	pause := min(max(wall.UnixNano()-storedWall, 0), int64(maxPause))
	return clock{base: stored + pause, since: time.Now()}
}

func (c clock) now() int64 { return c.base + int64(time.Since(c.since)) }
