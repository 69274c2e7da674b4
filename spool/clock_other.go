//go:build !linux

package spool

import (
	"time"

	"forebay/spool/record"
)

// systemTime knows nothing that vouches for the wall clock here, and no name
// for a run of the machine.
func systemTime() timeSource {
	began := time.Now()
	return timeSource{
		mono:   func() time.Duration { return time.Since(began) },
		synced: func() bool { return false },
		boot:   func() (record.BootID, time.Duration) { return record.BootID{}, 0 },
	}
}
