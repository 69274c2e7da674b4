package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// newClock reads the kernel: CLOCK_BOOTTIME, and adjtimex for whether the
// clock is kept right by anybody.
func newClock() clock {
	began := time.Now()
	return clock{
		now: time.Now,
		mono: func() time.Duration {
			var ts unix.Timespec
			if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
				return time.Since(began)
			}
			return time.Duration(ts.Nano())
		},
		synced: newSynced(func() bool {
			var tx unix.Timex
			state, err := unix.Adjtimex(&tx)
			return err == nil && state != timeError
		}),
	}
}

// timeError is TIME_ERROR of adjtimex(2): the clock is not synchronised.
const timeError = 5
